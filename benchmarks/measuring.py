"""What every benchmark shares: alternating runs of several ways, ratios with their spread, this machine's matrix-product peak.

Knows nothing of what is measured.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a benchmark. ratio: ours / peer; spread: (largest - smallest) / median of the ratios of the single rounds, None for one round."""

    name: str
    unit: str
    ours: float
    peer: float | None = None
    peer_name: str | None = None
    ratio: float | None = None
    spread: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data in the shape of the command's JSON."""
        return asdict(self)


def alternate(ways: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """What each way gave in each round; the ways take turns, so that a slow minute of the machine hits all of them."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        names = list(ways)
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(ways[name]())
    return found


def compared(name: str, *, unit: str, ours: list[float], peer: list[float], peer_name: str) -> Figure:
    """Medians side by side, and the median ratio of the rounds with its spread."""
    ratios = [mine / theirs for mine, theirs in zip(ours, peer, strict=True)]
    ratio = statistics.median(ratios)
    spread = (max(ratios) - min(ratios)) / ratio if len(ratios) > 1 else None
    return Figure(name, unit, statistics.median(ours), statistics.median(peer), peer_name, ratio, spread)


def peak_memory() -> float:
    """Most bytes that this process ever had in memory."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else 1024 * most)


def matmul_peak(dtype: torch.dtype, *, device: torch.device, seconds: float = 1.0) -> float:
    """Most FLOP/s that square matrix products reached within about that time; sizes from 512 up, the largest only on an accelerator."""
    best = 0.0
    for size in (512, 1024, 2048) if device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        ends = time.perf_counter() + seconds / 3
        repeats = max(1, 2048**3 // size**3)
        while time.perf_counter() < ends:
            began = time.perf_counter()
            for _ in range(repeats):
                a @ b
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = max(best, repeats * 2 * size**3 / (time.perf_counter() - began))
    return best
