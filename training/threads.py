"""How many threads a training on a CPU takes while other programs use the same cores.

The threads of a product wait for each other: where one of them shares its core, all of them stand still for most of the time (a step took 18 times as
long beside one program on two cores, RESULTS.md). A thread less costs its share of the speed and no more. Sets torch's number of threads; measures no step.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import psutil
import torch

from experts.device import Device
from settings import RunSettings

_log = logging.getLogger(__name__)
WINDOW_S = 10.0  # over which others' use is averaged; two windows in a row decide
FREE_USE = 0.25  # of a core: what others may use before a thread is given up for them


def allowed_cores() -> set[int] | None:
    """Numbers of the cores on which this process may run; None where the system doesn't say (macOS)."""
    process = psutil.Process()
    return set(process.cpu_affinity()) or None if hasattr(process, "cpu_affinity") else None


def cpu_seconds() -> tuple[float, float]:
    """Seconds that the cores on which this process may run were busy since the machine started, and that this process was."""
    allowed, own = allowed_cores(), psutil.Process().cpu_times()
    cores = [times for number, times in enumerate(psutil.cpu_times(percpu=True)) if allowed is None or number in allowed]
    return sum(core.user + core.system + getattr(core, "nice", 0.0) for core in cores), own.user + own.system


class ThreadShare:
    """torch's number of threads, one less for every core that others keep busy, at least half of them. Use from the thread that trains.

    most: torch's number when this is made. It can't see what waits for a core: two programs on one core each get half of it, so a thread goes from a
    quarter of a core on. Nor does it see a container's quota: there run.threads says how many.
    """

    def __init__(self, *, cores: int | None = None, clock: Callable[[], float] = time.monotonic,
                 seconds: Callable[[], tuple[float, float]] = cpu_seconds) -> None:
        """cores: that this process may use, None: as the machine says. seconds: as cpu_seconds."""
        self.most = torch.get_num_threads()
        self._cores = max(self.most, cores or len(allowed_cores() or ()) or psutil.cpu_count() or 1)
        self._clock, self._seconds = clock, seconds
        self._at, self._asked = clock(), self.most
        self._busy, self._own = self._used()

    @classmethod
    def of(cls, settings: RunSettings, *, device: Device) -> ThreadShare | None:
        """One for trainings on a CPU, unless run.threads says how many it shall be."""
        return cls() if device.torch.type == "cpu" and settings.threads is None else None

    def take_all(self) -> None:
        """Back to all threads, until two windows say otherwise."""
        self._asked = self.most
        torch.set_num_threads(self.most)

    def wanted(self, others: float) -> int:
        """Threads beside others that use so many cores."""
        return min(self.most, max(math.ceil(self.most / 2), self._cores - math.ceil(max(0.0, others - FREE_USE))))

    def tick(self) -> None:
        """Look at what others used since the last window's end, when one has passed, and set torch's number when two say the same."""
        now = self._clock()
        if now - self._at < WINDOW_S:
            return
        busy, own = self._used()
        others = max(0.0, (busy - self._busy) - (own - self._own)) / (now - self._at)
        self._at, self._busy, self._own = now, busy, own
        asked, before = self.wanted(others), self._asked
        self._asked = asked
        if asked == before and asked != torch.get_num_threads():
            _log.info("other programs use %.1f of %d cores: %d threads from now on", others, self._cores, asked)
            torch.set_num_threads(asked)

    def _used(self) -> tuple[float, float]:
        """What seconds says; nothing where the system keeps it to itself (a phone, a hardened container)."""
        try:
            return self._seconds()
        except (OSError, psutil.Error):
            return 0.0, 0.0
