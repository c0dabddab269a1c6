"""The doctor: which devices this machine has, which one is used and why, whether it computes rightly and how fast, what to do.

Makes a report and a table of it; what a user pastes into an issue. Changes nothing.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experts import device as devices
from settings import HOME

log = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "torch-directml", "xllamacpp")


@dataclass(frozen=True, slots=True)
class Found:
    """One kind of device. reason: its name when it is there, else why not and the repair."""

    kind: str
    available: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the doctor found. self_test: the figures of self_test.SelfTest, with its failures. error: why the wanted device can't be had."""

    system: dict[str, Any]
    packages: dict[str, str | None]
    devices: tuple[Found, ...]
    wanted: str
    chosen: dict[str, Any] | None
    self_test: dict[str, Any] | None
    error: str | None
    advice: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether the wanted device can be had and passed."""
        return self.error is None and self.self_test is not None and not self.self_test["failures"]

    def to_json(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {**asdict(self), "healthy": self.healthy}


def examine(wanted: str, *, limit_s: float = devices.TRIAL_LIMIT_S) -> Report:
    """Look at the machine, choose a device as a run would, and take the self-test of it in a process of its own."""
    found = (*(_look(kind) for kind in devices.ORDER), Found("cpu", True, devices.cpu_device().name))
    trials: dict[str, dict[str, Any]] = {}

    def trial(name: str) -> str | None:
        trials[name] = devices.trial_report(name, limit_s=limit_s)
        return devices.refusal_of(trials[name])

    chosen, error, test = None, None, None
    try:
        device = devices.choose(wanted, trial=trial)
        chosen = {"kind": device.kind, "wanted": device.wanted, "name": device.name, "reason": device.reason,
                  "rules": {key: str(value) for key, value in asdict(device.rules).items()}}
        test = trials.get(device.wanted) or devices.trial_report(device.wanted, limit_s=limit_s)
    except devices.DeviceError as refusal:
        error, test = str(refusal), next(iter(trials.values()), None)
    return Report(_system(), {name: _version(name) for name in PACKAGES}, found, wanted, chosen, test, error,
                  tuple(_advice(found, chosen)))


def _look(kind: str) -> Found:
    try:
        device = devices.find(kind, reason="listed")
    except devices.DeviceError as error:
        return Found(kind, False, str(error))
    return Found(device.kind, True, f"{device.wanted}: {device.name}")


def _system() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    return {"system": platform.platform(), "python": platform.python_version(), "machine": platform.machine(),
            "cpu_cores": os.cpu_count(), "torch_threads": torch.get_num_threads(), "memory_gb": round(memory.total / 2**30, 1),
            "memory_free_gb": round(memory.available / 2**30, 1), "torch_build": torch.__version__, "torch_cuda": torch.version.cuda,
            "torch_hip": torch.version.hip, "commit": _commit()}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    git = shutil.which("git")
    if git is None or not (HOME / ".git").exists():
        return None
    found = subprocess.run([git, "-C", str(HOME), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, timeout=10)
    return found.stdout.strip() or None


def _advice(found: tuple[Found, ...], chosen: dict[str, Any] | None) -> list[str]:
    """One line for each thing that the user can do."""
    there = {device.kind for device in found if device.available}
    advice = []
    if chosen is not None and chosen["kind"] == "directml":
        advice.append("Training holds the card; leave serve.device = \"cpu\" so that answers don't wait for it.")
    if shutil.which("nvidia-smi") and not there & {"cuda", "rocm"}:
        advice.append("This machine has an NVIDIA driver but torch sees no card: install the CUDA build of torch from https://pytorch.org/get-started/locally")
    if Path("/dev/kfd").exists() and "rocm" not in there:
        advice.append("This machine has an AMD compute device but torch is no ROCm build: install that one from https://pytorch.org/get-started/locally")
    if platform.system() == "Windows" and there == {"cpu"} and sys.version_info < (3, 13):
        advice.append("An AMD or Intel card can be tried through DirectML: python -m pip install -e \".[directml]\" (torch 2.4.1), an AMD card "
                      "through ROCm, too (README.md, Devices); then this command again.")
    if psutil.virtual_memory().available < 3 * 2**30:
        advice.append("Less than 3 GB of memory is free: close other programs or lower train.batch_rows.")
    if there == {"cpu"}:
        advice.append("Everything runs on the CPU; the extra \"cpu\" (llama.cpp) makes answers faster: python -m pip install -e \".[cpu]\"")
    return advice


def show(report: Report, *, console: Console) -> None:
    """Print a report as tables."""
    facts = Table("what", "value", title="Machine", title_justify="left")
    for key, value in {**report.system, **report.packages}.items():
        facts.add_row(key, Text(str(value) if value is not None else "-"))
    console.print(facts)
    kinds = Table("device", "there", "name, or why not and the repair", title="Devices", title_justify="left")
    for device in report.devices:
        kinds.add_row(device.kind, "yes" if device.available else "no", Text(device.reason))
    console.print(kinds)
    if report.chosen is not None:
        reason = report.chosen["reason"].partition(". ")[0]  # the table has the rest
        console.print(f"run.device = {report.wanted!r} uses {report.chosen['wanted']} ({report.chosen['name']}): {reason}", markup=False, emoji=False)
    if report.error is not None:
        console.print(f"run.device = {report.wanted!r} can't be used: {report.error}", markup=False, emoji=False)
    if report.self_test is not None:
        console.print(_figures(report.self_test))
    for line in report.advice:
        console.print(f"- {line}", markup=False, emoji=False)


def _figures(test: dict[str, Any]) -> Table:
    table = Table("self-test", "value", title=f"Self-test of {test['device']} against the CPU", title_justify="left")
    for failure in test["failures"]:
        table.add_row(Text(f"FAILED {failure['check']}"), Text(failure["detail"]))
    if not test["failures"]:
        table.add_row("passed", "three training steps, all gradients, 32 greedy tokens, no fallback")
    for key, value in test.items():
        if key not in ("device", "failures") and value is not None:
            table.add_row(key.replace("_", " "), f"{value:.3g}" if isinstance(value, float) and value < 100 else f"{value:,.0f}")
    return table


def write_json(report: Report, file: Path) -> None:
    """Write a report to a file."""
    file.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
