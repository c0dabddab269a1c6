"""Sophia (arXiv:2305.14342) for the parameters that Muon leaves, from the library pytorch-optimizer, which has the update.

The estimate of the curvature is made here: Gauss-Newton-Bartlett, from targets that the model draws itself. Does not step Muon.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from experts.extras import require
from training.batches import Batch

# Of Sophia-G with a language model of this size: betas and every k steps as in the paper; rho from the trainer that we compare with.
BETAS = (0.965, 0.99)
RHO = 0.1
EVERY_STEPS = 10
_EPS = 1e-15
_NEVER = 2**62  # steps between the library's own estimates, which want a graph of second order


def require_library() -> ModuleType:
    """pytorch_optimizer; raises PackageMissing without it."""
    return require("pytorch_optimizer", asked_by="train.optimizer = \"muon_sophia\"", install='-e ".[sophia]"', instead="set train.optimizer = \"muon\"")


def make_sophia(params: Sequence[nn.Parameter], *, lr: float) -> Optimizer:
    """The library's Sophia in the form of Sophia-G: theta -= lr clip(m / max(rho n h, eps), 1), with the curvature h given from outside.

    Raises PackageMissing.
    """
    made: Any = require_library().SophiaH(list(params), lr=lr, betas=BETAS, weight_decay=0.0, p=1.0, update_period=_NEVER, eps=_EPS)
    for group in made.param_groups:
        group["step"] = 1  # so that its own estimate is never due; the state keeps no count
    found: Optimizer = made
    return found


def estimate_due(step: int) -> bool:
    """Whether the curvature is estimated before that step (the first is 1)."""
    return (step - 1) % EVERY_STEPS == 0


def curvature(params: Sequence[nn.Parameter], *, model: nn.Module, loss: Callable[[Batch], Tensor], batch: Batch,
              draw: Callable[[Batch], Tensor]) -> list[Tensor]:
    """rho n g^2 a parameter, g the gradient of the mean cost of n targets drawn from the model (Sophia's algorithm 2). Leaves no gradient.

    In evaluation mode: neither dropout nor a router's noise belongs to the curvature.
    """
    training = model.training
    model.eval()
    drawn = dataclasses.replace(batch, targets_N=draw(batch))
    count = drawn.targets_N.numel()
    (loss(drawn) / count).backward()  # type: ignore[no-untyped-call]
    found = [torch.zeros_like(param) if param.grad is None else RHO * count * param.grad.square() for param in params]
    model.zero_grad(set_to_none=True)
    model.train(training)
    return found
