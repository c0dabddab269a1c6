"""When a domain of the curriculum moves on to its next level. Pure; the loop keeps the levels, data_prep makes the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from settings import LoopSettings
from training.promote import FEWEST_TASKS


def next_level(scores_by_level: Mapping[int, Sequence[float]], *, level: int, highest: int, settings: LoopSettings) -> int:
    """The level to train up to from the next cycle on.

    scores_by_level: of graded tasks, from the promoted expert's exam. The present level must have FEWEST_TASKS of them and reach loop.level_pass, every
    easier one that has so many loop.level_floor. Easier levels stay in the records (replay), so a level is never lowered; a later
    version that clearly loses one that its domain was raised from isn't promoted (Examiner.judge).
    """
    scores = scores_by_level.get(level, ())
    passed = len(scores) >= FEWEST_TASKS and fmean(scores) >= settings.level_pass
    return level + 1 if passed and level < highest and _easier_kept(scores_by_level, level=level, settings=settings) else level


def wants_exam(scores_by_level: Mapping[int, Sequence[float]], *, level: int, highest: int, settings: LoopSettings) -> bool:
    """Whether nothing but an exam of the present level is wanting for the next one: exams ask few tasks of it, or as of 4 and 5 none."""
    few = len(scores_by_level.get(level, ())) < FEWEST_TASKS
    return few and level < highest and _easier_kept(scores_by_level, level=level, settings=settings)


def _easier_kept(scores_by_level: Mapping[int, Sequence[float]], *, level: int, settings: LoopSettings) -> bool:
    return all(fmean(scores) >= settings.level_floor for number, scores in scores_by_level.items() if number < level and len(scores) >= FEWEST_TASKS)
