"""training/promote.py: which candidate replaces which served version, and why."""

import numpy as np
import pytest

from settings import PromoteSettings
from training.promote import decide, mastered_levels, paired_bootstrap
from training.scorecard import Outcome, Scorecard

SETTINGS = PromoteSettings()


def _card(right, *, of=100, loops=0, bits=1.0, exam="e"):
    outcomes = tuple(Outcome(str(i), "math", "t", 1, float(i < right), i < loops) for i in range(of))
    return Scorecard(exam=exam, outcomes=outcomes, bits_per_byte={"math": bits}, distinct_2={"math": 0.5}, seconds_per_answer=0.1)


def _ungraded(*, bits):
    return Scorecard(exam="e", outcomes=tuple(Outcome(str(i), "math", "t", None, None, False) for i in range(50)),
                     bits_per_byte={"math": bits}, distinct_2={"math": 0.5}, seconds_per_answer=0.1)


@pytest.mark.parametrize(("candidate", "served", "promote", "words"), [
    (_card(60), _card(40), True, r"accuracy 40\.0% -> 60\.0%.*better"),
    (_card(40), _card(60), False, "worse with"),
    (_card(50, bits=0.9), _card(50), True, "accuracy ties, bits per byte 10.0% lower"),
    (_card(50), _card(50), False, "bits per byte are not lower"),
    (_card(50, bits=0.9995), _card(50), False, "bits per byte are not lower"),
    (_card(90, loops=30), _card(40), False, "loop rate 30.0% is above 5.0%"),
    (_card(90, loops=30), _card(40, loops=30), True, "better"),
    (_card(90, bits=1.4), _card(40), False, "no longer models its domain"),
    (_card(90, bits=0.10), _card(40, bits=0.07), True, "better"),
    (_card(90, bits=float("nan")), _card(40), False, "not finite"),
    (_ungraded(bits=0.9), _ungraded(bits=1.0), True, "accuracy ungraded -> ungraded"),
    (_ungraded(bits=1.0), _ungraded(bits=1.0), False, "not lower"),
])
def test_decide_compares_writing_first_then_bits(candidate, served, promote, words):
    import re

    decision = decide(candidate, served, settings=SETTINGS, seed=0)
    assert decision.promote is promote
    assert re.search(words, decision.reason)


def test_decide_fall_within_noise_is_a_tie_that_bits_break():
    """3 of 100 tasks lost: the resampled difference is below zero in Phi(-0.03 / 0.0171) = 96 %; 2 lost: 92 %, no evidence."""
    assert decide(_card(48, bits=0.8), _card(50), settings=SETTINGS, seed=0).promote
    assert not decide(_card(48, bits=1.0), _card(50), settings=SETTINGS, seed=0).promote
    assert not decide(_card(45, bits=0.8), _card(50), settings=SETTINGS, seed=0).promote


@pytest.mark.parametrize(("loops", "promote"), [(1, True), (2, False)])
def test_decide_one_loop_is_no_reason_to_refuse_however_few_the_tasks(loops, promote):
    assert decide(_card(0, of=loops, loops=loops, bits=0.8), _card(0, of=loops), settings=SETTINGS, seed=0).promote is promote


def test_decide_accuracy_at_the_level_of_guessing_says_nothing():
    assert decide(_card(0, bits=0.8), _card(4), settings=SETTINGS, seed=0).promote
    assert not decide(_card(0, bits=0.8), _card(6), settings=SETTINGS, seed=0).promote
    assert not decide(_card(4, bits=1.1), _card(0), settings=SETTINGS, seed=0).promote


def test_decide_early_version_gives_way_to_lower_bits_whatever_it_guessed_right():
    """11 % against 4 % was seen on real records after a quarter of the training, at 2.43 against 1.79 bits per byte."""
    early, whole = _card(11, bits=2.43), _card(4, bits=1.79, loops=20)
    assert not decide(whole, early, settings=SETTINGS, seed=0).promote
    decision = decide(whole, early, settings=SETTINGS, seed=0, interim=True)
    assert decision.promote
    assert "26.3% lower" in decision.reason
    assert not decide(_card(90, bits=2.44), early, settings=SETTINGS, seed=0, interim=True).promote


