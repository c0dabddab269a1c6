"""Dropout on what a model's layers add to its stream, for the time of a training: hooks, so that class and configuration stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel


@contextmanager
def stream_dropout(model: PreTrainedModel, *, share: float) -> Iterator[None]:
    """Within the block, and in training mode, every layer's parts (attention or what stands in its place, MLP) set that share of their outputs to 0.

    Raises ValueError when the model has no list of layers.
    """
    if not share:
        yield
        return
    parts = _parts(model)
    if not parts:
        raise ValueError(f"dropout of {share:g}: {type(model).__name__} has no list of layers; set loop.leaf_dropout = 0")
    with ExitStack() as hooks:
        for part in parts:
            hooks.callback(drop_outputs(part, share=share).remove)
        yield


def drop_outputs(part: nn.Module, *, share: float) -> RemovableHandle:
    """Have a module drop that share of its output (of its first one, where it gives several) in training mode."""
    return part.register_forward_hook(partial(_drop, share=share))


def _parts(model: PreTrainedModel) -> list[nn.Module]:
    """What adds to the stream: the children of the decoder's layers that hold matrices (their norms hold none)."""
    lists = [list(child) for child in model.base_model.children() if isinstance(child, nn.ModuleList)]
    layers: list[nn.Module] = max(lists, key=len, default=[])
    return [part for layer in layers for part in layer.children() if any(param.dim() > 1 for param in part.parameters())]


def _drop(module: nn.Module, inputs: Any, output: Any, *, share: float) -> Any:  # noqa: ARG001 - torch's signature
    if not module.training:
        return output
    return (dropped(output[0], share=share), *output[1:]) if isinstance(output, tuple) else dropped(output, share=share)


def dropped(x: Tensor, *, share: float) -> Tensor:
    """Dropout; outside compiled layers in steps of 1/256, where torch's own draws take longer on a CPU than the layer does."""
    return dropout(x, share) if torch.compiler.is_compiling() else _dropped_by_bytes(x, share=share)


def _dropped_by_bytes(x: Tensor, *, share: float) -> Tensor:
    """A byte a number, eight of them from one draw."""
    least = round(share * 256)
    if not least:
        return x
    place = x.device if x.device.type == "cuda" else torch.device("cpu")  # elsewhere generator and single bytes may be missing
    draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=place).random_(-2**63, None)
    kept = (draws.view(torch.uint8)[:x.numel()] >= least).view(x.shape).to(x.device)
    return x * kept.to(x.dtype).mul_(256 / (256 - least))
