"""Batches of plain text: windows of fixed length cut from one long row of tokens, every token after a window's first a target.

Each epoch cuts the text at another phase, so that window borders wander, and takes the windows in another order. Batches of
packed records are batches.py's work; which of the two a corpus needs is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.text_corpus import TextCorpus
from training.batches import Batch, Batches, CorpusLike, validation_batches
from training.plan import Mix

AnyCorpus = CorpusLike | TextCorpus


class BatchStream(Protocol):
    """What the trainer draws from: an endless stream with a cursor of plain data."""

    def next(self) -> Batch: ...
    def position(self) -> dict[str, Any]: ...
    def seek(self, position: Mapping[str, Any]) -> None: ...


def training_batches(corpus: AnyCorpus, *, mix: Mix, row_tokens: int, batch_rows: int, seed: int) -> BatchStream:
    """The stream that fits the corpus; a plain text has one part, whatever the mix."""
    if isinstance(corpus, TextCorpus):
        return WindowBatches(corpus.train_tokens, row_tokens=row_tokens, batch_rows=batch_rows, seed=seed)
    return Batches(corpus, mix=mix, row_tokens=row_tokens, batch_rows=batch_rows, seed=seed)


def held_out_batches(corpus: AnyCorpus, *, domain: str, row_tokens: int, batch_rows: int, rows: int) -> list[Batch]:
    """The same held-out rows every time, at most that many; of a plain text spread evenly over its held-out part."""
    if not isinstance(corpus, TextCorpus):
        return validation_batches(corpus, domain=domain, row_tokens=row_tokens, batch_rows=batch_rows, rows=rows)
    tokens = corpus.validation_tokens
    count = (len(tokens) - 1) // row_tokens
    starts = np.unique(np.linspace(0, count - 1, min(rows, count)).round().astype(np.int64)) * row_tokens
    return [window_batch(tokens, starts[first:first + batch_rows], row_tokens=row_tokens) for first in range(0, len(starts), batch_rows)]


class WindowBatches:
    """An endless stream of windows. Same seed and text, same batches; a batch at the end of an epoch is filled from the next one."""

    def __init__(self, tokens: NDArray[Any], *, row_tokens: int, batch_rows: int, seed: int) -> None:
        if len(tokens) < row_tokens + 1:
            raise ValueError(f"{len(tokens)} tokens hold no window of {row_tokens} + 1; give a longer text or lower train.row_tokens")
        self._tokens, self._row_tokens, self._batch_rows, self._seed = tokens, row_tokens, batch_rows, seed
        self._epoch = self._place = 0
        self._starts = self._cut()

    def _cut(self) -> NDArray[np.int64]:
        random = np.random.default_rng([self._seed, self._epoch])
        spare = len(self._tokens) - 1 - self._row_tokens
        phase = int(random.integers(0, min(self._row_tokens, spare + 1)))
        count = (len(self._tokens) - 1 - phase) // self._row_tokens
        starts: NDArray[np.int64] = random.permutation(count).astype(np.int64) * self._row_tokens + phase
        return starts

    def next(self) -> Batch:
        """The next batch."""
        starts = self._take(self._batch_rows)
        return window_batch(self._tokens, starts, row_tokens=self._row_tokens)

    def _take(self, count: int) -> NDArray[np.int64]:
        taken = [self._starts[self._place:self._place + count]]
        self._place += len(taken[0])
        while (missing := count - sum(map(len, taken))) > 0:
            self._epoch, self._place = self._epoch + 1, 0
            self._starts = self._cut()
            taken.append(self._starts[:missing])
            self._place = len(taken[-1])
        return np.concatenate(taken)

    def position(self) -> dict[str, Any]:
        """The cursor as plain data."""
        return {"epoch": self._epoch, "place": self._place}

    def seek(self, position: Mapping[str, Any]) -> None:
        """Go to a cursor that position() gave."""
        self._epoch, self._place = int(position["epoch"]), int(position["place"])
        self._starts = self._cut()


def window_batch(tokens: NDArray[Any], starts: NDArray[np.int64], *, row_tokens: int) -> Batch:
    """One window a row: tokens[start:start + row_tokens] predict their successors."""
    rows = np.stack([tokens[start:start + row_tokens + 1] for start in starts]).astype(np.int64)
    count = len(starts)
    documents = torch.zeros(count, row_tokens, dtype=torch.int32)
    positions = torch.arange(row_tokens).repeat(count, 1)
    return Batch(torch.from_numpy(rows[:, :-1].copy()), positions, documents, torch.arange(count * row_tokens), torch.from_numpy(rows[:, 1:].reshape(-1)),
                 count * row_tokens, np.arange(count, dtype=np.int64) * row_tokens, np.full(count, row_tokens, dtype=np.int64))