def test_decide_first_version_must_beat_guessing():
    assert decide(_card(0, bits=2.0), None, settings=SETTINGS, seed=0, chance_bits_per_byte=4.0).promote
    refused = decide(_card(0, bits=3.9), None, settings=SETTINGS, seed=0, chance_bits_per_byte=4.0)
    assert not refused.promote
    assert "no better than guessing" in refused.reason


def test_decide_other_exam_is_an_error():
    with pytest.raises(ValueError, match="different exams, e and f"):
        decide(_card(1), _card(1, exam="f"), settings=SETTINGS, seed=0)


def test_paired_bootstrap_agrees_with_the_normal_approximation():
    """20 of 100 tasks won, 8 lost: mean 0.12, standard error sqrt((0.28 - 0.0144) / 100) = 0.0515, so P(> 0) = Phi(2.33) = 0.990."""
    pairs = np.array([[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 8 + [[1.0, 1.0]] * 72)
    found = paired_bootstrap({"math": pairs}, samples=20_000, seed=1)
    assert found is not None
    assert found.difference == pytest.approx(0.12)
    assert found.above == pytest.approx(0.990, abs=0.005)
    assert found.above + found.below == pytest.approx(1.0)


def test_paired_bootstrap_without_pairs_says_nothing():
    assert paired_bootstrap({}, samples=100, seed=0) is None


def test_paired_bootstrap_of_one_domain_is_the_plain_one():
    pairs = np.array([[1.0, 0.0]] * 9 + [[0.0, 1.0]] * 5 + [[0.0, 0.0]] * 16)
    differences = pairs[:, 0] - pairs[:, 1]
    means = differences[np.random.default_rng(3).integers(0, 30, size=(500, 30))].mean(axis=1)
    found = paired_bootstrap({"math": pairs}, samples=500, seed=3)
    assert found.above == (means > 0).mean() + (means == 0).mean() / 2
    assert found.below == (means < 0).mean() + (means == 0).mean() / 2


def test_paired_bootstrap_counts_every_domain_alike():
    """math wins its one task. code loses one of two: resampled 0, -1/2 or -1 with 1/4, 1/2 and 1/4, so the mean of both is 1/2, 1/4 or 0.

    Pooled, the difference would be 0."""
    found = paired_bootstrap({"math": np.array([[1.0, 0.0]]), "code": np.array([[0.0, 1.0], [1.0, 1.0]])}, samples=20_000, seed=1)
    assert found.difference == pytest.approx(0.25)
    assert found.above == pytest.approx(3 / 4 + 1 / 8, abs=0.01)
    assert found.above + found.below == pytest.approx(1.0)


def test_paired_bootstrap_takes_what_rounding_leaves_for_a_tie():
    """0.3 in one domain against 0.1 and 0.2 in two others is no difference."""
    one = [np.array([[score, 0.0]]) for score in (0.1, 0.2, -0.3)]
    found = paired_bootstrap(dict(zip("abc", one, strict=True)), samples=100, seed=0)
    assert (found.above, found.below) == (0.5, 0.5)


def _of_domains(*, exam="e", **right):
    """right: domain=(tasks right, tasks)."""
    outcomes = tuple(Outcome(str(i), domain, "t", None, float(i < some), False) for domain, (some, of) in right.items() for i in range(of))
    return Scorecard(exam=exam, outcomes=outcomes, bits_per_byte=dict.fromkeys(right, 1.0), distinct_2=dict.fromkeys(right, 0.5), seconds_per_answer=0.1)


def test_decide_weighs_domains_as_the_accuracy_that_it_quotes():
    """math 50 -> 61 of 100, code 20 -> 14 of 20: accuracy falls from 75 % to 65.5 %, while 75 of 120 tasks are right in place of 70.

    Standard error of the fall: half of sqrt(0.098 / 100 + 0.21 / 20) = 0.0536, so it is one with Phi(1.77) = 96 %."""
    served, candidate = _of_domains(math=(50, 100), code=(20, 20)), _of_domains(math=(61, 100), code=(14, 20))
    decision = decide(candidate, served, settings=SETTINGS, seed=0)
    assert not decision.promote
    assert decision.reason.startswith("refused: accuracy 75.0% -> 65.5%, bits")
    assert "worse with 96" in decision.reason


@pytest.mark.parametrize(("of", "bits_decide"), [(1, True), (19, True), (20, False)])
def test_decide_few_graded_tasks_say_nothing_about_accuracy(of, bits_decide):
    """Of one task every resample is that task: won or lost, it would be so with 100 % of them."""
    won, lost = _card(of, of=of), _card(0, of=of)
    assert decide(won, lost, settings=SETTINGS, seed=0).promote is not bits_decide
    assert decide(_card(0, of=of, bits=0.8), won, settings=SETTINGS, seed=0).promote is bits_decide
    few = "accuracy 0.0% -> 100.0% (not counted, under 20 graded tasks: math), bits per byte 1.000 -> 1.000; accuracy ties and bits per byte are not lower"
    assert (few in decide(won, lost, settings=SETTINGS, seed=0).reason) is bits_decide


def test_decide_domain_of_one_graded_task_does_not_outweigh_the_others():
    """math won its one task, 100 points; four domains lost 5 points each: with math the mean rose by 16 points, in every resample."""
    others = ("reasoning", "conversation", "knowledge", "code")
    served = _of_domains(math=(0, 1), **dict.fromkeys(others, (33, 60)))
    candidate = _of_domains(math=(1, 1), **dict.fromkeys(others, (30, 60)))
    decision = decide(candidate, served, settings=SETTINGS, seed=0)
    assert not decision.promote
    assert decision.reason.startswith("refused: accuracy 55.0% -> 50.0% (not counted, under 20 graded tasks: math), ")
    assert "worse with" in decision.reason


def test_decide_guessing_is_measured_without_domains_of_few_graded_tasks():
    """code guesses 0 and 4 of 100; one task of math, right in both, would lift them above guessing."""
    served, candidate = _of_domains(math=(1, 1), code=(0, 100)), _of_domains(math=(1, 1), code=(4, 100))
    assert decide(candidate, served, settings=SETTINGS, seed=0).reason.endswith("accuracy ties and bits per byte are not lower")


def _of_levels(*, exam="e", **right):
    """right: domain={level: (tasks right, tasks)}."""
    outcomes = tuple(Outcome(f"{level}-{i}", domain, "t", level, float(i < some), False)
                     for domain, levels in right.items() for level, (some, of) in levels.items() for i in range(of))
    return Scorecard(exam=exam, outcomes=outcomes, bits_per_byte=dict.fromkeys(right, 1.0), distinct_2=dict.fromkeys(right, 0.5), seconds_per_answer=0.1)


def test_decide_refuses_to_lose_a_mastered_level_whatever_is_won_on_another():
    """Level 1 from 38 to 20 of 40, level 3 from 10 to 40: accuracy 60 -> 75 %, better with Phi(0.15 / 0.085) = 96 % where levels aren't looked at."""
    served, candidate = _of_levels(math={1: (38, 40), 3: (10, 40)}), _of_levels(math={1: (20, 40), 3: (40, 40)})
    decision = decide(candidate, served, settings=SETTINGS, seed=0, level_floor=0.8)
    assert decision.reason == ("refused: accuracy 60.0% -> 75.0%, bits per byte 1.000 -> 1.000; level 1 of math falls 95.0% -> 50.0%, "
                               "below loop.level_floor = 80.0%, worse with 100.0% of the resamples")
    assert not decision.promote
    assert decide(candidate, served, settings=SETTINGS, seed=0).promote
    assert decide(candidate, served, settings=SETTINGS, seed=0, level_floor=0.5).promote


@pytest.mark.parametrize(("before", "now", "promote"), [
    (33, 31, True),  # 82.5 -> 77.5 %, two tasks lost: a resample holds one of them with 1 - (38/40)^40 = 87 %, so it is worse with 94 %: noise
    (33, 30, False),  # three lost: 1 - (37/40)^40 = 96 %, worse with 98 %
    (40, 32, True),  # as sure a fall, and still at the floor
    (31, 10, True),  # the served version hadn't mastered it
])
def test_decide_level_may_fall_within_noise_above_the_floor_or_from_below_it(before, now, promote):
    served, candidate = _of_levels(math={1: (before, 40), 3: (0, 60)}), _of_levels(math={1: (now, 40), 3: (60, 60)})
    assert decide(candidate, served, settings=SETTINGS, seed=0, level_floor=0.8).promote is promote


@pytest.mark.parametrize(("others", "promote"), [(0, False), (5, True)])
def test_decide_asks_for_more_evidence_against_a_level_where_many_are_mastered(others, promote):
    """Three of 40 tasks lost are worse with 98 %; of six mastered levels one must be worse with 1 - 0.05 / 6 = 99.2 %."""
    same = dict.fromkeys(range(4, 4 + others), (40, 40))
    served, candidate = _of_levels(math={1: (33, 40), 3: (0, 60), **same}), _of_levels(math={1: (30, 40), 3: (60, 60), **same})
    assert decide(candidate, served, settings=SETTINGS, seed=0, level_floor=0.8).promote is promote


@pytest.mark.parametrize(("before", "now", "promote", "why"), [
    (51, 40, False, "falls 76.1% -> 59.7%, below loop.level_floor = 80.0%, worse with 100.0% of the resamples"),  # eleven lost of 67
    (48, 46, False, "falls 71.6% -> 68.7%, below loop.level_floor = 80.0%, at most 78.5% by its 95 % interval"),
    (49, 48, True, "promoted"),  # one lost is noise, and Wilson's interval of 48 in 67 reaches 0.7047 + 0.1056 = 81.0 %
    (40, 39, True, "promoted"),  # lost before, on an easier exam say: one task less is noise
    (49, 47, False, "at most 79.8% by its 95 % interval"),  # and of 47 in 67 0.6906 + 0.1071 = 79.8 %
    (40, 40, True, "promoted"),  # it was lost before; nothing more is
    (30, 40, True, "promoted"),
    (60, 54, True, "promoted"),  # 54 in 67 are 80.6 %
])
def test_decide_level_once_mastered_has_its_floor_whatever_the_served_version_lost_of_it(before, now, promote, why):
    """Two of 67 lost are worse with 1 - (65/67)^67 / 2 = 93 %: within noise. Their interval is Wilson's: 46 in 67 reach 0.6764 + 0.1085."""
    served, candidate = _of_levels(math={1: (before, 67), 2: (10, 67)}), _of_levels(math={1: (now, 67), 2: (60, 67)})
    decision = decide(candidate, served, settings=SETTINGS, seed=0, level_floor=0.8, mastered=["math/1", "code/1"])
    assert decision.promote is promote
    assert why in decision.reason
    assert decide(candidate, served, settings=SETTINGS, seed=0, level_floor=0.8).promote is (promote or before < 54)


def test_decide_level_that_was_once_mastered_has_no_floor_in_an_exam_of_few_of_its_tasks():
    served, candidate = _of_levels(math={1: (10, 19), 2: (10, 67)}), _of_levels(math={1: (0, 19), 2: (60, 67)})
    assert decide(candidate, served, settings=SETTINGS, seed=0, level_floor=0.8, mastered=["math/1"]).promote


def test_mastered_levels_are_those_of_twenty_tasks_at_the_floor_or_above_it():
    card = _of_levels(math={1: (16, 20), 2: (15, 20), 3: (19, 19)}, code={1: (40, 40)})
    assert mastered_levels(card, floor=0.8) == {"math/1", "code/1"}


def test_decide_looks_at_the_levels_of_each_domain_alone():
    """Level 1 of both together goes from 90 to 92 %; math's alone from 95 to 70 %."""
    served, candidate = _of_levels(math={1: (38, 40)}, code={1: (70, 80)}), _of_levels(math={1: (28, 40)}, code={1: (80, 80)})
    assert "level 1 of math falls 95.0% -> 70.0%" in decide(candidate, served, settings=SETTINGS, seed=0, level_floor=0.8).reason


@pytest.mark.parametrize(("of", "promote"), [(19, True), (20, False)])
def test_decide_level_of_under_twenty_tasks_has_no_floor(of, promote):
    """All of a level lost is worse with every resample, were it of one task."""
    served, candidate = _of_levels(math={1: (of, of), 3: (0, 60)}), _of_levels(math={1: (0, of), 3: (60, 60)})
    assert decide(candidate, served, settings=SETTINGS, seed=0, level_floor=0.8).promote is promote


def test_decide_tasks_without_a_level_have_no_floor():
    served, candidate = _of_domains(math=(38, 40), code=(10, 40)), _of_domains(math=(20, 40), code=(40, 40))
    assert decide(candidate, served, settings=SETTINGS, seed=0, level_floor=0.8).promote
