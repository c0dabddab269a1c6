"""Curves of a training for TensorBoard: loss, rates, gradient norm, share of clipped steps, speed, held-out losses, exam results and answers.

One folder a training under <run>/tensorboard (tensorboard --logdir <run>/tensorboard). Only for people to look at: nothing is ever
read from it, and a disk that takes no more of it stops the curves, not the training. Without the extra curves there are none.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from training.plan import StepFacts, Validation
from training.scorecard import Scorecard

_log = logging.getLogger(__name__)


class Scalars:
    """Writer of one training's curves; does nothing where folder is None or tensorboard isn't installed. Use as a context manager."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder if folder is not None and importlib.util.find_spec("tensorboard") is not None else None
        self._writer: Any = None
        self._steps = self._clipped = 0

    def __enter__(self) -> Self:
        """Nothing is opened before there is something to write: a resume says at which step it goes on."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Write what is left."""
        self._do("close")

    def step(self, facts: StepFacts) -> None:
        """One finished step."""
        self._steps += 1
        self._clipped += facts.clipped
        values = {"train/loss": facts.loss, "train/lr": facts.lr, "train/muon_lr": facts.muon_lr, "train/gradient_norm": facts.grad_norm,
                  "train/clipped_share": self._clipped / self._steps, "train/tokens_per_s": facts.tokens_per_s, "train/tokens": facts.tokens,
                  "train/rollbacks": facts.rollbacks}
        if facts.routing is not None:
            values |= facts.routing.metrics
        self._write(values, step=facts.step)

    def validation(self, found: Validation) -> None:
        """Held-out loss of all domains and of each."""
        self._write({"validation/loss": found.val_loss, **{f"validation/{domain}": loss for domain, loss in found.by_domain.items()}}, step=found.step)

    def exam(self, card: Scorecard, *, step: int) -> None:
        """What an examination after that step found."""
        graded = {domain: accuracy for domain in card.domains if (accuracy := card.accuracy_in(domain)) is not None}
        self._write({"exam/loop_rate": card.loop_rate, "exam/bits_per_byte": card.mean_bits_per_byte,
                     **({"exam/accuracy": card.accuracy} if card.accuracy is not None else {}),
                     **{f"exam_accuracy/{domain}": value for domain, value in graded.items()},
                     **{f"exam_bits_per_byte/{domain}": value for domain, value in card.bits_per_byte.items()}}, step=step)
        for number, sample in enumerate(card.samples):
            self._do("add_text", f"{sample.domain}/{number}", f"{sample.prompt}\n\n---\n\n{sample.answer}", step)

    def continuations(self, samples: Mapping[str, str], *, bits_per_byte: float, step: int) -> None:
        """Of a model of plain text: what it wrote after each prompt, and its held-out cost a byte."""
        self._write({"validation/bits_per_byte": bits_per_byte}, step=step)
        for number, (prompt, written) in enumerate(samples.items()):
            self._do("add_text", f"text/{number}", f"{prompt}\n\n---\n\n{written}", step)

    def _write(self, values: Mapping[str, float], *, step: int) -> None:
        if self._folder is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            try:
                # What an interrupted training wrote beyond its last saved state is written again: purge_step hides the first copy.
                self._writer = SummaryWriter(str(self._folder), purge_step=step)
            except OSError as error:
                self._stop(error)
                return
        for name, value in values.items():
            self._do("add_scalar", name, value, step)

    def _do(self, method: str, *values: object) -> None:
        if self._writer is None:
            return
        try:
            getattr(self._writer, method)(*values)
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        _log.warning("no more curves are written to %s: %s", self._folder, error)
        self._folder = self._writer = None
