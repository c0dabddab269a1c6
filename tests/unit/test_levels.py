"""training/levels.py: when a curriculum domain moves on."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from experts.journal import Journal
from settings import LoopSettings, Settings
from training.agenda import Agenda, Job
from training.levels import next_level, wants_exam
from training.loop import Loop
from training.scorecard import Outcome, Scorecard

SETTINGS = LoopSettings(level_pass=0.9, level_floor=0.8)


def _scores(right):
    """right: {level: share right of 100 tasks, or (right, tasks)}."""
    pairs = {level: found if isinstance(found, tuple) else (round(100 * found), 100) for level, found in right.items()}
    return {level: [float(place < some) for place in range(of)] for level, (some, of) in pairs.items()}


@pytest.mark.parametrize(("right", "level", "then"), [
    ({1: 1.0, 2: 0.95, 3: 0.92}, 3, 4),
    ({1: 1.0, 2: 0.95, 3: 0.89}, 3, 3),
    ({1: 0.79, 2: 0.95, 3: 0.95}, 3, 3),
    ({1: 0.95, 2: 0.2, 3: 0.1}, 1, 2),
    ({1: 1.0, 2: 1.0, 3: 1.0, 5: 1.0}, 5, 5),
    ({1: 1.0, 2: 1.0, 3: 1.0}, 4, 4),  # level 4 wasn't asked
    ({1: 1.0, 2: 1.0, 3: 1.0, 4: (36, 40)}, 4, 5),
    ({1: 1.0, 2: 1.0, 3: 1.0, 4: (35, 40)}, 4, 4),
    ({1: 1.0, 2: 1.0, 3: 0.79, 4: (40, 40)}, 4, 4),
    ({1: (1, 1)}, 1, 1),
    ({1: (19, 19)}, 1, 1),
    ({1: (18, 20)}, 1, 2),
    ({1: (0, 19), 2: (20, 20)}, 2, 3),  # so few tasks say nothing of the easier level either
    ({}, 3, 3),
])
def test_next_level_needs_a_pass_of_an_exam_of_twenty_tasks_and_keeps_the_floor(right, level, then):
    assert next_level(_scores(right), level=level, highest=5, settings=SETTINGS) == then


@pytest.mark.parametrize(("right", "level", "wanted"), [
    ({1: 1.0, 2: 1.0, 3: 1.0}, 4, True), ({1: 1.0, 2: 1.0, 3: 1.0}, 3, False), ({1: (19, 19)}, 1, True), ({1: (0, 20)}, 1, False),
    ({1: 0.79, 2: 1.0, 3: 1.0}, 4, False), ({1: 1.0, 2: 1.0, 3: 1.0}, 5, False), ({1: 1.0, 4: (0, 40)}, 4, False), ({}, 3, True)])
def test_wants_exam_where_the_present_level_was_asked_too_little_and_all_else_passes(right, level, wanted):
    assert wants_exam(_scores(right), level=level, highest=5, settings=SETTINGS) is wanted


@pytest.mark.parametrize(("right", "of_records", "raised"), [(36, set(), [("math", 5, 40, 0.9)]), (35, set(), []), (36, {"math"}, [])])
def test_loop_asks_a_promoted_expert_the_level_that_exams_leave_out(tmp_path, right, of_records, raised):
    """Its exam asked levels 1 to 3 and all was right; level 4 is passed with 36 tasks of 40. A domain of records alone has no levels."""
    outcomes = tuple(Outcome(f"{level}-{place}", "math", "add", level, 1.0, False) for level in (1, 2, 3) for place in range(20))
    card = {"scorecard": Scorecard("e", outcomes, {"math": 1.0}, {"math": 0.5}, 0.1).to_json()}
    registry = SimpleNamespace(served=lambda domain: Path("math/v000007"), card=lambda *version: card)
    run = SimpleNamespace(settings=Settings(), tree=SimpleNamespace(domains=("math", "code")), registry=registry, journal=Journal(tmp_path / "journal.sqlite"))
    asked = []

    def level_scores(domain, version, *, level):
        asked.append((domain, version.name, level))
        return [float(place < right) for place in range(40)]

    loop = SimpleNamespace(_run=run, _jobs=SimpleNamespace(level_scores=level_scores), _reporter=SimpleNamespace(note=lambda text: None),
                           _levels=lambda before: {"math": 4}, _corpus=SimpleNamespace(of_records=of_records), _should_stop=lambda: False)
    Loop._raise_levels(loop, Agenda(cycle=3, jobs=(Job("math", 1.0, status="promoted"), Job("code", 1.0, status="refused"))))
    assert asked == ([] if of_records else [("math", "v000007", 4)])
    events = run.journal.events(kind="level_raised")
    assert [(event.node, *(event.facts[name] for name in ("level", "tasks", "accuracy"))) for event in events] == raised
