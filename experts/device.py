"""Which device is used and why: finds, tries, names and seeds devices.

A device whose rules ask for it is tried in a process of its own, because a bad driver gives wrong numbers, hangs or aborts.
Does not know what is done on a device (device_rules.py) nor what a trial does (self_test.py).
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import platform
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import dtype as Dtype  # Device has a field named torch

from experts import autocast
from experts.device_rules import RULES, DeviceRules, Kind
from settings import HOME

__all__ = ["RULES", "Device", "DeviceError", "DeviceRules", "Kind", "choose", "cpu_device", "find", "forked_random", "random_state", "refusal_of",
           "seed_everything", "set_random_state", "trial_report", "try_in_child"]

log = logging.getLogger(__name__)

TRIAL_LIMIT_S = 180.0
ORDER = ("cuda", "xpu", "mps", "directml")  # "cuda" finds ROCm too

_LOCKS: dict[str, threading.RLock] = {}
_LOCKS_GUARD = threading.Lock()


class DeviceError(RuntimeError):
    """A device that can't be had or can't be trusted. The message says what was found and how to repair it."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device that was found, why it was taken, and its rules."""

    kind: Kind
    name: str
    index: int
    reason: str
    torch: torch.device
    rules: DeviceRules

    @property
    def wanted(self) -> str:
        """The value of run.device that names this device."""
        if self.kind in ("cuda", "rocm", "directml"):
            return f"{'cuda' if self.kind == 'rocm' else self.kind}:{self.index}"
        return self.kind

    def autocast(self, dtype: Dtype | None = None) -> AbstractContextManager[Any]:
        """Autocast to dtype (None: the rules' own), or nothing where the device computes in fp32."""
        wanted = dtype or self.rules.autocast_dtype
        nothing = wanted in (None, torch.float32) or not self.rules.bf16 or self.torch.type not in autocast.TYPES
        return nullcontext() if nothing else torch.autocast(self.torch.type, dtype=wanted)

    def turn(self) -> AbstractContextManager[Any]:
        """Held around work on the device: one lock a device where threads mustn't meet, nothing elsewhere."""
        if not self.rules.one_at_a_time:
            return nullcontext()
        with _LOCKS_GUARD:
            return _LOCKS.setdefault(f"{self.kind}:{self.index}", threading.RLock())


def cpu_device(reason: str = "named in the settings") -> Device:
    """The CPU, which is always there."""
    return Device("cpu", platform.processor() or platform.machine() or "CPU", 0, reason, torch.device("cpu"), RULES["cpu"])


