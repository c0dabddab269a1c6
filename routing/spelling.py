"""Words that nobody wrote before, read as the common word they are one slip away from: a typo then changes nothing about a route.

Words are looked up by what is left of them without one letter (the deletion index of SymSpell, Garbe 2012). Knows no label and
no text; a word with its first letter wrong stays as it is (Yannakoudakis and Fawthrop 1983: few slips are there).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

from routing.text import Reading

_MOST_CACHED = 1 << 16
SHORTEST = 4  # letters of the shortest word that is meant; one of three is too near to too many others


@dataclass(frozen=True)
class Spelling:
    """What counts as spelled. known: read as they are. common: those of them that a word of no list may be read as, most frequent first."""

    known: frozenset[str] = frozenset()
    common: tuple[str, ...] = ()
    _cache: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def respelled(self, reading: Reading) -> Reading:
        """The reading with the words that are meant; the same object where nothing changes."""
        if not self.common or self.known.issuperset(reading.tokens):
            return reading
        meant = [self.meant(token) for token in reading.tokens]
        return reading if meant == reading.tokens else reading.with_tokens(meant)

    def meant(self, word: str) -> str:
        """The most frequent common word that is one slip away: a letter dropped, doubled or added, changed, or two swapped; else the word."""
        if word in self.known:
            return word
        found = self._cache.get(word)
        if found is None:
            found = self._cache[word] = self._nearest(word) if len(word) >= SHORTEST - 1 and word.isalpha() else word
            if len(self._cache) > _MOST_CACHED:
                self._cache.clear()
        return found

    def _nearest(self, word: str) -> str:
        places = {place for rest in (word, *_one_less(word)) for place in self._index.get(rest, ())}
        return next((self.common[place] for place in sorted(places) if is_one_slip(word, self.common[place])), word)

    @cached_property
    def _index(self) -> dict[str, list[int]]:
        """Places of common words by themselves and by what is left of them without one letter."""
        index: dict[str, list[int]] = {}
        for place, word in enumerate(self.common):
            for rest in (word, *_one_less(word)):
                index.setdefault(rest, []).append(place)
        return index


AS_WRITTEN = Spelling()  # reads every word as it is


def fit_spelling(readings: Sequence[Reading], *, sources: Sequence[str | None], most: int, min_rows: int) -> Spelling:
    """The spelling of people's own texts (none with a typo made by us). sources: where each is from, None for one of no domain.

    known: words of min_rows texts or more. common: the `most` most frequent known words of SHORTEST letters that two sources have.
    """
    everyone = [set(reading.tokens) for reading in readings]
    rows = Counter(chain.from_iterable(everyone))
    known = frozenset(word for word, count in rows.items() if count >= min_rows)
    names = {name for name in sources if name is not None}
    by_source: Counter[str] = Counter()
    for name in names:
        by_source.update(set().union(*(words for words, source in zip(everyone, sources, strict=True) if source == name)))
    usable = [word for word in known if len(word) >= SHORTEST and word.isalpha() and by_source[word] >= min(2, len(names))]
    return Spelling(known, tuple(sorted(usable, key=lambda word: (-rows[word], word))[:most]))


def is_one_slip(one: str, other: str) -> bool:
    """Whether one letter more, less or changed, or two neighbours swapped, makes one word the other (Damerau 1964); no word is a slip of itself."""
    if abs(len(one) - len(other)) > 1 or one == other:
        return False
    start = next((place for place, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), min(len(one), len(other)))
    rest, others = one[start:], other[start:]
    if len(rest) != len(others):
        return rest[1:] == others or rest == others[1:]
    return rest[1:] == others[1:] or (len(rest) > 1 and rest[:2] == others[1::-1] and rest[2:] == others[2:])


def _one_less(word: str) -> set[str]:
    """The word without one of its letters, its first one kept."""
    return {word[:place] + word[place + 1:] for place in range(1, len(word))}
