"""A prompt as numbers: TF-IDF of word 1-2-grams, of letter 3-5-grams within words and of its form (2-4-grams), and a few dense facts.

The TF-IDF blocks equal scikit-learn's TfidfVectorizer (word 1-2, char_wb 3-5, word 2-4 of the form; sublinear, smooth idf, L2) on the
joined tokens; they are computed here because one prompt at a time and word by word is many times faster. Knows no label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from routing.spelling import AS_WRITTEN, Spelling
from routing.text import FORM_WORDS, NUMBER, Reading, read

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Length and line breaks are no facts here: they tell data sets apart, not domains (held-out sources lost up to 40 points by them).
DENSE = ("share of numbers", "share of code signs", "share of letters beyond ASCII", "share of English function words",
         "share of unknown words", "share of unknown letter groups")
NOVELTY = 4  # so many of DENSE, at the end, say how strange a text is: only the decision about "ood" may read them
GRAM_SIZES = (3, 4, 5)
FORM_SIZES = (2, 3, 4)
_CACHED_WORDS = 1 << 16


@dataclass(frozen=True, slots=True)
class Sparse:
    """One prompt's features: ids ascending, values of the same length. empty: no word of it is in the vocabulary."""

    ids: Ints
    values: Floats
    empty: bool


@dataclass(frozen=True)
class Features:
    """A fitted vocabulary. Columns: words, letter groups, forms, DENSE. familiar: words and groups that two or more
    in-domain sources have, so that a text of a source never seen looks no stranger than those it was fitted on."""

    words: dict[str, int]
    grams: dict[str, int]
    forms: dict[str, int]
    idf: Floats
    familiar: NDArray[np.bool_]
    spelling: Spelling = AS_WRITTEN
    word_grams: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "word_grams", lru_cache(maxsize=_CACHED_WORDS)(self._word_grams))

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.words) + len(self.grams) + len(self.forms) + len(DENSE)

    @property
    def first_novelty(self) -> int:
        """First of the columns that say how strange a text is."""
        return self.width - NOVELTY

    @property
    def form_start(self) -> int:
        """First column that is no word or letter group; a text with nothing before it holds no known word."""
        return len(self.words) + len(self.grams)

    def names_of(self, ids: Ints) -> list[str]:
        """What these columns stand for, as people read it."""
        return [self._names[place] for place in ids.tolist()]

    @cached_property
    def _names(self) -> list[str]:
        return [*self.words, *(f"letters '{gram}'" for gram in self.grams), *(f"form '{form}'" for form in self.forms), *DENSE]

    def one(self, text: str) -> Sparse:
        """Features of one text."""
        reading = self.spelling.respelled(read(text))
        found = reading.tokens
        counts = Counter(found)
        bigrams = Counter(map(" ".join, pairwise(found)))
        word_ids, word_tf = _look_up((counts, bigrams), self.words, offset=0)
        gram_ids, gram_tf, known, total = self._one_grams(found)
        form_ids, form_tf = _look_up((Counter(_form_groups(reading.form)),), self.forms, offset=len(self.words) + len(self.grams))
        unknown_words = 1 - sum(count for word, count in counts.items() if self._is_familiar(word)) / max(1, len(found))
        unknown_grams = 1 - known / max(1.0, total)
        values = np.concatenate((self._weigh(word_ids, word_tf), self._weigh(gram_ids, gram_tf), self._weigh(form_ids, form_tf),
                                 _dense(text, found, unknown_words=unknown_words, unknown_grams=unknown_grams)))
        first_dense = self.width - len(DENSE)
        ids = np.concatenate((word_ids, gram_ids, form_ids, np.arange(first_dense, self.width, dtype=np.int64)))
        return Sparse(ids, values, empty=not word_ids.size and not gram_ids.size)

    def many(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Features of many texts, one row a text."""
        return self.of_counts(Counts.of(texts, [self.spelling.respelled(read(text)) for text in texts]))

    def of_counts(self, counts: Counts) -> sparse.csr_matrix:
        """Features of counted texts; the same numbers as one() gives."""
        words = self._block(counts.words, counts.word_names, self.words)
        bigrams = self._block(counts.bigrams, counts.bigram_names(), self.words)
        grams = self._block(counts.grams, counts.gram_names, self.grams)
        forms = self._block(counts.forms, counts.form_names, self.forms)
        facts = np.array([(word == NUMBER, not word[0].isalnum(), word in FORM_WORDS, self._is_familiar(word)) for word in counts.word_names],
                         dtype=np.float64).reshape(len(counts.word_names), 4)
        lengths = np.maximum(1, [len(found) for found in counts.tokens])
        shares = (counts.words @ facts) / lengths[:, None]  # of the words of each text
        known_grams = grams @ self.familiar[len(self.words):].astype(np.float64)
        total = np.maximum(1.0, np.asarray(counts.grams.sum(axis=1)).ravel())
        foreign = [_foreign(text) for text in counts.texts]
        wordless = np.array([not found for found in counts.tokens], dtype=np.bool_)
        dense = np.column_stack((shares[:, 0], shares[:, 1], foreign, shares[:, 2],
                                 1 - shares[:, 3], np.where(wordless, 1.0, 1 - known_grams / total)))
        first_gram, first_form = len(self.words), len(self.words) + len(self.grams)
        blocks = (self._tfidf((words + bigrams).tocsr(), self.idf[:first_gram]), self._tfidf(grams, self.idf[first_gram:first_form]),
                  self._tfidf(forms, self.idf[first_form:]), sparse.csr_matrix(dense))
        return sparse.hstack(blocks, format="csr")

    def _is_familiar(self, word: str) -> bool:
        place = self.words.get(word)
        return place is not None and bool(self.familiar[place])

    def _word_grams(self, word: str) -> tuple[Ints, float, int]:
        """Columns of a word's letter groups (with repeats), how many of them are familiar, and how many groups it has."""
        groups = letter_groups(word)
        columns = [self.grams[group] for group in groups if group in self.grams]
        offset = len(self.words)
        known = float(sum(self.familiar[offset + column] for column in columns))
        return np.array(columns, dtype=np.int64) + offset, known, len(groups)

    def _one_grams(self, found: Sequence[str]) -> tuple[Ints, Floats, float, float]:
        parts = [self.word_grams(word) for word in found]
        if not parts:
            return np.zeros(0, dtype=np.int64), np.zeros(0), 0.0, 0.0
        ids, counts = np.unique(np.concatenate([part[0] for part in parts]), return_counts=True)
        return ids, counts.astype(np.float64), sum(part[1] for part in parts), float(sum(part[2] for part in parts))

    def _weigh(self, ids: Ints, counts: Floats) -> Floats:
        values: Floats = (1 + np.log(counts)) * self.idf[ids]
        length = float(np.sqrt(values @ values))
        return values / length if length else values

    @staticmethod
    def _block(counts: sparse.csr_matrix, names: Sequence[str], vocabulary: dict[str, int]) -> sparse.csr_matrix:
        """Counts with their columns moved to the vocabulary's places; columns outside it fall away."""
        places = np.array([vocabulary.get(name, -1) for name in names], dtype=np.int64)
        here = np.flatnonzero(places >= 0)
        mover = sparse.csr_matrix((np.ones(len(here)), (here, places[here])), shape=(len(names), len(vocabulary)))
        return (counts @ mover).tocsr()

    @staticmethod
    def _tfidf(counts: sparse.csr_matrix, idf: Floats) -> sparse.csr_matrix:
        values = counts.astype(np.float64)
        values.sort_indices()
        values.data = (1 + np.log(values.data)) * idf[values.indices]
        squares = np.asarray(values.multiply(values).sum(axis=1)).ravel()
        lengths = np.sqrt(np.where(squares > 0, squares, 1.0))
        values.data /= np.repeat(lengths, np.diff(values.indptr))
        return values


@dataclass(frozen=True)
class Counts:
    """Texts counted once: rows are texts; word, bigram and letter-group columns as they were met."""

    texts: tuple[str, ...]
    tokens: tuple[list[str], ...]
    word_names: tuple[str, ...]
    words: sparse.csr_matrix
    bigram_codes: Ints
    bigrams: sparse.csr_matrix
    gram_names: tuple[str, ...]
    grams: sparse.csr_matrix
    form_names: tuple[str, ...]
    forms: sparse.csr_matrix

    @classmethod
    def of(cls, texts: Sequence[str], readings: Sequence[Reading]) -> Counts:
        """Count texts as they were read."""
        found = tuple(reading.tokens for reading in readings)
        form_names, forms = _count_terms([_form_groups(reading.form) for reading in readings])
        numbers: dict[str, int] = {}
        ids = np.array([numbers.setdefault(token, len(numbers)) for row in found for token in row], dtype=np.int64)
        lengths = np.array([len(row) for row in found], dtype=np.int64)
        rows = np.repeat(np.arange(len(found)), lengths)
        words = _count(rows, ids, shape=(len(found), len(numbers)))
        together = rows[1:] == rows[:-1]
        pairs = (ids[:-1] * max(1, len(numbers)) + ids[1:])[together]
        codes, places = np.unique(pairs, return_inverse=True)
        bigrams = _count(rows[1:][together], places, shape=(len(found), len(codes)))
        gram_numbers: dict[str, int] = {}
        word_groups = [[gram_numbers.setdefault(group, len(gram_numbers)) for group in letter_groups(word)] for word in numbers]
        owners = np.repeat(np.arange(len(numbers)), [len(groups) for groups in word_groups])
        columns = np.array([group for groups in word_groups for group in groups], dtype=np.int64)
        by_word = _count(owners, columns, shape=(len(numbers), len(gram_numbers)))
        return cls(tuple(texts), found, tuple(numbers), words, codes, bigrams, tuple(gram_numbers), (words @ by_word).tocsr(), form_names, forms)

    def bigram_names(self) -> list[str]:
        """Both words of each bigram column."""
        size = max(1, len(self.word_names))
        return [f"{self.word_names[code // size]} {self.word_names[code % size]}" for code in self.bigram_codes.tolist()]


def fit_features(counts: Counts, *, sources: Sequence[str | None], word_limit: int, gram_limit: int, form_limit: int,
                 min_rows: int, spelling: Spelling = AS_WRITTEN) -> Features:
    """A vocabulary of the terms that stand in at least min_rows texts, the most frequent first up to the limits.

    sources: where each text is from, None for one of no domain; a term of two or more sources is familiar. spelling: by which the
    counted texts were read.
    """
    names = [*counts.word_names, *counts.bigram_names()]
    owners = _source_rows(sources)
    joined = sparse.hstack((counts.words, counts.bigrams), format="csr")
    words, word_idf, word_familiar = _choose(joined, names, owners=owners, limit=word_limit, min_rows=min_rows)
    grams, gram_idf, gram_familiar = _choose(counts.grams, counts.gram_names, owners=owners, limit=gram_limit, min_rows=min_rows)
    forms, form_idf, _ = _choose(counts.forms, counts.form_names, owners=owners, limit=form_limit, min_rows=min_rows)
    return Features(words, grams, forms, np.concatenate((word_idf, gram_idf, form_idf)), np.concatenate((word_familiar, gram_familiar)), spelling)


def letter_groups(word: str) -> list[str]:
    """The 3-5-letter groups of a word between blanks, as scikit-learn's char_wb takes them (a short word once)."""
    padded = f" {word} "
    groups: list[str] = []
    for size in GRAM_SIZES:
        if len(padded) <= size:
            groups.append(padded)
            break
        groups += [padded[start:start + size] for start in range(len(padded) - size + 1)]
    return groups


def _choose(counts: sparse.csr_matrix, names: Sequence[str], *, owners: sparse.csr_matrix, limit: int,
            min_rows: int) -> tuple[dict[str, int], Floats, NDArray[np.bool_]]:
    present = counts.astype(bool).astype(np.int64)
    rows = np.asarray(present.sum(axis=0)).ravel()
    sources = np.asarray((owners @ present).astype(bool).sum(axis=0)).ravel()
    enough = np.flatnonzero(rows >= min_rows)
    kept = sorted(enough[np.argsort(-rows[enough], kind="stable")][:limit].tolist(), key=names.__getitem__)
    idf = np.log((1 + counts.shape[0]) / (1 + rows[kept])) + 1
    return {names[column]: place for place, column in enumerate(kept)}, idf, sources[kept] >= min(2, owners.shape[0])


def _form_groups(form: Sequence[str]) -> list[str]:
    """Groups of 2 to 4 neighbours of a form."""
    return [" ".join(form[start:start + size]) for size in FORM_SIZES for start in range(len(form) - size + 1)]


def _look_up(parts: Sequence[Counter[str]], vocabulary: dict[str, int], *, offset: int) -> tuple[Ints, Floats]:
    """Columns (ascending) and counts of the terms that the vocabulary knows."""
    pairs = sorted((vocabulary[term], count) for part in parts for term, count in part.items() if term in vocabulary)
    return np.array([pair[0] for pair in pairs], dtype=np.int64) + offset, np.array([pair[1] for pair in pairs], dtype=np.float64)


def _count_terms(rows: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], sparse.csr_matrix]:
    numbers: dict[str, int] = {}
    columns = np.array([numbers.setdefault(term, len(numbers)) for row in rows for term in row], dtype=np.int64)
    places = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return tuple(numbers), _count(places, columns, shape=(len(rows), len(numbers)))


