"""Which device is used and why, and the rules that a device asks of the code that runs on it.

Probes, names and seeds devices. Does not run the self-test (doctor.py) and knows no model.
"""

from __future__ import annotations

import importlib
import logging
import platform
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy
import torch
from torch import dtype as Dtype

log = logging.getLogger(__name__)

Kind = Literal["cpu", "cuda", "rocm", "xpu", "mps", "directml"]


class DeviceError(RuntimeError):
    """A named device that can't be had. The message says what was found and how to repair it."""


@dataclass(frozen=True, slots=True)
class DeviceRules:
    """What code must do on a device. Asked by trainer, exam, engine and checkpoint; nobody asks for the kind.

    autocast_dtype: dtype of autocast, None for plain fp32. optimizer_form: how AdamW and clipping run ("single" also means
    without lerp). loss_form: "log_softmax" is log_softmax + gather. silu_form: "product" is x * sigmoid(x).
    attention: transformers' attn_implementation. cpu_sampling: logits go to the CPU to be sampled.
    """

    autocast_dtype: torch.dtype | None = None
    optimizer_form: Literal["fused", "foreach", "single"] = "foreach"
    loss_form: Literal["cross_entropy", "log_softmax"] = "cross_entropy"
    silu_form: Literal["native", "product"] = "native"
    attention: Literal["sdpa", "eager"] = "sdpa"
    cpu_sampling: bool = False


RULES: dict[Kind, DeviceRules] = {
    "cpu": DeviceRules(optimizer_form="fused"),
    "cuda": DeviceRules(autocast_dtype=torch.bfloat16, optimizer_form="fused"),
    "rocm": DeviceRules(autocast_dtype=torch.bfloat16, optimizer_form="foreach"),
    "xpu": DeviceRules(autocast_dtype=torch.bfloat16, optimizer_form="foreach"),
    "mps": DeviceRules(optimizer_form="foreach"),
    "directml": DeviceRules(optimizer_form="single", loss_form="log_softmax", silu_form="product", attention="eager", cpu_sampling=True),
}


@dataclass(frozen=True, slots=True)
class Device:
    """A device that was found, why it was taken, and its rules."""

    kind: Kind
    name: str
    index: int
    reason: str
    torch: torch.device
    rules: DeviceRules

    def autocast(self, dtype: Dtype | None = None) -> AbstractContextManager[Any]:
        """Autocast to dtype (None: the rules' own), or nothing where the device computes in fp32."""
        wanted = dtype or self.rules.autocast_dtype
        return nullcontext() if wanted in (None, torch.float32) else torch.autocast(self.torch.type, dtype=wanted)


def cpu_device(reason: str = "named in the settings") -> Device:
    """The CPU, which is always there."""
    return Device("cpu", platform.processor() or platform.machine() or "CPU", 0, reason, torch.device("cpu"), RULES["cpu"])


def choose(wanted: str) -> Device:
    """The device of run.device; auto takes the first of CUDA/ROCm, XPU, MPS, DirectML, CPU that is there.

    Raises DeviceError when a named device can't be had.
    """
    kind, _, number = wanted.partition(":")
    index = int(number or 0)
    if kind == "cpu":
        return cpu_device()
    if kind != "auto":
        return _FINDERS[kind](index, "named in the settings")
    refusals = []
    for finder in _FINDERS.values():
        try:
            return finder(0, "auto: the first that is there")
        except DeviceError as error:
            refusals.append(str(error))
            log.debug("auto: %s", error)
    return cpu_device("auto: no accelerator found")


def _find_cuda(index: int, reason: str) -> Device:
    if not torch.cuda.is_available():
        raise DeviceError("no CUDA or ROCm device: this torch has no driver or no build for one; install the torch of your card from pytorch.org")
    count = torch.cuda.device_count()
    if index >= count:
        raise DeviceError(f"cuda:{index} isn't there; this machine has {count} (cuda:0 to cuda:{count - 1}); name one of them")
    kind: Kind = "rocm" if torch.version.hip else "cuda"
    return Device(kind, torch.cuda.get_device_name(index), index, reason, torch.device("cuda", index), RULES[kind])


def _find_xpu(index: int, reason: str) -> Device:
    if not (hasattr(torch, "xpu") and torch.xpu.is_available()):
        raise DeviceError("no XPU device: this torch has no Intel build or no driver; install the XPU build of torch from pytorch.org")
    return Device("xpu", torch.xpu.get_device_name(index), index, reason, torch.device("xpu", index), RULES["xpu"])


def _find_mps(index: int, reason: str) -> Device:
    if not torch.backends.mps.is_available():
        raise DeviceError("no MPS device: it needs an Apple chip, macOS 12.3 or newer and an arm64 Python; set run.device = \"cpu\" elsewhere")
    return Device("mps", "Apple GPU", index, reason, torch.device("mps"), RULES["mps"])


def _find_directml(index: int, reason: str) -> Device:
    try:
        module = importlib.import_module("torch_directml")
    except ImportError as error:
        raise DeviceError(f"no DirectML: torch_directml can't be imported ({error}); pip install \"branchwise[directml]\" in Python 3.11 or 3.12") from None
    try:
        count = module.device_count() if module.is_available() else 0
    except RuntimeError as error:  # seen without a driver: "Unknown error"
        raise DeviceError(f"no DirectML: the driver doesn't answer ({error}); update the display driver") from None
    if index >= count:
        raise DeviceError(f"directml:{index} isn't there; torch_directml sees {count} device(s); name one of them or update the display driver")
    return Device("directml", str(module.device_name(index)), index, reason, module.device(index), RULES["directml"])


_FINDERS: dict[str, Callable[[int, str], Device]] = {"cuda": _find_cuda, "xpu": _find_xpu, "mps": _find_mps, "directml": _find_directml}


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices that torch seeds itself)."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
