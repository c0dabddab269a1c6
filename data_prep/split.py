"""Which split an example belongs to: decided by a hash of its prompt, so it is the same on every machine.

The prompt is hashed as clean.normalised gives it: all answers to one question, in whichever case, stand on one side. How many rows
a small domain holds out depends on how many there are, and settings and *_test files change; but a row that was trained on stays in
training (trained.py). Does not look at similarity (overlap.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from data_prep.clean import normalised
from data_prep.records import Example, Split
from settings import DataSettings

SPLITS: tuple[Split, ...] = ("train", "validation", "exam")
LEAST_HELD_OUT = 10  # rows of validation and exam each, where a share of the records would be fewer
LEAST_ROWS = 3  # below, there is nothing to hold out


def split_of(example: Example, *, settings: DataSettings, has_exam: bool = False) -> Split:
    """The split. has_exam: the domain has rows for exams alone, so no other row goes there. exam_only examples always do."""
    if example.exam_only:
        return "exam"
    return _split_at(prompt_place(example.prompt), settings=settings, has_exam=has_exam)


def _split_at(place: float, *, settings: DataSettings, has_exam: bool) -> Split:
    # Validation lies first: where it ends doesn't depend on whether there is an exam file.
    if place < settings.validation_share:
        return "validation"
    return "exam" if not has_exam and place < settings.validation_share + settings.exam_share else "train"


def split_all(examples: Sequence[Example], *, settings: DataSettings, trained: Collection[str] = ()) -> dict[Split, list[Example]]:
    """All examples of a domain by split, in order. A small domain holds out a tenth for each split at least (ten rows, if it has
    a hundred), as far as rows are free: the first by their hash, so still the same ones everywhere. trained: keys of rows that stay in training."""
    has_exam = any(example.exam_only for example in examples)
    places = {example.key: prompt_place(example.prompt) for example in examples if not example.exam_only}
    free = {key: place for key, place in places.items() if key not in trained}
    chosen: dict[str, Split] = {example.key: "exam" if example.exam_only else "train" for example in examples}
    chosen |= {key: _split_at(place, settings=settings, has_exam=has_exam) for key, place in free.items()}
    least = max(1, min(LEAST_HELD_OUT, len(places) // 10)) if len(places) >= LEAST_ROWS else 0
    held_out: tuple[Split, ...] = ("validation",) if has_exam else ("validation", "exam")
    for split in held_out:
        have = sum(kept == split for kept in chosen.values())
        spare = sorted(place for key, place in free.items() if chosen[key] == "train")
        if have < least and spare:
            last = spare[min(least - have, len(spare)) - 1]  # rows with one prompt share one place, and go together
            chosen |= dict.fromkeys((key for key, place in free.items() if chosen[key] == "train" and place <= last), split)
    rows: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    for example in examples:
        rows[chosen[example.key]].append(example)
    return rows


def prompt_place(prompt: str) -> float:
    """A number in [0, 1) that depends on the normalised prompt alone, uniform over prompts."""
    return (prompt_hash(prompt) >> 16) / 2**48


def prompt_hash(prompt: str) -> int:
    """64 bits that depend on the normalised prompt alone."""
    return int.from_bytes(hashlib.sha256(normalised(prompt).encode("utf-8", "surrogatepass")).digest()[:8], "big")
