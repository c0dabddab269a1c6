"""Corrections with their caps, and regret against the best answering node, by hand."""

import numpy as np
import pytest

import settings
from experts.tree import Tree
from routing.feedback import Correction, correction_rows
from routing.oracle import Graded, regret
from routing.router import Rules, decide

TREE = Tree.from_settings(settings.TreeSettings())


class _Fixed:
    """A router whose decision is the probability table given for the prompt."""

    tree = TREE

    def __init__(self, shares):
        self.shares = shares

    def route_batch(self, prompts):
        return [decide(np.array(self.shares[prompt]), tree=TREE, rules=Rules(expert=0.6, branch=0.7)) for prompt in prompts]


SHARES = {"sure": [0.0, 0.9, 0.1, 0, 0, 0], "branch": [0.0, 0.5, 0.5, 0, 0, 0], "unsure": [0.2, 0.2, 0, 0.2, 0.2, 0.2]}


def test_regret_by_hand():
    # routed: math 1.0, analytical (ungraded, so generalist) 0.0, generalist 0.5; oracle 1.0, 1.0, 0.5; best single node math: 2/3
    rows = [Graded("sure", {"math": 1.0, "generalist": 0.0}), Graded("branch", {"math": 1.0, "generalist": 0.0}),
            Graded("unsure", {"math": 0.0, "generalist": 0.5})]
    result = regret(_Fixed(SHARES), rows)
    assert (result.n, result.best_single) == (3, "math")
    assert (result.routed, result.oracle) == (pytest.approx(0.5), pytest.approx(2.5 / 3))
    assert (result.regret, result.gain) == (pytest.approx(1 / 3), pytest.approx(-1 / 6))


def test_regret_with_uneven_grades_is_refused():
    with pytest.raises(ValueError, match=r"every prompt needs the grades of \['math'\]"):
        regret(_Fixed(SHARES), [Graded("sure", {"math": 1.0}), Graded("sure", {"code": 1.0})])


def test_regret_without_rows_is_refused():
    with pytest.raises(ValueError, match="no graded prompts"):
        regret(_Fixed(SHARES), [])


def test_corrections_of_a_client_are_capped_and_the_newest_kept():
    said = [Correction(f"prompt {number}", "math", 9.0, "eve") for number in range(5)] + [Correction("other", "code", 0.5, "bob")]
    rows = correction_rows(said, labels=TREE.domains, most_a_client=2, most_weight=3.0)
    assert [(row.prompt, row.label, row.weight) for row in rows] == [("prompt 3", "math", 3.0), ("prompt 4", "math", 3.0), ("other", "code", 0.5)]


def test_corrections_later_word_replaces_the_earlier_and_nonsense_falls_away():
    said = [Correction("a", "math", 1.0, "eve"), Correction("a", "code", 1.0, "eve"), Correction("b", "law", 1.0, "eve"), Correction(" ", "math", 1.0, "eve"),
            Correction("c", "math", 0.0, "eve")]
    assert [(row.prompt, row.label) for row in correction_rows(said, labels=TREE.domains, most_a_client=9, most_weight=1.0)] == [("a", "code")]
