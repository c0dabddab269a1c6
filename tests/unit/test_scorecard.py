"""training/scorecard.py: figures worked by hand."""

import json
import math
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from training.scorecard import Outcome, Sample, Scorecard, distinct_n, loops, mean_words, wilson


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


def test_scorecard_counts_answers_that_never_ended_beside_loops():
    card = _card([("math", 1, 1.0, False)] * 4)
    assert (card.never_ended, card.to_json()["never_ended"]) == (None, None)
    outcomes = tuple(replace(outcome, never_ended=ended) for outcome, ended in zip(card.outcomes, (True, False, False, None), strict=True))
    card = replace(card, outcomes=outcomes)
    assert (card.never_ended, card.loop_rate, card.to_json()["never_ended"]) == (1 / 3, 0.0, 1 / 3)
    assert Scorecard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_scorecard_per_level_leaves_records_out():
    card = _card([("math", 1, 1.0, False), ("math", 2, 0.0, False), ("math", None, 0.0, False), ("code", None, 1.0, False)])
    assert card.per_level == card.to_json()["per_level"] == {"math/1": 1.0, "math/2": 0.0}


def test_scorecard_accuracy_of_domains_with_tasks_enough():
    card = _card([*[("math", 1, 1.0, False)] * 3, ("math", 1, None, False), *[("code", 1, 0.0, False)] * 2, ("law", 1, None, False)])
    assert [card.accuracy_of(at_least=count) for count in (1, 2, 3, 4)] == [0.5, 0.5, 1.0, None]


def test_exact_match_is_the_share_of_right_answers_of_tasks_that_score_otherwise():
    outcomes = [Outcome(str(number), domain, task, 1, score, False, right) for number, (domain, task, score, right) in enumerate([
        ("knowledge", "nq_open", 1.0, True), ("knowledge", "nq_open", 0.5, False), ("knowledge", "nq_open", 0.0, False), ("knowledge", "arc", 1.0, True),
        ("math", "gsm8k", 0.0, False), ("math", "old", 0.5, None), ("math", "letters", None, None)])]
    card = Scorecard("e", tuple(outcomes), {"knowledge": 1.0, "math": 1.0}, {"knowledge": 1.0, "math": 1.0}, 0.1)
    assert card.exact_match == {"knowledge/nq_open": 1 / 3}
    assert card.accuracy_in("knowledge") == 2.5 / 4
    assert card.to_json()["exact_match"] == {"knowledge/nq_open": 1 / 3}


def test_mean_words_counts_words_parted_by_blanks():
    assert mean_words(["one two", " a\nb  c ", "", "word"]) == 6 / 4
    assert mean_words([]) == 0.0


def test_scorecard_of_an_older_card_is_read_without_words_and_verdicts():
    data = _card([("math", 1, 1.0, False)]).to_json()
    del data["mean_words"], data["exact_match"], data["never_ended"]
    data["outcomes"] = [row[:6] for row in data["outcomes"]]
    old = Scorecard.from_json(json.loads(json.dumps(data)))
    assert (old.outcomes[0].correct, old.mean_words, old.exact_match, old.accuracy_in("math")) == (None, {}, {}, 1.0)
    assert (old.outcomes[0].never_ended, old.never_ended, old.loop_rate) == (None, None, 0.0)


def test_scorecard_without_graders_has_no_accuracy():
    card = _card([("math", None, None, False)])
    assert card.accuracy is None
    assert card.interval() is None


def _tasks(**right):
    return _card([(domain, None, float(i < some), False) for domain, (some, of) in right.items() for i in range(of)])


def test_scorecard_interval_of_one_domain_is_wilsons():
    assert _tasks(math=(141, 200)).interval() == wilson(141, n=200)


def test_scorecard_interval_of_several_domains_stands_around_the_mean_over_them():
    """math 120 of 200, code 0 of 10; Wilson: 0.5308 .. 0.6654 and 0 .. 0.2775. Pooled, 57 % with 50 .. 64 % would leave out the accuracy, 30 %.

    Half of sqrt(0.0692^2 + 0^2) = 0.0346 below it, half of sqrt(0.0654^2 + 0.2775^2) = 0.1426 above it."""
    card = _tasks(math=(120, 200), code=(0, 10))
    assert card.accuracy == pytest.approx(0.3)
    assert card.interval() == pytest.approx((0.3 - 0.0346, 0.3 + 0.1426), abs=1e-4)


def test_scorecard_interval_of_several_domains_holds_the_true_accuracy_as_often_as_it_says():
    """Over what may be drawn: 12 tasks at 0.9 and 30 at 0.4, each outcome weighed with its binomial probability."""
    def chance(right, of, share):
        return math.comb(of, right) * share**right * (1 - share) ** (of - right)

    held = 0.0
    for one in range(13):
        for other in range(31):
            low, high = _tasks(math=(one, 12), code=(other, 30)).interval()
            held += chance(one, 12, 0.9) * chance(other, 30, 0.4) * (low <= 0.65 <= high)
    assert held == pytest.approx(0.95, abs=0.02)


def test_scorecard_survives_json():
    card = replace(_card([("math", 1, 1.0, False), ("code", None, None, True)]), mean_words={"math": 2.5, "code": 1.0})
    card = replace(card, outcomes=tuple(replace(outcome, correct=outcome.score == 1 or None) for outcome in card.outcomes))
    assert card.to_json()["mean_words"] == {"math": 2.5, "code": 1.0}
    assert Scorecard.from_json(json.loads(json.dumps(card.to_json()))) == card


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (141, 200)])
def test_wilson_equals_scipy(successes, n):
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson(successes, n=n) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(("tokens", "found"), [
    ([7] * 16, True), ([7] * 15, False), ([1, 2] * 8, True), ([1, 2, 3, 4] * 4, True), ([1, 2, 3, 4] * 3 + [1, 2, 3], False),
    ([9, 9, 9] + [1, 2, 3, 4, 5] * 4 + [8], True), (list(range(100)), False), ([], False), ([1, 2, 3] * 8, True), ([1, 2, 3] * 5, False),
    (list(range(33)) * 4, True), (list(range(48)) * 4, True), (list(range(49)) * 4, False),
])
def test_loops_finds_four_repeats_in_a_row(tokens, found):
    assert loops(tokens) is found


def test_distinct_n_counts_word_pairs():
    assert distinct_n(["a b a b", "a b"]) == 2 / 4
    assert distinct_n(["word"]) == 0.0