def trial_report(wanted: str, *, limit_s: float = TRIAL_LIMIT_S) -> dict[str, Any]:
    """Self-test of a device in a process of its own, as plain data (self_test.SelfTest); a hang or a crash is a failure like others.

    A process, because a call that hangs in a driver can't be stopped and an abort would take this one along.
    """
    paths = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        child = subprocess.run([sys.executable, "-m", "experts", "trial", wanted], cwd=HOME, timeout=limit_s, capture_output=True, text=True,
                               encoding="utf-8", errors="replace", check=False, stdin=subprocess.DEVNULL,
                               env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"})
    except subprocess.TimeoutExpired:
        return {"device": wanted, "failures": [{"check": "time limit", "detail": f"the self-test did not end within {limit_s:g} s"}]}
    lines = [line for line in child.stdout.splitlines() if line.startswith("{")]
    if not lines:
        words = (child.stderr.strip().splitlines() or ["no message"])[-1][:300]
        return {"device": wanted, "failures": [{"check": "crash", "detail": f"the self-test ended with exit code {child.returncode}: {words}"}]}
    report: dict[str, Any] = json.loads(lines[-1])
    return report


def refusal_of(report: Mapping[str, Any]) -> str | None:
    """The failures of a trial in one line; None when there are none."""
    return "; ".join(f"{failure['check']}: {failure['detail']}" for failure in report["failures"]) or None


def try_in_child(wanted: str) -> str | None:
    """Why a device is refused after its trial; None when it passes."""
    return refusal_of(trial_report(wanted))


_cached_trial = functools.cache(try_in_child)


def choose(wanted: str, *, trial: Callable[[str], str | None] = _cached_trial, held: str | None = None) -> Device:
    """The device of run.device; auto takes the first of CUDA/ROCm, XPU, MPS, DirectML that is there and passes its trial, else the CPU.

    Raises DeviceError when a named device can't be had or fails its trial. trial: gives the reason of a refusal or None.
    held: run.device of a loop that runs; a device that isn't shared is left to it.
    """
    if wanted == "cpu":
        return cpu_device()
    if wanted != "auto":
        return _tried(find(wanted, reason="named in the settings"), trial=trial, held=held)
    reasons = []
    for kind in ORDER:
        try:
            device = _tried(find(kind, reason="auto: the first in the order cuda/rocm, xpu, mps, directml, cpu that works"), trial=trial, held=held)
        except DeviceError as error:
            reasons.append(str(error))
            continue
        log.info("device %s (%s): %s", device.wanted, device.name, device.reason)
        return device
    device = cpu_device(f"auto: no accelerator can be used. {' | '.join(reasons)}")
    _say_once(device.reason)
    return device


@functools.cache
def _say_once(reason: str) -> None:
    log.info("device cpu: %s", reason)


def _tried(device: Device, *, trial: Callable[[str], str | None], held: str | None) -> Device:
    if held is not None and not device.rules.shared and held in ("auto", device.kind, device.wanted):
        raise DeviceError(f"{device.wanted} ({device.name}) is the loop's (run.device = {held!r}) and takes one process at a time; "
                          "set serve.device = \"cpu\", or run.device = \"cpu\", or stop the loop")
    refusal = trial(device.wanted) if device.rules.trial else None
    if refusal is None:
        return device
    raise DeviceError(f"{device.wanted} ({device.name}) fails its self-test ({refusal}); update its driver, see `python -m experts doctor "
                      f"--device {device.wanted}`, or set run.device = \"cpu\"")


def find(wanted: str, *, reason: str) -> Device:
    """A device by its name without a trial; raises DeviceError when it isn't there."""
    kind, _, number = wanted.partition(":")
    if kind == "cpu":
        return cpu_device(reason)
    return _FINDERS[kind](int(number or 0), reason)


def _find_cuda(index: int, reason: str) -> Device:
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else f"built for ROCm {torch.version.hip}" if torch.version.hip else "a CPU build"
        raise DeviceError(f"no CUDA or ROCm device: torch {torch.__version__} is {built} and sees no card; "
                          "install the card's driver and the torch for it from https://pytorch.org/get-started/locally")
    count = torch.cuda.device_count()
    if index >= count:
        raise DeviceError(f"cuda:{index} isn't there; this machine has {count} (cuda:0 to cuda:{count - 1}); name one of them")
    kind: Kind = "rocm" if torch.version.hip else "cuda"
    name = torch.cuda.get_device_name(index)
    try:
        torch.ones(2, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:  # a card that this torch has no kernels for
        words = str(error).splitlines()[0]
        raise DeviceError(f"cuda:{index} ({name}) doesn't compute with torch {torch.__version__} ({words}); install a torch that lists the card") from None
    return Device(kind, name, index, reason, torch.device("cuda", index), RULES[kind])


def _find_xpu(index: int, reason: str) -> Device:
    if not (hasattr(torch, "xpu") and torch.xpu.is_available()):
        raise DeviceError(f"no XPU device: torch {torch.__version__} is no Intel build or sees no card; install the XPU torch from https://pytorch.org")
    return Device("xpu", torch.xpu.get_device_name(index), index, reason, torch.device("xpu", index), RULES["xpu"])


def _find_mps(index: int, reason: str) -> Device:
    if not torch.backends.mps.is_available():
        raise DeviceError("no MPS device: it needs an Apple chip, macOS 12.3 or newer and an arm64 Python; elsewhere set run.device = \"auto\"")
    return Device("mps", "Apple GPU", index, reason, torch.device("mps"), RULES["mps"])


def _find_directml(index: int, reason: str) -> Device:
    try:
        module = importlib.import_module("torch_directml")
    except (ImportError, OSError) as error:  # OSError: the wheel's library doesn't load beside another torch
        raise DeviceError(f"no DirectML: torch_directml can't be imported ({error}); it needs Windows or WSL, Python 3.11 or 3.12 and torch 2.4.1 "
                          f"(here {platform.system()}, {platform.python_version()}, {torch.__version__}): "
                          "python -m pip install -e \".[directml]\"") from None
    try:
        count = module.device_count() if module.is_available() else 0
    except RuntimeError as error:  # seen without a driver: "Unknown error"
        raise DeviceError(f"no DirectML: the driver doesn't answer ({error}); update the display driver") from None
    if index >= count:
        raise DeviceError(f"directml:{index} isn't there: torch_directml sees {count} device(s); name one of them or update the display driver")
    return Device("directml", str(module.device_name(index)).rstrip("\0 "), index, reason, module.device(index), RULES["directml"])


_FINDERS: dict[str, Callable[[int, str], Device]] = {"cuda": _find_cuda, "xpu": _find_xpu, "mps": _find_mps, "directml": _find_directml}


def random_state(place: torch.device) -> torch.Tensor | None:
    """State of a device's own generator; None where the CPU's is drawn from (CPU, DirectML)."""
    if place.type not in ("cuda", "xpu", "mps"):
        return None
    module: Any = getattr(torch, place.type)
    state: torch.Tensor = module.get_rng_state() if place.type == "mps" else module.get_rng_state(place)
    return state


def set_random_state(place: torch.device, state: torch.Tensor) -> None:
    """Put random_state() back."""
    module: Any = getattr(torch, place.type)
    if place.type == "mps":
        module.set_rng_state(state)
    else:
        module.set_rng_state(state, place)


@contextmanager
def forked_random(place: torch.device) -> Iterator[None]:
    """What is drawn within the block, on the CPU and on that device, changes nothing after it."""
    cpu, own = torch.get_rng_state(), random_state(place)
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        if own is not None:
            set_random_state(place, own)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices that torch seeds itself)."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
