"""Near-duplicates and splits of rows, perturbations, and the figures that evaluation gives, by hand."""

from random import Random
from types import SimpleNamespace

import numpy as np
import pytest

import settings
from experts.tree import Tree
from routing.calibrate import best_temperature, risk_coverage
from routing.classifier import Classifier
from routing.evaluate import evaluate, expected_calibration_error, reliability
from routing.everyday import everyday_rows
from routing.fit import fit
from routing.perturb import PERTURBATIONS, typo
from routing.pictures import confusion_shares
from routing.rows import Row, near_duplicate_groups, split_groups
from routing.text import is_follow_up, tokens

TREE = Tree.from_settings(settings.TreeSettings())


def test_near_duplicates_share_a_group_and_others_do_not():
    long = "a farmer has twelve cows and sells four of them at the market on a rainy Monday in spring before noon"
    groups = near_duplicate_groups([long, long.upper() + "!", "who wrote the first book about whales", long.replace("twelve", "12").replace("12", "twelve")])
    assert groups[0] == groups[1] == groups[3]
    assert groups[2] != groups[0]


def test_near_duplicates_without_words_stay_apart():
    assert len(set(near_duplicate_groups(["", "", "?"]).tolist())) == 3


def test_split_groups_takes_whole_groups_and_about_the_share():
    groups = np.repeat(np.arange(1000), 3)
    taken = split_groups(groups, share=0.2, seed=0)
    assert (taken.reshape(1000, 3).sum(axis=1) % 3 == 0).all()
    assert 0.15 < taken.mean() < 0.25


@pytest.mark.parametrize("name", [name for name in PERTURBATIONS if name != "typo"])
def test_perturbation_leaves_the_words_that_the_router_reads(name):
    prompt = "How far is Boston from here?"
    assert set(tokens(prompt)) <= set(tokens(PERTURBATIONS[name](prompt, Random(4))))


def test_typo_changes_one_word_only():
    changed = typo("where is the longest river", Random(2)).split()
    assert sum(one != other for one, other in zip(changed, ["where", "is", "the", "longest", "river"], strict=True)) == 1


def test_typo_of_a_word_of_one_letter_is_still_a_typo():
    assert all(typo("aaaa", Random(seed)) != "aaaa" for seed in range(40))


@pytest.mark.parametrize(("text", "expected"), [
    ("and Boston?", True), ("why?", True), ("who directed it", True), ("what about the second one", True),
    ("write a python function to sort a list of numbers", False), ("who painted the mona lisa", False)])
def test_is_follow_up_knows_short_and_pointing_turns(text, expected):
    assert is_follow_up(text, few_words=4) is expected


def test_expected_calibration_error_by_hand():
    # two bins of ten: 0.95 (half right) and 0.15 (none right): (|0.5 - 0.95| * 2 + |0 - 0.15| * 2) / 4
    assert expected_calibration_error(np.array([0.95, 0.95, 0.15, 0.15]), np.array([True, False, False, False]), bins=10) == pytest.approx(0.3)


def test_reliability_by_hand():
    bins = reliability(np.array([0.95, 0.95, 0.15, 0.05]), np.array([True, False, False, False]), bins=5)
    assert [(part["confidence"], part["accuracy"], part["share"]) for part in bins] == [(pytest.approx(0.1), 0.0, 0.5), (pytest.approx(0.95), 0.5, 0.5)]


def test_confusion_shares_put_abstentions_last_and_sum_to_one():
    evaluation = SimpleNamespace(confusion={"math": {"math": 3, "abstained": 1}, "ood": {"abstained": 2}, "code": {"law": 1}})
    labels, answers, shares = confusion_shares(evaluation)
    assert (labels, answers) == (["math", "ood", "code"], ["math", "law", "abstained"])
    assert shares.tolist() == [[0.75, 0.0, 0.25], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


def test_risk_coverage_by_hand():
    curve = risk_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, True]), points=5)
    seen = [(point["coverage"], point["risk"], point["threshold"]) for point in curve]
    assert seen == [(0.25, 0.0, 0.9), (0.5, 0.0, 0.8), (0.75, 1 / 3, 0.7), (1.0, 0.25, 0.6)]


def test_best_temperature_softens_scores_that_are_too_sure():
    # scores of +-4 claim 98 %, but a quarter is wrong: sigmoid(4 / T) = 0.75 at T = 4 / ln 3
    classifier = Classifier(("a", "b"), np.array([[4.0]]), np.array([0.0]))
    assert best_temperature(classifier, np.ones((4, 1)), np.array(["b", "b", "b", "a"])) == pytest.approx(4 / np.log(3), rel=1e-3)


@pytest.fixture(scope="module")
def router():
    small = settings.RouterSettings(everyday_rows=150, none_rows=200, words=3000, letter_groups=4000, forms=1500)
    return fit(everyday_rows(TREE.domains, count=200, seed=21), tree=TREE, settings=small, seed=2).router


def test_evaluate_agrees_with_counting_by_hand(router):
    rows = [Row("what is 12 plus 7", "math", "t"), Row("write python code to sort a list", "code", "t"), Row("hello how are you", "math", "t"),
            Row("zzq vvx kkj", "ood", "t")]
    result = evaluate(router, rows, timed=4)
    right = [router.route(row.prompt).ranked[0].node == row.label for row in rows[:3]]
    assert result.accuracy == pytest.approx(sum(right) / 3)
    assert result.per_domain == {"math": 0.5, "code": 1.0}
    assert (result.n, result.n_ood) == (4, 1)
    assert result.ood_auroc == 1.0
    assert result.coverage == pytest.approx(sum(not router.route(row.prompt).abstained for row in rows[:3]) / 3)
    assert 0 < result.latency_ms["p50"] <= result.latency_ms["p99"]
    assert {"n", "accuracy", "branch_accuracy", "per_domain", "ood_auroc", "ece", "coverage", "selective_accuracy", "latency_ms",
            "flat_accuracy"} <= set(result.to_json())


def test_evaluate_with_a_strange_label_is_refused(router):
    with pytest.raises(ValueError, match=r"labelled \['law'\]; this router knows"):
        evaluate(router, [Row("x", "law", "t"), Row("y", "math", "t")])


def test_evaluate_without_in_domain_rows_is_refused(router):
    with pytest.raises(ValueError, match="none of them with a domain"):
        evaluate(router, [Row("x", "ood", "t")])


def test_everyday_phrases_of_every_domain_draw_what_was_asked_for():
    rows = everyday_rows([*TREE.domains, "law"], count=100, seed=0)
    assert {row.label: sum(other.label == row.label for other in rows) for row in rows} == dict.fromkeys(TREE.domains, 100)
    assert not any("{" in row.prompt and row.label != "code" for row in rows)
