"""How a step is computed on this device: precision and way of attention, the right ones measured on a real batch, the fastest taken.

Measured once a process for the same model configuration and device; a resumed run keeps what its state says. Does not train.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from experts.device import Device
from settings import TrainSettings
from training.batches import Batch
from training.packed_loss import Attention, PackedLoss, right_attentions

_log = logging.getLogger(__name__)
_measured: dict[tuple[object, ...], Execution] = {}


@dataclass(frozen=True, slots=True)
class Execution:
    """bf16: products in bfloat16 by autocast. attention: see packed_loss.Attention."""

    bf16: bool
    attention: Attention

    @property
    def precision(self) -> str:
        """bf16 or fp32."""
        return "bf16" if self.bf16 else "fp32"

    def loss(self, model: PreTrainedModel, *, device: Device) -> PackedLoss:
        """The loss computed in this way."""
        return PackedLoss(model, device=device, bf16=self.bf16, attention=self.attention)


def choose_execution(model: PreTrainedModel, *, device: Device, settings: TrainSettings, batch: Batch) -> Execution:
    """The fastest of what is right for this model and allowed by settings.precision and the device; leaves no gradient behind."""
    key = (type(model), model.config.to_json_string(), device.torch, settings.precision, batch.tokens_BT.shape, torch.get_num_threads())
    if key not in _measured:
        attentions = right_attentions(model, device=device)
        # alone is right for every model and slow: it stands in where nothing else is right.
        ways = [Execution(bf16, attention) for attention in (attentions[:-1] or attentions) for bf16 in _precisions(device, settings=settings)]
        seconds = {way: _batch_s(model, loss=way.loss(model, device=device), batch=batch, device=device) for way in ways} if len(ways) > 1 else {ways[0]: 0.0}
        _log.info("a batch takes %s", ", ".join(f"{1000 * took:.0f} ms ({way.precision}, {way.attention})" for way, took in seconds.items()))
        _measured[key] = min(seconds, key=lambda way: seconds[way])
    return _measured[key]


def _precisions(device: Device, *, settings: TrainSettings) -> list[bool]:
    possible = device.rules.bf16 and (device.torch.type == "cpu" or device.rules.autocast_dtype is torch.bfloat16)
    if settings.precision == "bf16":
        if not possible:
            raise ValueError(f"train.precision = 'bf16' isn't possible on {device.name}; set it to auto or fp32")
        return [True]
    return [False, True] if settings.precision == "auto" and possible else [False]


def _batch_s(model: PreTrainedModel, *, loss: PackedLoss, batch: Batch, device: Device) -> float:
    """Shorter of two timed forward and backward passes after an untimed one."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        cost = loss(batch) / batch.targets_N.numel()
        cost.backward()  # type: ignore[no-untyped-call]
        if device.torch.type == "cuda":
            torch.cuda.synchronize(device.torch)
        times.append(time.perf_counter() - began)
        model.zero_grad(set_to_none=True)
    return min(times[1:])
