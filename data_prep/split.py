"""Which split an example belongs to: decided by a hash of its prompt, so it is the same on every machine and in every cycle.

The prompt is hashed as clean.normalised gives it: all answers to one question, in whichever case, stand on one side. Does not
look at similarity (overlap.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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
    place = prompt_place(example.prompt)
    # Validation lies first: where it ends doesn't depend on whether there is an exam file.
    if place < settings.validation_share:
        return "validation"
    return "exam" if not has_exam and place < settings.validation_share + settings.exam_share else "train"


def split_all(examples: Sequence[Example], *, settings: DataSettings) -> dict[Split, list[Example]]:
    """All examples of a domain by split, in order. A small domain holds out a tenth for each split at least (ten rows, if it has
    a hundred): the first by their hash, so still the same ones everywhere."""
    has_exam = any(example.exam_only for example in examples)
    chosen = {example.key: split_of(example, settings=settings, has_exam=has_exam) for example in examples}
    places = {example.key: prompt_place(example.prompt) for example in examples if not example.exam_only}
    least = max(1, min(LEAST_HELD_OUT, len(places) // 10)) if len(places) >= LEAST_ROWS else 0
    held_out: tuple[Split, ...] = ("validation",) if has_exam else ("validation", "exam")
    for split in held_out:
        have = sum(kept == split for kept in chosen.values())
        spare = sorted(place for key, place in places.items() if chosen[key] == "train")
        if have < least and spare:
            last = spare[min(least - have, len(spare)) - 1]  # rows with one prompt share one place, and go together
            chosen |= dict.fromkeys((key for key, place in places.items() if chosen[key] == "train" and place <= last), split)
    rows: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    for example in examples:
        rows[chosen[example.key]].append(example)
    return rows


def prompt_place(prompt: str) -> float:
    """A number in [0, 1) that depends on the normalised prompt alone, uniform over prompts."""
    digest = hashlib.sha256(normalised(prompt).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