def _source_rows(sources: Sequence[str | None]) -> sparse.csr_matrix:
    """One row a source, a one for each of its texts."""
    names = {name: place for place, name in enumerate(dict.fromkeys(name for name in sources if name is not None))}
    texts = np.array([place for place, name in enumerate(sources) if name is not None], dtype=np.int64)
    return _count(np.array([names[sources[text]] for text in texts.tolist()], dtype=np.int64), texts, shape=(len(names), len(sources)))


def _count(rows: Ints, columns: Ints, *, shape: tuple[int, int]) -> sparse.csr_matrix:
    return sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=shape).tocsr()


def _dense(text: str, found: Sequence[str], *, unknown_words: float, unknown_grams: float) -> Floats:
    """The DENSE facts, each between 0 and about 1."""
    size = max(1, len(found))
    return np.array((
        sum(token == NUMBER for token in found) / size,
        sum(not token[0].isalnum() for token in found) / size,
        _foreign(text),
        sum(token in FORM_WORDS for token in found) / size,
        unknown_words if found else 1.0,
        unknown_grams if found else 1.0,
    ), dtype=np.float64)


def _foreign(text: str) -> float:
    """Share of letters beyond ASCII."""
    return 0.0 if text.isascii() else sum(letter > "\x7f" and letter.isalpha() for letter in text) / max(1, len(text))
