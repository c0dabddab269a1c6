"""Held-out answers that stand word for word in training rows: a model that is trained on such a row has read the answer.

In dialogues each answer stands in the prompts of the later turns. One eight-word run of each answer proposes rows, comparing the
words proves them. Decides nothing (intake.py does), and looks at no similar answers (overlap.py compares prompts).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from data_prep.overlap import words

LEAST_WORDS = 8  # of an answer; shorter ones are said by chance
LEAST_LETTERS = 16  # likewise, where a word is one character
MOST_SHOWN = 50  # training rows; what more of them say is a formula of the domain (a label, a refusal), learnt without any one of them
BATCH = 4096  # rows looked through at once
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Shown:
    """A held-out answer and a training row that holds it, by their places in what was given."""

    held_out: int
    training: int


def shown_answers(answers: Sequence[str], training: Iterable[tuple[str, str]]) -> list[Shown]:
    """Whole answers (case, blanks and sentence marks aside) inside prompt or response of training rows, in the order of training; an answer
    that is short or a formula counts for nothing, and equal ones as their first. training: (prompt, response)."""
    places: dict[str, int] = {}
    for place, answer in enumerate(answers):
        found = words(answer)
        if len(found) >= LEAST_WORDS and sum(map(len, found)) >= LEAST_LETTERS:
            places.setdefault(" ".join(found), place)
    numbers: dict[str, int] = {}
    for text in places:
        for word in text.split():
            numbers.setdefault(word, len(numbers) + 1)
    index = _index(places, numbers)
    shown: list[Shown] = []
    rows = enumerate(training)
    while places and (batch := list(islice(rows, BATCH))):
        pairs = {(row, places[text]) for row, text in _found(batch, index=index, numbers=numbers)}
        shown += [Shown(held_out, row) for row, held_out in sorted(pairs)]
    times = Counter(pair.held_out for pair in shown)
    return [pair for pair in shown if times[pair.held_out] <= MOST_SHOWN]


def _index(texts: Iterable[str], numbers: Mapping[str, int]) -> dict[int, list[str]]:
    """Answers by the hash of that run of theirs which the fewest answers share: many begin alike."""
    runs = {text: _runs([numbers[word] for word in text.split()]) for text in texts}
    hashes, times = np.unique(np.concatenate([*runs.values(), np.empty(0, np.uint64)]), return_counts=True)
    index: dict[int, list[str]] = {}
    for text, own in runs.items():
        index.setdefault(int(own[np.argmin(times[np.searchsorted(hashes, own)])]), []).append(text)
    return index


def _found(batch: Sequence[tuple[int, tuple[str, str]]], *, index: Mapping[int, Sequence[str]], numbers: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    """(row, answer) of a batch of numbered rows."""
    texts = [(row, words(text)) for row, pair in batch for text in pair]
    # 0 is no word of an answer: no run that holds it can be one of an answer's, so none reaches into the next text.
    run_hashes = _runs([number for _, text in texts for number in (*(numbers.get(word, 0) for word in text), 0)])
    starts = np.cumsum([0, *(len(text) + 1 for _, text in texts)])
    hits = np.flatnonzero(np.isin(run_hashes, np.fromiter(index, np.uint64, len(index))))
    for hit, owner in zip(hits.tolist(), (np.searchsorted(starts, hits, side="right") - 1).tolist(), strict=True):
        row, text = texts[owner]
        whole = f" {' '.join(text)} "
        yield from ((row, answer) for answer in index[int(run_hashes[hit])] if f" {answer} " in whole)


def _runs(numbered: Sequence[int]) -> NDArray[np.uint64]:
    """A hash of each run of LEAST_WORDS words."""
    numbers = np.array(numbered, dtype=np.uint64)
    count = max(0, len(numbers) - LEAST_WORDS + 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(LEAST_WORDS):
        hashes = hashes * _FACTOR + numbers[place:place + count]
    return hashes ^ (hashes >> np.uint64(32))
