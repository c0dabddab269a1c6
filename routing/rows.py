"""Rows to fit and judge a router on: a prompt, its label and where it came from; which rows say nearly the same.

Reads no files. A label is a domain of the tree or "ood".
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.text import tokens

FEEDBACK = "feedback"  # source of rows that users' corrections became
_BANDS = 3
_ROWS_A_BAND = 2
_SHINGLE = 3
_PRIME = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled prompt. source: rows of one source share a manner. weight: how much it counts in the fit."""

    prompt: str
    label: str
    source: str
    weight: float = 1.0


def near_duplicate_groups(texts: Sequence[str]) -> NDArray[np.int64]:
    """A group number a text; texts whose word triples overlap by about 80 % or more get the same one.

    MinHash (Broder 1997) in 3 bands of 2: two texts of similarity s meet with probability 1 - (1 - s^2)^3, 0.95 at 0.8. Groups are closed: what
    is alike to either of two that are alike joins both.
    """
    multipliers = np.random.default_rng(7).integers(1, _PRIME, size=_BANDS * _ROWS_A_BAND, dtype=np.int64).astype(np.uint64)
    parents = list(range(len(texts)))
    owners: dict[tuple[int, int, int], int] = {}
    for number, text in enumerate(texts):
        hashes = _shingles(text)
        if not hashes.size:
            continue
        least = ((hashes[:, None] * multipliers) % np.uint64(_PRIME)).min(axis=0).tolist()
        for band in range(_BANDS):
            owner = owners.setdefault((band, least[2 * band], least[2 * band + 1]), number)
            _join(parents, owner, number)
    return np.array([_root(parents, number) for number in range(len(texts))], dtype=np.int64)


def split_groups(groups: NDArray[np.int64], *, share: float, seed: int) -> NDArray[np.bool_]:
    """A mask of about share of the rows that takes whole groups; the same seed gives the same mask."""
    names, places = np.unique(groups, return_inverse=True)
    taken = np.random.default_rng(seed).random(len(names)) < share
    chosen: NDArray[np.bool_] = taken[places]
    return chosen


def _shingles(text: str) -> NDArray[np.uint64]:
    found = tokens(text)
    joined = {" ".join(found[start:start + _SHINGLE]) for start in range(max(1, len(found) - _SHINGLE + 1))} if found else set()
    return np.array([zlib.crc32(shingle.encode("utf-8", "surrogatepass")) for shingle in joined], dtype=np.uint64) % np.uint64(_PRIME)


def _root(parents: list[int], place: int) -> int:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = parents[place]
    return place


def _join(parents: list[int], one: int, other: int) -> None:
    first, second = sorted((_root(parents, one), _root(parents, other)))
    parents[second] = first
