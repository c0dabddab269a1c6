"""The routed layer that stands in for transformers' Qwen3Moe block while a model trains: same weights, same names on disk.

In evaluation it computes what transformers' own block computes, in operations that every device has. It keeps tallies of where tokens
went; schedules, losses and what the tallies mean are control.py's and health.py's. Legend as in routing.py, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen3_moe import modeling_qwen3_moe as stock

from experts import autocast
from experts.moe import routing
from experts.moe.compute import sort_by_expert, swiglu_experts
from experts.moe.routing import Dials, Routing

SUMS = ("tokens", "top1_probability", "entropy", "balance", "batches")
_TINY = torch.finfo(torch.float32).tiny


class MoeBlock(nn.Module):
    """A router (gate.weight, E x D) and its experts, taken over from a stock block."""

    choice_bias: Tensor | None
    demand_E: Tensor
    served_E: Tensor
    step_demand_E: Tensor
    sums: Tensor

    def __init__(self, block: Any, *, top_k: int, normalize: bool, choice_bias: bool = False) -> None:
        super().__init__()
        self.gate: Any = block.gate
        self.experts: Any = block.experts
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
        with autocast.outside(x_ND.device):
            logits_NE = F.linear(x_ND.float(), self.gate.weight.float())
            found = routing.route(logits_NE, top_k=self.top_k, normalize=self.normalize, bias_E=self.choice_bias, dials=dials)
            if dials is not None:
                self._note(logits_NE, found)
        order = sort_by_expert(found.chosen_NK, experts=self.expert_count, served_NK=found.served_NK)
        gate_up_EID, down_EDI, act = _weights(self.experts)
        y_ND = swiglu_experts(x_ND, order, found.weight_NK, gate_up_EID=gate_up_EID, down_EDI=down_EDI, act=act)
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
            entropy_N = -(p_NE * p_NE.clamp_min(_TINY).log()).sum(-1)
            served_E = demand_E
            if found.served_NK is not None:
                served_E = routing.counts(found.chosen_NK, experts=self.expert_count, of_NK=found.served_NK * one_N[:, None])
            self.demand_E += demand_E
            self.served_E += served_E
            self.step_demand_E += demand_E
            self.sums += torch.stack([one_N.sum(), (top1_N * one_N).sum(), (entropy_N * one_N).sum(), self.balance.detach(), torch.ones_like(one_N[0])])


def _weights(experts: Any) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Stacked weights and activation. Before transformers 5 each expert is a module of its own; they stay that, for the names on disk."""
    if hasattr(experts, "gate_up_proj"):
        return experts.gate_up_proj, experts.down_proj, experts.act_fn
    gate_up_EID = torch.stack([torch.cat([one.gate_proj.weight, one.up_proj.weight]) for one in experts])
    return gate_up_EID, torch.stack([one.down_proj.weight for one in experts]), experts[0].act_fn


def take_over(model: Any) -> list[MoeBlock]:
    """Put ours in the place of transformers' block in every routed layer, with the same weights; gives all of them, none for other models."""
    layers = [layer for layer in getattr(getattr(model, "model", None), "layers", []) if is_routed(getattr(layer, "mlp", None))]
    for layer in layers:
        if not isinstance(layer.mlp, MoeBlock):
            layer.mlp = MoeBlock(layer.mlp, top_k=model.config.num_experts_per_tok, normalize=model.config.norm_topk_prob).train(model.training)
    return [layer.mlp for layer in layers]


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
