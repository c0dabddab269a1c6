"""Near-duplicates between held-out and training prompts, found by MinHash and proved by the exact Jaccard similarity.

Two prompts are near-duplicates when the sets of their word triples (case and sentence marks aside; in a script without spaces each
character is a word) are similar enough (data.near_duplicate). MinHash (Broder 1997) with locality-sensitive hashing only proposes
pairs. Decides nothing: intake.py and corpus.py do.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from datasketch import MinHash, MinHashLSH

from data_prep.clean import normalised

SHINGLE_WORDS = 3
PERMUTATIONS = 128
BATCH = 4096  # prompts hashed at once
_SEED = 1
# Thai, Lao, Tibetan; Burmese; Khmer; kana and Han with their extensions. Hangul is written with spaces.
_UNSPACED = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
                       "\uff66-\uff9f\U00020000-\U0003ffff]")
_WIDE_MARKS = re.compile("[\u3001\u3002\u300c-\u300f\uff01\uff0c\uff0e\uff1a\uff1b\uff1f\uff61-\uff65]")  # sentence marks as these scripts write them


@dataclass(frozen=True, slots=True)
class Pair:
    """A held-out prompt and a training prompt, by their places in what was given, and their Jaccard similarity."""

    held_out: int
    training: int
    similarity: float


def near_duplicates(held_out: Sequence[str], training: Iterable[str], *, similarity: float) -> list[Pair]:
    """All pairs at least that similar (a pair right at the bound is missed with less than 1 % probability), in the order of training."""
    sets = [shingles(prompt) for prompt in held_out]
    # Proposed from a lower bound on, with misses weighed nine times false alarms: a false alarm costs one set comparison.
    index = MinHashLSH(threshold=0.8 * similarity, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
    for place, signature in enumerate(_signatures(sets)):
        index.insert(place, signature)
    pairs: list[Pair] = []
    if not sets:
        return pairs
    numbered = enumerate(map(shingles, training))
    while batch := list(islice(numbered, BATCH)):
        for (place, found), signature in zip(batch, _signatures([found for _, found in batch]), strict=True):
            for other in index.query(signature):
                common = len(found & sets[other])
                if (jaccard := common / (len(found) + len(sets[other]) - common)) >= similarity:
                    pairs.append(Pair(other, place, jaccard))
    return pairs


def shingles(prompt: str) -> frozenset[bytes]:
    """The word triples of a prompt; a prompt of fewer words is one shingle."""
    found = [word.encode("utf-8", "surrogatepass") for word in words(prompt)]
    return frozenset(b" ".join(found[place:place + SHINGLE_WORDS]) for place in range(max(1, len(found) - SHINGLE_WORDS + 1)))


def words(text: str) -> list[str]:
    """What stands between blanks, case and sentence marks aside; of a script without blanks, each character."""
    text = normalised(text)
    return text.split() if text.isascii() else _UNSPACED.sub(r" \g<0> ", _WIDE_MARKS.sub(" ", text)).split()


def _signatures(sets: Sequence[frozenset[bytes]]) -> Iterator[MinHash]:
    # crc32 in place of sha1: mixed again by datasketch, and four times as fast. In chunks, so that few signatures are held.
    for first in range(0, len(sets), BATCH):
        yield from MinHash.bulk(sets[first:first + BATCH], num_perm=PERMUTATIONS, seed=_SEED, hashfunc=zlib.crc32)
