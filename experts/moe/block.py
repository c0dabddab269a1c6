"""The routed layer that stands in for transformers' Qwen3Moe block while a model trains: same weights, same names on disk.

In evaluation it computes what transformers' own block computes. It keeps tallies of where tokens went; schedules, losses and
what the tallies mean are control.py's and health.py's. Legend as in routing.py, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen3_moe import modeling_qwen3_moe as stock

from experts.moe import routing
from experts.moe.compute import sort_by_expert, swiglu_experts
from experts.moe.routing import Dials, Routing

SUMS = ("tokens", "top1_probability", "entropy", "balance", "batches")


class MoeBlock(nn.Module):
    """A router (gate.weight, E x D) and its experts (experts.gate_up_proj, experts.down_proj), taken over from a stock block."""

    choice_bias: Tensor | None
    demand_E: Tensor
    served_E: Tensor
    step_demand_E: Tensor
    sums: Tensor

    def __init__(self, block: Any, *, top_k: int, normalize: bool, choice_bias: bool = False) -> None:
        super().__init__()
        self.gate: Any = block.gate
        self.experts: Any = block.experts if hasattr(block.experts, "gate_up_proj") else StackedExperts(block.experts)
        self.top_k, self.normalize = top_k, normalize
        self.dials: Dials | None = None  # None: never trained by us
        self.used_N: Tensor | None = None
        self.balance, self.z = torch.zeros(()), torch.zeros(())  # of the last training forward
        self.register_buffer("choice_bias", torch.zeros(self.gate.weight.size(0)) if choice_bias else None)

    @property
    def expert_count(self) -> int:
        """E."""
        return int(self.gate.weight.size(0))

    def prepare_training(self, dials: Dials) -> None:
        """Take the dials and begin tallies: buffers, so that a saved training state has them; no folder does."""
        self.dials = dials
        zeros = torch.zeros(self.expert_count, device=self.gate.weight.device)
        for name in ("demand_E", "served_E", "step_demand_E"):
            self.register_buffer(name, zeros.clone(), persistent=False)
        self.register_buffer("sums", torch.zeros(len(SUMS), device=zeros.device), persistent=False)

    def forget(self) -> None:
        """Begin the tallies anew."""
        for tally in (self.demand_E, self.served_E, self.sums):
            tally.zero_()

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # sizes that change with every batch: compiled, it would be compiled for ever
    def forward(self, hidden_states: Tensor) -> Tensor:
        """B x T x D in and out."""
        x_ND = hidden_states.reshape(-1, hidden_states.size(-1))
        dials = self.dials if self.training else None
        with torch.autocast(x_ND.device.type, enabled=False):
            logits_NE = F.linear(x_ND.float(), self.gate.weight.float())
            found = routing.route(logits_NE, top_k=self.top_k, normalize=self.normalize, bias_E=self.choice_bias, dials=dials)
            if dials is not None:
                self._note(logits_NE, found)
        order = sort_by_expert(found.chosen_NK, experts=self.expert_count, served_NK=found.served_NK)
        y_ND = swiglu_experts(x_ND, order, found.weight_NK, gate_up_EID=self.experts.gate_up_proj, down_EDI=self.experts.down_proj,
                              act=self.experts.act_fn)
        return y_ND.to(hidden_states.dtype).view_as(hidden_states)

    def _note(self, logits_NE: Tensor, found: Routing) -> None:
        """Losses of this forward, and the tallies."""
        used_N = None if self.used_N is None or len(self.used_N) != len(logits_NE) else self.used_N.to(logits_NE.dtype)
        used_NK = None if used_N is None else used_N[:, None].expand_as(found.chosen_NK)
        demand_E = routing.counts(found.chosen_NK, experts=self.expert_count, of_NK=used_NK)
        self.balance = routing.balance_loss(found.probability_NE, demand_E, used_N=used_N)
        self.z = routing.z_loss(logits_NE, used_N=used_N)
        with torch.no_grad():
            p_NE = found.probability_NE.detach()
            one_N = torch.ones_like(p_NE[:, 0]) if used_N is None else used_N
            top1_N = p_NE.gather(-1, found.chosen_NK[:, :1])[:, 0]
            entropy_N = -torch.xlogy(p_NE, p_NE).sum(-1)
            served_E = demand_E
            if found.served_NK is not None:
                served_E = routing.counts(found.chosen_NK, experts=self.expert_count, of_NK=found.served_NK * one_N[:, None])
            self.demand_E += demand_E
            self.served_E += served_E
            self.step_demand_E += demand_E
            self.sums += torch.stack([one_N.sum(), (top1_N * one_N).sum(), (entropy_N * one_N).sum(), self.balance.detach(), torch.ones_like(one_N[0])])


class StackedExperts(nn.Module):
    """Experts of transformers before 5, where each is a module of its own, as two stacked tensors; on disk they stay apart."""

    def __init__(self, experts: Any) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.stack([torch.cat([one.gate_proj.weight, one.up_proj.weight]) for one in experts]).detach())
        self.down_proj = nn.Parameter(torch.stack([one.down_proj.weight for one in experts]).detach())
        self.act_fn = experts[0].act_fn
        self._register_state_dict_hook(_taken_apart)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}0.down_proj.weight" in state_dict:
            every = range(len(self.down_proj))
            parts = {kind: torch.stack([state_dict.pop(f"{prefix}{expert}.{kind}_proj.weight") for expert in every]) for kind in ("gate", "up", "down")}
            state_dict[f"{prefix}gate_up_proj"] = torch.cat([parts["gate"], parts["up"]], dim=1)
            state_dict[f"{prefix}down_proj"] = parts["down"]
        super()._load_from_state_dict(state_dict, prefix, *args)


def _taken_apart(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, metadata: object) -> None:  # noqa: ARG001 - torch's signature
    gate_up_EID, down_EDI = state_dict.pop(f"{prefix}gate_up_proj"), state_dict.pop(f"{prefix}down_proj")
    for expert, (gate_up, down) in enumerate(zip(gate_up_EID, down_EDI, strict=True)):
        gate, up = gate_up.chunk(2)
        for kind, weight in (("gate", gate), ("up", up), ("down", down)):
            state_dict[f"{prefix}{expert}.{kind}_proj.weight"] = weight.clone()


def is_routed(module: object) -> bool:
    """Whether a layer's feed-forward part routes tokens: transformers' block or ours."""
    return isinstance(module, MoeBlock | stock.Qwen3MoeSparseMoeBlock)


def router_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Weights whose rows stand for choices, of experts or of heads to open: like those of embeddings no matrices to an optimizer."""
    gates: list[Any] = [module.gate for module in model.modules() if is_routed(module)]
    gates += [module.head_gate for module in model.modules() if hasattr(module, "head_gate")]
    return {gate.weight for gate in gates}


def expert_parameters(model: nn.Module) -> tuple[set[nn.Parameter], set[nn.Parameter]]:
    """Stacked weights of the experts, a matrix a slice: gate above up, and down."""
    stacks: list[Any] = [module for module in model.modules() if isinstance(getattr(module, "gate_up_proj", None), nn.Parameter)]
    stacks = [stack for stack in stacks if stack.gate_up_proj.ndim == 3]
    return {stack.gate_up_proj for stack in stacks}, {stack.down_proj for stack in stacks}
