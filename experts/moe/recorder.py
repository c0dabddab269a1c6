"""Writes the router's readings down: journal, and Weights & Biases where asked for (TensorBoard has them from training/scalars.py).

Does not measure (control.py) and does not judge (verdicts.py); reads them back for the report.
"""

from __future__ import annotations

from types import ModuleType, TracebackType
from typing import Any, Self

from experts.extras import require
from experts.journal import Event, Journal
from experts.moe.health import Reading
from settings import MoeSettings

KIND = "router_health"


def require_wandb(project: str) -> ModuleType:
    """The package of Weights & Biases; raises PackageMissing without it."""
    return require("wandb", asked_by=f"moe.wandb_project = {project!r}", install="wandb", instead="unset it")


class HealthRecorder:
    """Of one training of a node. Use as a context manager; begins a run at Weights & Biases with the first reading.

    Raises PackageMissing at once when it is asked for and not installed.
    """

    def __init__(self, journal: Journal, *, node: str, settings: MoeSettings) -> None:
        self._journal, self._node, self._settings = journal, node, settings
        self._wandb: Any = None
        self._run: Any = None
        if settings.wandb_project is not None:
            self._wandb = require_wandb(settings.wandb_project)

    def __enter__(self) -> Self:
        """Nothing to begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close what was opened."""
        if self._run is not None:
            self._run.finish()

    def write(self, reading: Reading) -> None:
        """Keep one reading."""
        facts = {"step": reading.step, "experts": reading.experts, "top_k": reading.top_k, "layers": reading.layers, "exploring": reading.exploring,
                 "sustained": self._settings.sustained_readings, "healed": list(reading.healed), "metrics": dict(reading.metrics)}
        self._journal.append(KIND, node=self._node, **facts)
        if self._wandb is not None and self._run is None:
            self._run = self._wandb.init(project=self._settings.wandb_project, name=self._node)
        if self._run is not None:
            self._run.log(dict(reading.metrics), step=reading.step)


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
