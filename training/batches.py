"""Batches of packed rows from the shards of a mix, with a cursor that can be saved and sought.

A row holds whole documents one after another; every token knows its document and its place in it, so that nothing leaks
between documents (packed_loss.py builds the mask). Does not tokenize, and does not pack by itself (data_prep.pack does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.pack import pack_rows
from data_prep.records import Split
from training.plan import Mix

PADDING = -1  # document number of unused places of a row


class ShardLike(Protocol):
    """What is read of data_prep.pack.Shard: document i is tokens[starts[i]:starts[i + 1]], its answer begins at answer_starts[i]."""

    @property
    def tokens(self) -> NDArray[Any]: ...
    @property
    def starts(self) -> NDArray[Any]: ...
    @property
    def answer_starts(self) -> NDArray[Any]: ...


class CorpusLike(Protocol):
    """What the trainer reads of data_prep.corpus.Corpus."""

    @property
    def fingerprint(self) -> str: ...
    def shard(self, domain: str, split: Split) -> ShardLike: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows on the CPU. Legend: B rows, T places a row, N targets.

    documents_BT: number of the document within its row, PADDING where nothing is. places_N: flat indices into B x T whose
    next token is a target; targets_N: that token. tokens: places in use. starts, lengths: of every document in the flat
    rows, the unused end of a row counting as one.
    """

    tokens_BT: Tensor
    positions_BT: Tensor
    documents_BT: Tensor
    places_N: Tensor
    targets_N: Tensor
    tokens: int
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def whole_rows(self) -> bool:
        """Whether every row is one document from end to end: nothing to keep apart."""
        return len(self.starts) == len(self.tokens_BT) and bool((self.lengths == self.tokens_BT.size(1)).all())


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Documents as pieces of at most row_tokens + 1 tokens: [first, last) in the shard; targets begin at answers. Arrays of equal length."""

    tokens: NDArray[Any]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    answers: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Places each piece takes in a row: its last token is only a target, never an input."""
        return self.last - self.first - 1


