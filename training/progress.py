"""What a person sees while the loop works: a live bar in a terminal, one line in fixed columns elsewhere.

Shows facts that others computed. Does not log and does not measure.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from experts.moe.health import Reading, log_fields
from training.agenda import Job
from training.scorecard import Sample

LINE_EVERY_S = 10.0
_SAMPLE_CHARS = 70


class StepLike(Protocol):
    """What is shown of a training step; training.trainer.StepFacts has it."""

    @property
    def step(self) -> int:
        """Steps done."""
        ...

    @property
    def steps(self) -> int:
        """Steps of the whole training; may change on the way where it follows the clock."""
        ...

    @property
    def loss(self) -> float:
        """Nats a target token."""
        ...

    @property
    def lr(self) -> float:
        """Learning rate of the step."""
        ...

    @property
    def tokens_per_s(self) -> float:
        """Tokens of the rows a second of training."""
        ...

    @property
    def eta_s(self) -> float:
        """Seconds left for this node."""
        ...

    @property
    def routing(self) -> Reading | None:
        """Metrics of the router, at some steps of a routed model."""
        ...


class Reporter:
    """Progress of a cycle, over one console. quiet shows only notes. Use as a context manager."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        """console: None for the process's standard output."""
        self._console = console or Console(soft_wrap=True)
        self._quiet = quiet
        self._live = self._console.is_terminal and not quiet
        self._bar = Progress(TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}", markup=False),
                             TimeRemainingColumn(), console=self._console, transient=True)
        self._task: TaskID | None = None
        self._node, self._last_line = "", 0.0
        self._routing: Reading | None = None

    def __enter__(self) -> Self:
        """Start the live display where there is a terminal."""
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the live display."""
        if self._live:  # elsewhere it would print an empty line
            self._bar.stop()

    def node_started(self, job: Job, *, share: str) -> None:
        """A node begins its steps. share: where the cycle stands, as in 3/8."""
        self._node, self._last_line, self._routing = job.node, 0.0, None
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(f"{share} {job.node}", total=job.steps, facts="") if self._live else None

    def step(self, facts: StepLike) -> None:
        """A training step was made; prints at most one line in ten seconds without a terminal."""
        self._routing = facts.routing or self._routing
        if self._task is not None:
            router = f"  {log_fields(self._routing.metrics)}" if self._routing is not None else ""
            self._bar.update(self._task, completed=facts.step, total=facts.steps, facts=f"loss {facts.loss:.3f}  {facts.tokens_per_s:,.0f} tok/s{router}")
        elif not self._quiet and time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            if self._routing is not None:
                self._say(f"iter {facts.step} | loss {facts.loss:.4f} | lr {facts.lr:.3e} | {facts.tokens_per_s:.0f} tok/s | "
                          f"{log_fields(self._routing.metrics)}")
                return
            self._say(f"{self._node:<14} step {facts.step:>6}/{facts.steps:<6} loss {facts.loss:7.4f}  lr {facts.lr:9.2e}  "
                      f"{facts.tokens_per_s:>8,.0f} tok/s  left {facts.eta_s:>6.0f} s")

    def samples(self, samples: Iterable[Sample]) -> None:
        """One answer of each domain from an examination, shortened to a line, for people to read; none when quiet."""
        if self._quiet:
            return
        first: dict[str, Sample] = {}
        for sample in samples:
            first.setdefault(sample.domain, sample)
        for domain, sample in first.items():
            self._say(f"  {domain:<12} {_line(sample.prompt)} -> {_line(sample.answer)}")

    def note(self, text: str) -> None:
        """One line that is always shown: what was promoted and why, where the gateway listens."""
        self._say(text)

    def _say(self, text: str) -> None:
        """Print a text as it stands: brackets are no markup, and the ":100:" of a file's line no emoji."""
        self._console.print(text, markup=False, emoji=False, highlight=False)


def _line(text: str) -> str:
    """A text on one line, its end cut off where it is long."""
    flat = " / ".join(part.strip() for part in text.splitlines() if part.strip())
    return flat if len(flat) <= _SAMPLE_CHARS else flat[:_SAMPLE_CHARS - 3] + "..."
