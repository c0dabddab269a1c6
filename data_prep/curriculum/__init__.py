"""The embedded curriculum: endless seeded training records, fixed exams, and graders of answers, for five domains.

Needs no network and no files. Does not train and does not choose levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_prep.curriculum.code import CURRICULUM as CODE
from data_prep.curriculum.conversation import CURRICULUM as CONVERSATION
from data_prep.curriculum.knowledge import CURRICULUM as KNOWLEDGE
from data_prep.curriculum.math import CURRICULUM as MATH
from data_prep.curriculum.reasoning import CURRICULUM as REASONING
from data_prep.curriculum.tasks import EXAM_LEVELS, Curriculum, draw_exam, draw_records
from data_prep.records import Record

__all__ = ["EXAM_LEVELS", "domains", "grade", "levels", "make_exam", "make_records", "make_validation"]

_CURRICULA: Mapping[str, Curriculum] = {part.domain: part for part in (MATH, REASONING, CONVERSATION, KNOWLEDGE, CODE)}


def domains() -> tuple[str, ...]:
    """Domains that have a curriculum."""
    return tuple(_CURRICULA)


def levels(domain: str) -> tuple[int, ...]:
    """Levels of a domain, lowest first. Exams ask EXAM_LEVELS where no others are given."""
    return _curriculum(domain).levels()


def make_records(domain: str, *, count: int, levels: Sequence[int], seed: int) -> Iterator[Record]:
    """count training records, the levels in turn; the same seed gives the same records. No instance of the exam or of validation is among them.

    source is "curriculum/<domain>"; meta has task, level, instance and what grade() needs. Raises ValueError for an
    unknown domain or level.
    """
    return draw_records(_curriculum(domain), count=count, levels=levels, seed=seed, side="train")


def make_validation(domain: str, *, count: int, levels: Sequence[int], seed: int) -> Iterator[Record]:
    """As make_records, of instances that are neither trained nor examined; what a held-out answer costs is measured on them."""
    return draw_records(_curriculum(domain), count=count, levels=levels, seed=seed, side="validation")


def make_exam(domain: str, *, count: int = 200, levels: Sequence[int] = EXAM_LEVELS) -> list[Record]:
    """The first count tasks of the domain's fixed exam of these levels: in turn, exam_only, no prompt twice. Raises ValueError for an unknown domain or
    level."""
    return draw_exam(_curriculum(domain), count=count, levels=levels)


def grade(domain: str, meta: Mapping[str, Any], text: str) -> bool:
    """Whether text answers the task that meta (of a record) describes. Never raises for a bad text."""
    return _curriculum(domain).grade(meta, text)


def _curriculum(domain: str) -> Curriculum:
    try:
        return _CURRICULA[domain]
    except KeyError:
        raise ValueError(f"no curriculum for domain {domain!r}; there is one for {', '.join(_CURRICULA)}; put records of its own in its data folder") from None
