"""Corrections with their caps, and regret against the best answering node, by hand."""

import types

import numpy as np
import pytest

import settings
from experts.tree import Tree
from routing.feedback import Correction, feedback_rows, newest_corrections
from routing.oracle import Graded, regret
from routing.parts import Rules
from routing.router import decide

TREE = Tree.from_settings(settings.TreeSettings())


class _Fixed:
    """A router whose decision is the probability table given for the prompt."""

    tree = TREE
    rules = Rules(expert=0.6, branch=0.7)
    facts = types.MappingProxyType({"by_label": {"math": 5, "code": 4, "ood": 9}})
    flat = types.SimpleNamespace(labels=("code",), probabilities=lambda matrix: np.ones((len(matrix), 1)))
    features = types.SimpleNamespace(many=list)

    def __init__(self, shares):
        self.shares = shares

    def route_batch(self, prompts):
        return [decide(np.array(self.shares[prompt]), tree=TREE, rules=self.rules) for prompt in prompts]


SHARES = {"sure": [0.0, 0.9, 0.1, 0, 0, 0], "branch": [0.0, 0.5, 0.5, 0, 0, 0], "unsure": [0.2, 0.2, 0, 0.2, 0.2, 0.2]}


def test_regret_by_hand():
    # routed: math 1.0, analytical (ungraded, so generalist) 0.0, generalist 0.5; oracle 1.0, 1.0, 0.5; best single node math: 2/3
    rows = [Graded("sure", {"math": 1.0, "generalist": 0.0}), Graded("branch", {"math": 1.0, "generalist": 0.0}),
            Graded("unsure", {"math": 0.0, "generalist": 0.5})]
    result = regret(_Fixed(SHARES), rows)
    assert (result.n, result.best_single) == (3, "math")
    assert (result.routed, result.oracle) == (pytest.approx(0.5), pytest.approx(2.5 / 3))
    assert (result.regret, result.gain) == (pytest.approx(1 / 3), pytest.approx(-1 / 6))


def test_regret_of_other_ways_by_hand():
    # math is best on both of its prompts (mean 1.0), generalist on the code prompt; so knowing the domain gets 1, 1, 1
    rows = [Graded("sure", {"math": 1.0, "generalist": 0.0}, "math"), Graded("branch", {"math": 1.0, "generalist": 0.5}, "math"),
            Graded("unsure", {"math": 0.0, "generalist": 1.0}, "code")]
    result = regret(_Fixed(SHARES), rows)
    assert result.others["knowing the domain"] == pytest.approx(1.0)
    assert result.others["expert of the true domain"] == pytest.approx(1.0)  # code has no grade of its own, so generalist's counts
    assert result.others["flat"] == pytest.approx((0.0 + 0.5 + 1.0) / 3)
    assert result.others["majority"] == pytest.approx((1.0 + 1.0 + 0.0) / 3)
    assert result.among_best == pytest.approx(2 / 3)
    assert result.to_json()["regrets"]["majority"] == pytest.approx(1 / 3)
    assert result.to_json()["routing_regret"] == pytest.approx(1.0 - (1.0 + 0.5 + 1.0) / 3)
    assert regret(_Fixed(SHARES), [Graded("sure", {"math": 1.0})]).routing_regret is None


def test_regret_with_uneven_grades_is_refused():
    with pytest.raises(ValueError, match=r"every prompt needs the grades of \['math'\]"):
        regret(_Fixed(SHARES), [Graded("sure", {"math": 1.0}), Graded("sure", {"code": 1.0})])


def test_regret_without_rows_is_refused():
    with pytest.raises(ValueError, match="no graded prompts"):
        regret(_Fixed(SHARES), [])


def test_corrections_of_a_client_are_capped_and_the_newest_kept():
    said = [Correction(f"prompt {number}", "math", "eve") for number in range(5)] + [Correction("other", "code", "bob")]
    assert [each.prompt for each in newest_corrections(said, most_a_client=2, most=9)] == ["prompt 3", "prompt 4", "other"]


def test_corrections_later_word_replaces_the_earlier_and_empty_prompts_fall_away():
    said = [Correction("a", "math", "eve"), Correction("b", "math", "eve"), Correction("a", "code", "eve"), Correction(" ", "math", "eve")]
    assert newest_corrections(said, most_a_client=9, most=9) == [Correction("b", "math", "eve"), Correction("a", "code", "eve")]


def test_corrections_of_a_client_over_its_cap_take_no_place_of_the_others():
    said = [Correction("old", "math", "bob"), *(Correction(f"prompt {number}", "math", "eve") for number in range(5))]
    assert [each.prompt for each in newest_corrections(said, most_a_client=1, most=2)] == ["old", "prompt 4"]


def test_feedback_rows_take_the_right_node_the_confirmed_expert_and_the_root_for_none_of_the_domains():
    def said(prompt, verdict, right_node=None, expert=None, client="eve"):
        return {"prompt": prompt, "verdict": verdict, "right_node": right_node, "expert": expert, "client": client}

    facts = [said("a", "bad", "math"), said("b", "good", expert="code"), said("c", "bad", "generalist"), said("d", "bad", "technical"),
             said("e", "bad", "language"), said("f", "bad"), said("g", "good"), said("h", "bad", "gone")]
    rows = feedback_rows(facts, tree=TREE, settings=settings.RouterSettings(feedback_weight=2.0))
    assert [(row.prompt, row.label, row.weight) for row in rows] == [("a", "math", 2.0), ("b", "code", 2.0), ("c", "ood", 2.0), ("d", "code", 2.0)]


def test_feedback_rows_of_many_clients_stay_under_the_cap_of_all():
    facts = [{"prompt": f"p{number}", "verdict": "bad", "right_node": "math", "expert": None, "client": f"client {number}"} for number in range(9)]
    assert [row.prompt for row in feedback_rows(facts, tree=TREE, settings=settings.RouterSettings(feedback_rows=2))] == ["p7", "p8"]
    assert feedback_rows(facts, tree=TREE, settings=settings.RouterSettings(feedback_rows=0)) == []
    assert feedback_rows(facts, tree=TREE, settings=settings.RouterSettings(feedback_a_client=0)) == []
