"""training/scorecard.py: figures worked by hand."""

import json

import pytest
from scipy.stats import binomtest

from training.scorecard import Outcome, Sample, Scorecard, distinct_n, loops, wilson


def _card(scores):
    return Scorecard(exam="e", outcomes=tuple(Outcome(str(i), domain, "t", level, score, looped) for i, (domain, level, score, looped) in enumerate(scores)),
                     bits_per_byte={"math": 1.0, "code": 3.0}, distinct_2={"math": 0.5, "code": 0.25}, seconds_per_answer=0.1,
                     samples=(Sample("math", "p", "e", "a", 1.0),))


def test_scorecard_accuracy_is_the_mean_over_domains_of_graded_tasks():
    card = _card([("math", 1, 1.0, False), ("math", 1, 0.0, False), ("math", 2, 1.0, True), ("math", 2, 1.0, False),
                  ("code", 1, 0.0, False), ("code", 1, None, True)])
    assert card.accuracy_in("math") == 0.75
    assert card.accuracy == (0.75 + 0.0) / 2
    assert card.loop_rate == 2 / 6
    assert card.mean_bits_per_byte == 2.0
    assert card.by(lambda outcome: f"{outcome.domain}/{outcome.level}") == {"code/1": 0.0, "math/1": 0.5, "math/2": 1.0}


def test_scorecard_without_graders_has_no_accuracy():
    card = _card([("math", None, None, False)])
    assert card.accuracy is None
    assert card.interval() is None


def test_scorecard_survives_json():
    card = _card([("math", 1, 1.0, False), ("code", None, None, True)])
    assert Scorecard.from_json(json.loads(json.dumps(card.to_json()))) == card


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (141, 200)])
def test_wilson_equals_scipy(successes, n):
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson(successes, n=n) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(("tokens", "found"), [
    ([7] * 16, True), ([7] * 15, False), ([1, 2] * 8, True), ([1, 2, 3, 4] * 4, True), ([1, 2, 3, 4] * 3 + [1, 2, 3], False),
    ([9, 9, 9] + [1, 2, 3, 4, 5] * 4 + [8], True), (list(range(100)), False), ([], False), ([1, 2, 3] * 8, True), ([1, 2, 3] * 5, False),
])
def test_loops_finds_four_repeats_in_a_row(tokens, found):
    assert loops(tokens) is found


def test_distinct_n_counts_word_pairs():
    assert distinct_n(["a b a b", "a b"]) == 2 / 4
    assert distinct_n(["word"]) == 0.0
