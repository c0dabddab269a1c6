"""When a domain of the curriculum moves on to its next level. Pure; the loop keeps the levels, data_prep makes the records."""

from __future__ import annotations

from collections.abc import Mapping

from settings import LoopSettings


def next_level(accuracy_by_level: Mapping[int, float], *, level: int, highest: int, settings: LoopSettings) -> int:
    """The level to train up to from the next cycle on.

    accuracy_by_level: of the promoted expert's exam. The hardest examined level up to `level` must reach loop.level_pass and
    every easier one loop.level_floor. Easier levels stay in the records (replay), so a level is never lowered;
    promote.decide refuses a later version that loses one.
    """
    examined = sorted(number for number in accuracy_by_level if number <= level)
    if not examined or level >= highest:
        return level
    passed = accuracy_by_level[examined[-1]] >= settings.level_pass
    kept = all(accuracy_by_level[number] >= settings.level_floor for number in examined[:-1])
    return level + 1 if passed and kept else level
