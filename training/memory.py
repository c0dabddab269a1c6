"""How much memory a training needs, before anything large is read, and whether that is there.

An estimate from the model's shape, on the high side; the parts are said so that a person sees what to lower. Does not train.
"""

from __future__ import annotations

import logging
from dataclasses import astuple, dataclass

import psutil
import torch
from transformers import PreTrainedModel

from experts.device import Device
from settings import TrainSettings

_log = logging.getLogger(__name__)

_FP32 = 4
# Numbers that backward needs, a token and layer: of norms, projections and residuals as multiples of the width, of the gated
# feed-forward layer as multiples of its width, of attention a head and key. Counted with saved_tensors_hooks on Qwen3 and Llama: 12.6 and 10.7
# widths beside 4 intermediates.
_WIDTHS, _INTERMEDIATES, _HEADS = 14, 4, 2
_MARGIN = 0.9  # of what is free: the rest of the program and the system need some too


class DoesNotFit(RuntimeError):
    """A training needs more memory than there is; the message has the numbers."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes. copy: the second set of weights that exists for moments: while speed is measured, adapters are merged or a saved state is read."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    copy: int

    @property
    def total(self) -> int:
        """All of it."""
        return int(sum(astuple(self)))

    def __str__(self) -> str:
        return (f"{_gb(self.total)} GB (weights {_gb(self.weights)}, gradients {_gb(self.gradients)}, optimizer {_gb(self.optimizer)}, "
                f"activations {_gb(self.activations)}, a passing copy {_gb(self.copy)})")


def need_of(model: PreTrainedModel, *, settings: TrainSettings) -> Need:
    """What training this model takes with these settings; a model without weights (device meta) will do."""
    every = sum(param.numel() for param in model.parameters())
    trained = [param for param in model.parameters() if param.requires_grad]
    count = sum(param.numel() for param in trained)
    matrices = sum(param.numel() for param in trained if param.ndim == 2) if settings.optimizer == "muon" else 0
    state = 2 * count - matrices  # AdamW keeps two numbers a weight, Muon one
    return Need(weights=_FP32 * every, gradients=_FP32 * count, optimizer=_FP32 * state, activations=_FP32 * _activations(model, settings=settings),
                copy=_FP32 * (every + state))


def _activations(model: PreTrainedModel, *, settings: TrainSettings) -> int:
    config = model.config
    width, layers, heads = config.hidden_size, config.num_hidden_layers, config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
    tokens = settings.row_tokens * settings.batch_rows
    layer = _WIDTHS * width + _INTERMEDIATES * inner + _HEADS * heads * settings.row_tokens
    kept = layers * width + layer if settings.gradient_checkpointing else layers * layer
    head = model.get_input_embeddings().weight.numel()  # the gradient of the output head, made in one piece
    return int(tokens * (kept + 4 * width) + head)


def free_bytes(device: Device) -> int | None:
    """Memory that a training may take on a device now; None where the system doesn't say."""
    if device.torch.type == "cuda":
        return int(torch.cuda.mem_get_info(device.torch)[0])
    return int(psutil.virtual_memory().available) if device.torch.type in {"cpu", "mps"} else None


def require_room(need: Need, *, device: Device, name: str) -> None:
    """Say what a training needs, and raise DoesNotFit when that isn't free."""
    free = free_bytes(device)
    _log.info("%s needs about %s on %s, free %s", name, need, device.name, "unknown" if free is None else f"{_gb(free)} GB")
    if free is not None and need.total > _MARGIN * free:
        raise DoesNotFit(f"training {name} needs about {need} on {device.name}, and {_gb(free)} GB are free; lower train.batch_rows or train.row_tokens "
                         "(raise train.accumulate instead), set train.gradient_checkpointing = true, or train adapters alone with train.lora_rank = 16")


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f}"
