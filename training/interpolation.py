"""Weights on the line between a model before a training and after it, chosen by what held-out answers cost.

Where a domain has few records, a training soon knows them by heart: held-out answers get worse again while the training loss falls. Points on
the way back keep much of what was learned and lose much of that (WiSE-FT, arXiv 2109.01903). Does not train, does not promote.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from torch import Tensor, nn

_log = logging.getLogger(__name__)
SHARES = (0.75, 0.5, 0.25, 0.0)  # of the way from the start to the trained weights, tried in this order


def settle(model: nn.Module, *, start: nn.Module, end: Mapping[str, Tensor], cost: Callable[[], float], least_gain: float,
           should_stop: Callable[[], bool]) -> float | None:
    """Walk a trained model back towards start as long as held-out answers get cheaper, and say at which share of the way it ends.

    should_stop: asked before each look at the cost; where it says so, None is returned and the weights stay where the walk was.

    cost: bits per byte of the model as it stands when called. Stays at the trained weights, bit for bit, where the walk gains no more than least_gain
    (a share of their cost); ends at 0 where each step back was better. end: the trained weights (weights_of). start: a model of the same weights
    and persistent buffers; raises ValueError else. Both are left as they are.
    """
    begun = _tensors(start)
    if {name: tensor.shape for name, tensor in begun.items()} != {name: tensor.shape for name, tensor in end.items()}:
        raise ValueError("the models before and after a training have other tensors; interpolate between versions of one architecture and vocabulary")
    if should_stop():
        return None
    trained = lowest = cost()
    best = 1.0
    for share in SHARES:
        if should_stop():
            return None
        _place(model, begun=begun, ends=end, share=share)
        found = cost()
        _log.info("held-out answers cost %.4f bits per byte at %.0f %% of the way, %.4f at its end", found, 100 * share, trained)
        if not found < lowest:
            break
        lowest, best = found, share
    if not lowest < (1 - least_gain) * trained:
        best = 1.0
    _place(model, begun=begun, ends=end, share=best)
    return best


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Weights and persistent buffers of numbers with a fraction."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Weights and persistent buffers, copied to the CPU (a card has no room for three); names of one tensor, as of tied weights, get one copy."""
    held = model.state_dict(keep_vars=True)  # else each name gets a tensor object of its own
    copies: dict[int, Tensor] = {}
    for name in _tensors(model):
        if id(held[name]) not in copies:
            copies[id(held[name])] = held[name].detach().to("cpu", copy=True)
    return {name: copies[id(held[name])] for name in _tensors(model)}


def interpolate(model: nn.Module, *, start: nn.Module, end: Mapping[str, Tensor], share: float) -> None:
    """Put a model at a share of the way from start to its trained weights, end (weights_of): 1.0 gives those back, bit for bit."""
    _place(model, begun=_tensors(start), ends=end, share=share)


def _place(model: nn.Module, *, begun: Mapping[str, Tensor], ends: Mapping[str, Tensor], share: float) -> None:
    for name, tensor in _tensors(model).items():  # tied ones are written twice, alike
        tensor.copy_(ends[name] if share == 1.0 else (1 - share) * begun[name].to(ends[name]) + share * ends[name])
