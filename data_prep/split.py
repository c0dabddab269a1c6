"""Which split an example belongs to: decided by a hash of its prompt, so it is the same on every machine and in every cycle.

The prompt is hashed as clean.normalised gives it: all answers to one question, in whichever case, stand on one side. Does not
look at similarity (overlap.py).
"""

from __future__ import annotations

import hashlib

from data_prep.clean import normalised
from data_prep.records import Example, Split
from settings import DataSettings

SPLITS: tuple[Split, ...] = ("train", "validation", "exam")


def split_of(example: Example, *, settings: DataSettings, has_exam: bool = False) -> Split:
    """The split. has_exam: the domain has rows for exams alone, so no other row goes there. exam_only examples always do."""
    if example.exam_only:
        return "exam"
    place = prompt_place(example.prompt)
    # Validation lies first: where it ends doesn't depend on whether there is an exam file.
    if place < settings.validation_share:
        return "validation"
    return "exam" if not has_exam and place < settings.validation_share + settings.exam_share else "train"


def prompt_place(prompt: str) -> float:
    """A number in [0, 1) that depends on the normalised prompt alone, uniform over prompts."""
    digest = hashlib.sha256(normalised(prompt).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
