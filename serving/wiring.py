"""From settings to a gateway: the device, its engine, the limits. The one place that knows which engines there are."""

from __future__ import annotations

import torch

from experts.device import Device, DeviceError, choose
from serving.engines.interface import Engine
from serving.engines.torch_engine import Limits, TorchEngine
from serving.gateway import Gateway
from settings import ServeSettings, Settings

__all__ = ["DeviceError", "make_engine", "make_gateway"]


def make_gateway(settings: Settings) -> Gateway:
    """A gateway on the device of serve.device, not started. Raises DeviceError."""
    device = choose(settings.serve.device)
    if settings.serve.threads is not None:
        torch.set_num_threads(settings.serve.threads)
    return Gateway(settings, engine=make_engine(settings.serve, device=device), device=device)


def make_engine(serve: ServeSettings, *, device: Device) -> Engine:
    """The engine of a device."""
    return TorchEngine(device, limits=Limits(serve.slots, serve.queue, serve.prefill_tokens, serve.queue_wait_s, serve.loop_repeats))
