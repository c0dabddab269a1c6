"""Writes the router's readings down: journal, TensorBoard, and Weights & Biases where asked for.

Does not measure (control.py) and does not judge (verdicts.py); reads them back for the report.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from experts.journal import Event, Journal
from experts.moe.health import Reading
from settings import Settings

log = logging.getLogger(__name__)
KIND = "router_health"


class HealthRecorder:
    """Of one training of a node in a run folder. Use as a context manager; opens nothing before the first reading.

    Without TensorBoard installed there are no curves, which is logged once; a missing wandb is an error, because it was asked for.
    """

    def __init__(self, journal: Journal, *, node: str, settings: Settings, folder: Path) -> None:
        self._journal, self._node, self._settings, self._folder = journal, node, settings, folder
        self._sinks: list[Callable[[Reading], None]] | None = None
        self._ends: list[Callable[[], None]] = []
        if settings.moe.wandb_project is not None:
            _wandb(settings.moe.wandb_project)  # missed now, not after the first steps

    def __enter__(self) -> Self:
        """Nothing to begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close what was opened."""
        for end in self._ends:
            end()

    def write(self, reading: Reading) -> None:
        """Keep one reading."""
        facts = {"step": reading.step, "experts": reading.experts, "top_k": reading.top_k, "layers": reading.layers, "exploring": reading.exploring,
                 "sustained": self._settings.moe.sustained_readings, "healed": list(reading.healed), "metrics": dict(reading.metrics)}
        self._journal.append(KIND, node=self._node, **facts)
        if self._sinks is None:
            self._sinks = []
            self._open()
        for sink in self._sinks:
            sink(reading)

    def _open(self) -> None:
        assert self._sinks is not None
        if self._settings.moe.wandb_project is not None:
            run: Any = _wandb(self._settings.moe.wandb_project).init(project=self._settings.moe.wandb_project, name=self._node)
            self._sinks.append(lambda reading: run.log(dict(reading.metrics), step=reading.step))
            self._ends.append(run.finish)
        if self._settings.run.tensorboard:
            self._open_tensorboard(self._folder / "tensorboard" / f"{self._node}-router")

    def _open_tensorboard(self, folder: Path) -> None:
        assert self._sinks is not None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            log.info("no curves of the router: TensorBoard isn't installed (pip install tensorboard)")
            return
        writer: Any = SummaryWriter(str(folder))

        def sink(reading: Reading) -> None:
            for name, value in reading.metrics.items():
                writer.add_scalar(name, value, reading.step)

        self._sinks.append(sink)
        self._ends.append(writer.close)


def _wandb(project: str) -> Any:
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise ImportError(f"moe.wandb_project = {project!r} needs Weights & Biases; pip install wandb, or unset it") from error


def readings_of(journal: Journal, *, node: str | None = None) -> dict[str, list[Reading]]:
    """Readings by node, oldest first. Where a run went back and took steps again, the later ones count."""
    found: dict[str, dict[int, Reading]] = {}
    for event in journal.events(kind=KIND, node=node):
        taken = found.setdefault(event.node or "", {})
        reading = _reading(event)
        for step in [step for step in taken if step >= reading.step]:
            del taken[step]
        taken[reading.step] = reading
    return {name: list(taken.values()) for name, taken in found.items()}


def _reading(event: Event) -> Reading:
    facts = event.facts
    return Reading(step=facts["step"], experts=facts["experts"], top_k=facts["top_k"], layers=facts["layers"], exploring=facts["exploring"],
                   metrics=facts["metrics"], healed=tuple(facts["healed"]))


def sustained_of(journal: Journal, *, node: str) -> int:
    """Readings in a row that make an alarm, as that training was set."""
    events = journal.events(kind=KIND, node=node)
    return int(events[-1].facts["sustained"]) if events else 1
