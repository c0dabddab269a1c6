"""The optimizers of a run: AdamW for all, or Muon for hidden matrices with AdamW or Sophia for the rest; their state by parameter name.

Does not know schedules (the trainer sets the rates each step) and does not clip.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from experts.device_rules import DeviceRules, make_adamw
from experts.moe.block import expert_parameters, router_parameters
from settings import TrainSettings
from training.batches import Batch
from training.packed_loss import PackedLoss
from training.plan import peak_lr
from training.sophia import curvature, estimate_due, make_sophia

# Quintic Newton-Schulz coefficients and steps of Muon (Keller Jordan, https://kellerjordan.github.io/posts/muon/), as in torch.optim.Muon.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonalized(update_BMN: Tensor, *, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Nearest semi-orthogonal matrices (B of M x N) by Newton-Schulz steps in dtype."""
    a, b, c = NEWTON_SCHULZ
    x = update_BMN.to(dtype)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class BatchedMuon(Optimizer):
    """torch.optim.Muon's update (momentum 0.95, Nesterov), equal-shaped matrices orthogonalized together; for any torch from 2.4.1.

    A stack of matrices (the experts' weights) is so many matrices; those in pairs hold two below each other in every slice.
    """

    def __init__(self, params: Iterator[nn.Parameter] | list[nn.Parameter], *, lr: float, weight_decay: float, momentum: float = 0.95,
                 dtype: torch.dtype = torch.bfloat16, pairs: Collection[nn.Parameter] = ()) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype, self._pairs = dtype, set(pairs)

    def _shape(self, param: nn.Parameter) -> tuple[int, int]:
        rows, columns = param.shape[-2:]
        return (rows // 2 if param in self._pairs else rows), columns

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            for param in group["params"]:
                if param.grad is not None:
                    by_shape[self._shape(param)].append(param)
            for shape, params in by_shape.items():
                self._update(params, shape=shape, group=group)

    def _update(self, params: list[nn.Parameter], *, shape: tuple[int, int], group: dict[str, Any]) -> None:
        momentum, lr = group["momentum"], group["lr"]
        updates = []
        for param in params:
            assert param.grad is not None
            state = self.state[param]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(param)
            buffer = state["momentum_buffer"].mul_(momentum).add_(param.grad, alpha=1 - momentum)
            updates.append((param.grad * (1 - momentum)).add_(buffer, alpha=momentum).reshape(-1, *shape))
        rate = lr * max(1.0, shape[0] / shape[1]) ** 0.5
        found = torch.split(orthogonalized(torch.cat(updates), dtype=self.dtype), [len(update) for update in updates])
        for param, update in zip(params, found, strict=True):
            param.mul_(1 - lr * group["weight_decay"])
            param.add_(update.reshape(param.shape).to(param.dtype), alpha=-rate)


class Optimizers:
    """AdamW, and Muon and Sophia where asked for, over the trainable parameters of a model."""

    def __init__(self, model: nn.Module, *, settings: TrainSettings, rules: DeviceRules) -> None:
        self._names = {param: name for name, param in model.named_parameters() if param.requires_grad}
        if not self._names:
            raise ValueError("the model has no parameter that requires a gradient; unfreeze at least one")
        apart = embedding_parameters(model) | router_parameters(model)  # rows that stand for tokens or for choices
        gate_up, down = expert_parameters(model)
        chosen = {param for param in self._names if (param.ndim == 2 and param not in apart) or param in gate_up or param in down}
        matrices = [param for param in self._names if param in chosen]
        rest = [param for param in self._names if param not in chosen]
        self.muon = BatchedMuon(matrices, lr=settings.muon_lr, weight_decay=settings.weight_decay,
                                dtype=torch.bfloat16 if rules.bf16 else torch.float32, pairs=gate_up) if settings.optimizer != "adamw" and matrices else None
        self.sophia = make_sophia(rest, lr=peak_lr(settings)) if settings.optimizer == "muon_sophia" and rest else None
        self._curvature: list[Tensor] | None = None
        groups = [{"params": rest if self.sophia is None else [], "weight_decay": 0.0}]
        if self.muon is None:
            groups.append({"params": matrices, "weight_decay": settings.weight_decay})
        groups = [group for group in groups if group["params"]]
        self.adamw = make_adamw(groups, lr=peak_lr(settings), betas=(settings.beta1, settings.beta2), rules=rules) if groups else None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Every parameter that is trained."""
        return list(self._names)

    def orthogonalize_in(self, dtype: torch.dtype) -> None:
        """Precision of Muon's products, of which nothing stays in its state; nothing without Muon."""
        if self.muon is not None:
            self.muon.dtype = dtype

    def set_rates(self, *, lr: float, muon_lr: float) -> None:
        """Learning rates of the next step."""
        for optimizer in (self.adamw, self.sophia):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = lr
        for group in self.muon.param_groups if self.muon is not None else ():
            group["lr"] = muon_lr

    def step(self) -> None:
        """Apply the gradients and drop them."""
        for optimizer in (self.adamw, self.muon):
            if optimizer is not None:
                optimizer.step()
        if self.sophia is not None:
            self.sophia.step(hessian=self._curvature)  # type: ignore[call-overload]
        self.zero_grad()

    def look_ahead(self, step: int, *, model: nn.Module, loss: PackedLoss, batch: Batch) -> None:
        """Before the gradients of a step (the first is 1): estimate the curvature where an optimizer wants it now."""
        if self.sophia is not None and estimate_due(step):
            params = self.sophia.param_groups[0]["params"]
            self._curvature = curvature(params, model=model, loss=loss, batch=batch, draw=loss.draw_targets)

    def zero_grad(self) -> None:
        """Drop the gradients of every trained parameter, and the curvature of a step that is not taken."""
        self._curvature = None
        for param in self._names:
            param.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """State as "parameter name/key": tensor."""
        return {f"{name}/{key}": value for optimizer in self._all() for param, name in self._names.items()
                for key, value in optimizer.state.get(param, {}).items() if isinstance(value, Tensor)}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put a state from state_tensors() back, bit for bit; raises KeyError for a parameter that the model lacks."""
        params = {name: param for param, name in self._names.items()}
        states: dict[nn.Parameter, dict[str, Tensor]] = defaultdict(dict)
        for key, value in tensors.items():
            name, _, part = key.rpartition("/")
            states[params[name]][part] = value
        for optimizer in self._all():
            ours = [param for group in optimizer.param_groups for param in group["params"]]
            groups, first = [], 0
            for group in optimizer.param_groups:
                size = len(group["params"])
                groups.append({**{key: value for key, value in group.items() if key != "params"}, "params": list(range(first, first + size))})
                first += size
            optimizer.load_state_dict({"state": {index: states[param] for index, param in enumerate(ours) if param in states}, "param_groups": groups})

    def _all(self) -> list[Optimizer]:
        return [optimizer for optimizer in (self.adamw, self.muon, self.sophia) if optimizer is not None]


def embedding_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Weights of embeddings and of the output head: they are looked up by token, so Muon and weight decay don't fit them."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    modules = [module for module in model.modules() if isinstance(module, nn.Embedding)] + ([head] if head is not None else [])
    return {param for module in modules for name, param in module.named_parameters(recurse=False) if name == "weight"}
