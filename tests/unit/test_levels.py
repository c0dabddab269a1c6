"""training/levels.py: when a curriculum domain moves on."""

import pytest

from settings import LoopSettings
from training.levels import next_level

SETTINGS = LoopSettings(level_pass=0.9, level_floor=0.8)


@pytest.mark.parametrize(("accuracy", "level", "then"), [
    ({1: 1.0, 2: 0.95, 3: 0.92}, 3, 4),
    ({1: 1.0, 2: 0.95, 3: 0.89}, 3, 3),
    ({1: 0.79, 2: 0.95, 3: 0.95}, 3, 3),
    ({1: 0.95, 2: 0.2, 3: 0.1}, 1, 2),
    ({1: 1.0, 2: 1.0, 3: 1.0}, 5, 5),
    ({1: 1.0, 2: 1.0, 3: 0.9}, 4, 5),
    ({}, 3, 3),
])
def test_next_level_needs_a_pass_and_keeps_the_floor(accuracy, level, then):
    assert next_level(accuracy, level=level, highest=5, settings=SETTINGS) == then
