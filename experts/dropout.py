"""Dropout on what a model's layers add to its stream, for the time of a training: hooks, so that class and configuration stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
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


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The longest list of modules right below the model's head; empty where there is none."""
    lists = [list(child) for child in model.base_model.children() if isinstance(child, nn.ModuleList)]
    return max(lists, key=len, default=[])


def _parts(model: PreTrainedModel) -> list[nn.Module]:
    """What adds to the stream: the children of the decoder's layers that hold matrices (their norms hold none)."""
    return [part for layer in decoder_layers(model) for part in layer.children() if any(param.dim() > 1 for param in part.parameters())]


def _drop(module: nn.Module, inputs: Any, output: Any, *, share: float) -> Any:  # noqa: ARG001 - torch's signature
    if not module.training:
        return output
    return (dropped(output[0], share=share), *output[1:]) if isinstance(output, tuple) else dropped(output, share=share)


def dropped(x: Tensor, *, share: float) -> Tensor:
    """Dropout in steps of 1/256. The same numbers fall whether layers are compiled or not."""
    least = round(share * 256)
    if not least:
        return x
    kept = _kept_in_a_graph(x.detach(), least) if torch.compiler.is_compiling() else _kept(x, least)
    return x * kept.to(x.dtype).mul(256 / (256 - least))


def _kept(like: Tensor, least: int) -> Tensor:
    """Ones in the shape of a tensor, but for least in 256 of them, which are zeros (uint8): a byte a number, eight of them from one draw.

    On a CPU torch's own draws take longer than a layer, eager or compiled (RESULTS.md).
    """
    place = like.device if like.device.type == "cuda" else torch.device("cpu")  # elsewhere generator and single bytes may be missing
    draws = torch.empty((like.numel() + 7) // 8, dtype=torch.int64, device=place).random_(-2**63, None)
    return (draws.view(torch.uint8)[:like.numel()] >= least).view(torch.uint8).view(like.shape).to(like.device)


# For the compiler one operation of which it knows the shape.
_kept_in_a_graph = torch.library.custom_op("branchwise::kept", _kept, mutates_args=(), schema="(Tensor like, int least) -> Tensor")


@_kept_in_a_graph.register_fake
def _(like: Tensor, least: int) -> Tensor:  # noqa: ARG001 - the operation's signature
    return torch.empty_like(like, dtype=torch.uint8)
