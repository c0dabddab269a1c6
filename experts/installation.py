"""Makes .venv and installs what this machine needs, the torch of its display adapter included. Run by the start scripts.

Python's own library only: it runs before anything is installed, with the Python that the script found. Safe to run again: when
nothing has changed it says so and ends. Asks for no administrator rights. Does not start anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

HOME = Path(__file__).resolve().parents[1]
NVIDIA, AMD = "NVIDIA", "AMD"
_VENDORS = {"nvidia": NVIDIA, "geforce": NVIDIA, "0x10de": NVIDIA, "radeon": AMD, "amd": AMD, "0x1002": AMD}
_INDEX = "https://download.pytorch.org/whl/"
_TORCH = "torch>=2.4.1,<2.14"

Run = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Plan:
    """One way to install. steps: pip arguments, in order. check: Python that fails when the result can't be used. note: a line for the user."""

    name: str
    note: str
    steps: tuple[tuple[str, ...], ...]
    check: str


_RUNS = "import torch, transformers, tokenizers, pydantic, flask"
_PROJECT = ("-e", ".")


def plans(system: str, adapters: Sequence[str]) -> list[Plan]:
    """Ways to install on this system with these display adapters, the best first, one for the CPU at the end. Pure."""
    vendors = {vendor for adapter in adapters for word, vendor in _VENDORS.items() if word in adapter.lower()}
    found = f"display adapters: {', '.join(adapters) or 'none found'}"
    ways = []
    if NVIDIA in vendors and system in ("Windows", "Linux"):
        for build in ("cu128", "cu126"):  # the second still has kernels for older cards
            ways.append(Plan(f"cuda-{build}", f"{found}; installing torch for NVIDIA ({build})", ((_TORCH, "--index-url", _INDEX + build), _PROJECT),
                             f"{_RUNS}; torch.ones(2, device='cuda').sum().item()"))
    elif system == "Windows" and AMD in vendors:
        ways.append(Plan("directml", f"{found}; installing torch with DirectML (ROCm is an alternative, see README.md)",
                         (("-e", ".[directml]"),), f"{_RUNS}, torch_directml"))
    elif system == "Linux" and AMD in vendors:
        ways.append(Plan("rocm", f"{found}; installing torch for AMD (ROCm)", ((_TORCH, "--index-url", f"{_INDEX}rocm6.4"), _PROJECT),
                         f"{_RUNS}; torch.ones(2, device='cuda').sum().item()"))
    if system == "Linux":  # the package index's own torch for Linux brings 2.5 GB of CUDA along
        ways.append(Plan("cpu-index", f"{found}; installing torch for the CPU", ((_TORCH, "--index-url", f"{_INDEX}cpu"), ("-e", ".[cpu]")), _RUNS))
    ways.append(Plan("cpu", f"{found}; installing torch for the CPU", (("-e", ".[cpu]"),), _RUNS))
    ways.append(Plan("plain", "installing without the extras", (_PROJECT,), _RUNS))
    return ways


def display_adapters(system: str) -> list[str]:
    """Names (Windows, macOS) or vendor numbers (Linux) of display adapters; empty when they can't be read."""
    if system == "Linux":
        return [file.read_text(encoding="ascii").strip() for file in sorted(Path("/sys/class/drm").glob("card[0-9]*/device/vendor"))]
    if system != "Windows":
        return [f"{platform.machine()} {system}"]
    command = ["powershell", "-NoProfile", "-Command", "(Get-CimInstance Win32_VideoController).Name"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def venv_python(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def state_of(project: Path, *, system: str, adapters: Sequence[str]) -> dict[str, object]:
    """What an installation depends on; another state means installing again."""
    return {"python": platform.python_version(), "project": str(project), "system": system, "adapters": list(adapters),
            "pyproject": hashlib.sha256((project / "pyproject.toml").read_bytes()).hexdigest()}


def install(project: Path, *, system: str, adapters: Sequence[str], make_venv: Callable[[Path], None], run: Run, say: Callable[[str], None]) -> bool:
    """Bring project/.venv up to date; True when it can be used. The marker is written last, so that a broken try is taken up again.

    Adapters that can't be read this time are taken as unchanged: a loop may be running on what is installed.
    """
    folder = project / ".venv"
    marker = folder / "branchwise.json"
    before = _read(marker).get("state")
    known = before.get("adapters") if isinstance(before, dict) else None
    if not adapters and isinstance(known, list):
        adapters = [str(adapter) for adapter in known]
    state = state_of(project, system=system, adapters=adapters)
    if venv_python(folder).exists() and before == state:
        say(f"Already installed ({_read(marker).get('plan')}).")
        return True
    if not venv_python(folder).exists() or run([str(venv_python(folder)), "-c", "import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))"]):
        say(f"Making {folder} ...")
        make_venv(folder)
    python = str(venv_python(folder))
    for plan in plans(system, adapters):
        say(f"Step: {plan.note} ...")
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
        if all(run([*pip, *step]) == 0 for step in plan.steps) and run([python, "-c", plan.check]) == 0:
            marker.write_text(json.dumps({"plan": plan.name, "state": state}, indent=2) + "\n", encoding="utf-8")
            say(f"Installed ({plan.name}).")
            return True
        say(f"That did not work here ({plan.name}); the lines above say why. Falling back to the next way.")
    say("Nothing could be installed. Is there a network? Is the disk full? Run the same file again when that is mended; finished downloads are kept.")
    return False


@contextmanager
def alone(project: Path, *, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Held while something is installed, so that a second double-click waits for the first; the system frees it when its holder ends."""
    with (project / ".venv.lock").open("a+b") as file:
        if not _locked(file):
            say("Another window is installing; waiting for it ...")
            while not _locked(file):
                sleep(1.0)
        yield


def _locked(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _read(file: Path) -> dict[str, object]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent or cut short: the same as never installed
        return {}
    return read if isinstance(read, dict) else {}


def _make_venv(folder: Path) -> None:
    venv.EnvBuilder(with_pip=True, clear=folder.exists()).create(folder)


def _run(command: Sequence[str]) -> int:
    return subprocess.run(command, cwd=HOME, check=False, stdin=subprocess.DEVNULL).returncode


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Exit code 0 when .venv can be used."""
    try:
        with alone(HOME, say=_say):
            done = install(HOME, system=platform.system(), adapters=display_adapters(platform.system()), make_venv=_make_venv, run=_run, say=_say)
    except (OSError, subprocess.SubprocessError) as error:  # the disk, a locked file, a venv module that isn't there
        _say(f"The environment {HOME / '.venv'} can't be made: {error}. Close programs that use it, or delete that folder, and start again.")
        return 1
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