def _cut(shard: ShardLike, *, row_tokens: int, prompts: bool = False) -> _Pieces:
    """Pieces of a shard. A document too long for a row is cut, neighbours share one token, so that each token is a target once.

    prompts: targets begin at a document's second token, not at its answer.
    """
    starts = np.asarray(shard.starts, dtype=np.int64)
    answers = starts[:-1] + 1 if prompts else np.asarray(shard.answer_starts, dtype=np.int64)
    lengths = np.diff(starts)
    pieces = np.maximum(1, -(-(lengths - 1) // row_tokens))
    document = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = starts[:-1][document] + number * row_tokens
    last = np.minimum(first + row_tokens + 1, starts[1:][document])
    answer = np.maximum(answers[document], first + 1)
    useful = answer < last
    return _Pieces(shard.tokens, first[useful], last[useful], answer[useful])


class _Rows:
    """The rows of one domain, packed anew each epoch."""

    def __init__(self, pieces: _Pieces, *, row_tokens: int, seed: int) -> None:
        self.pieces, self._row_tokens, self._seed = pieces, row_tokens, seed
        self.epoch, self.place = 0, 0
        self._rows = self._pack()

    def _pack(self) -> list[Sequence[int]]:
        seed = int(np.random.SeedSequence([self._seed, self.epoch]).generate_state(1)[0])
        rows = list(pack_rows(self.pieces.lengths, row_tokens=self._row_tokens, seed=seed))
        order = np.random.default_rng(seed).permutation(len(rows))
        return [rows[index] for index in order]

    def seek(self, *, epoch: int, place: int) -> None:
        self.epoch, self.place = epoch, place
        self._rows = self._pack()

    def next(self) -> Sequence[int]:
        if self.place == len(self._rows):
            self.seek(epoch=self.epoch + 1, place=0)
        row = self._rows[self.place]
        self.place += 1
        return row


class Batches:
    """An endless stream of training batches. Same seed, corpus and mix, same batches; rows of the domains are spread evenly by share."""

    def __init__(self, corpus: CorpusLike, *, mix: Mix, row_tokens: int, batch_rows: int, seed: int) -> None:
        self._row_tokens, self._batch_rows = row_tokens, batch_rows
        total = sum(mix.shares.values())
        self._shares = {domain: share / total for domain, share in sorted(mix.shares.items())}
        self._rows = {domain: _Rows(training_pieces(corpus, domain=domain, row_tokens=row_tokens, prompts=domain in mix.prompts), row_tokens=row_tokens,
                                    seed=_domain_seed(seed, domain))
                      for domain in self._shares}
        self._credits = dict.fromkeys(self._shares, 0.0)

    def next(self) -> Batch:
        """The next batch."""
        rows = []
        for _ in range(self._batch_rows):
            for domain, share in self._shares.items():
                self._credits[domain] += share
            domain = max(self._credits, key=lambda name: self._credits[name])
            self._credits[domain] -= 1.0
            rows.append((self._rows[domain].pieces, self._rows[domain].next()))
        return make_batch(rows, row_tokens=self._row_tokens)

    def position(self) -> dict[str, Any]:
        """The cursor as plain data."""
        return {"credits": dict(self._credits), "rows": {domain: [rows.epoch, rows.place] for domain, rows in self._rows.items()}}

    def seek(self, position: Mapping[str, Any]) -> None:
        """Go to a cursor that position() gave."""
        self._credits = dict(position["credits"])
        for domain, (epoch, place) in position["rows"].items():
            self._rows[domain].seek(epoch=epoch, place=place)


def training_pieces(corpus: CorpusLike, *, domain: str, row_tokens: int, split: Split = "train", prompts: bool = False) -> _Pieces:
    """Pieces of a shard (prompts: theirs are targets, too); raises ValueError when it holds nothing to learn from."""
    pieces = _cut(corpus.shard(domain, split), row_tokens=row_tokens, prompts=prompts)
    if not len(pieces.first):
        raise ValueError(f"the {split} shard of {domain!r} has no document with an answer token; add records or take the domain out of the mix")
    return pieces


def validation_batches(corpus: CorpusLike, *, domain: str, row_tokens: int, batch_rows: int, rows: int) -> list[Batch]:
    """The same rows every time, at most that many; none when the domain has no validation documents."""
    pieces = _cut(corpus.shard(domain, "validation"), row_tokens=row_tokens)
    if not len(pieces.first):
        return []
    packed = list(pack_rows(pieces.lengths, row_tokens=row_tokens, seed=0))[:rows]
    return [make_batch([(pieces, row) for row in packed[first:first + batch_rows]], row_tokens=row_tokens) for first in range(0, len(packed), batch_rows)]


def make_batch(rows: Sequence[tuple[_Pieces, Sequence[int]]], *, row_tokens: int) -> Batch:
    """Lay the pieces of each row side by side."""
    shape = (len(rows), row_tokens)
    tokens, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    documents = np.full(shape, PADDING, dtype=np.int32)
    places, targets, used = [], [], 0
    starts, lengths = [], []
    for line, (pieces, row) in enumerate(rows):
        at = 0
        for number, piece in enumerate(row):
            first, last, answer = int(pieces.first[piece]), int(pieces.last[piece]), int(pieces.answers[piece])
            length = last - first - 1
            tokens[line, at:at + length] = pieces.tokens[first:last - 1]
            positions[line, at:at + length] = np.arange(length)
            documents[line, at:at + length] = number
            places.append(np.arange(answer - 1 - first, length) + (line * row_tokens + at))
            targets.append(pieces.tokens[answer:last].astype(np.int64))
            starts.append(line * row_tokens + at)
            lengths.append(length)
            at += length
        used += at
        if at < row_tokens:
            positions[line, at:] = np.arange(row_tokens - at)
            starts.append(line * row_tokens + at)
            lengths.append(row_tokens - at)
    return Batch(torch.from_numpy(tokens), torch.from_numpy(positions), torch.from_numpy(documents),
                 torch.from_numpy(np.concatenate(places)), torch.from_numpy(np.concatenate(targets)), used,
                 np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64))


def _domain_seed(seed: int, domain: str) -> int:
    return int(np.random.SeedSequence([seed, *domain.encode()]).generate_state(1)[0])
