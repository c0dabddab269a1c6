"""training/examiner.py: what a verdict is made of; models and exams are stand-ins here."""

from types import SimpleNamespace

import pytest

from experts.tree import Tree
from settings import Settings
from training import examiner as examiner_module
from training.examiner import Examiner
from training.scorecard import Outcome, Scorecard


def _card(**right):
    """right: how many of 40 tasks a level; levels are written as one=1, two=2."""
    outcomes = tuple(Outcome(f"{name}{i}", "code", "t", {"one": 1, "two": 2}[name], float(i < some), False) for name, some in right.items() for i in range(40))
    return Scorecard("e", outcomes, {"code": 1.0}, {"code": 0.5}, 0.1)


@pytest.mark.parametrize(("floor", "promote"), [(0.8, False), (0.4, True)])
def test_examiner_holds_the_floor_of_levels_that_is_set(tmp_path, monkeypatch, floor, promote):
    settings = Settings().model_copy(update={"loop": Settings().loop.model_copy(update={"level_floor": floor})})
    examiner = Examiner(SimpleNamespace(settings=settings, folder=tmp_path, tree=Tree.from_settings(settings.tree)), device=None)
    monkeypatch.setattr(examiner_module, "goes_in_circles", lambda *args, **more: False)
    monkeypatch.setattr(examiner_module, "examine", lambda *args, **more: _card(one=20, two=40))
    for name, found in (("_exam", None), ("incumbent", ("code", "v000001")), ("_is_early", False), ("_examine_served", _card(one=38, two=5))):
        monkeypatch.setattr(examiner, name, lambda *args, found=found: found)
    verdict = examiner.judge("code", None, None)
    assert verdict.decision.promote is promote
    assert ("level 1 of code falls 95.0% -> 50.0%, below loop.level_floor = 80.0%" in verdict.decision.reason) is not promote
