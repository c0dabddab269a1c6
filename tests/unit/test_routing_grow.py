"""Adding a domain fits its parent alone: everything else of the served router stays, number for number."""

import json

import numpy as np
import pytest

import settings
from experts.tree import Tree
from routing import apart
from routing.everyday import everyday_rows
from routing.fit import fit
from routing.grow import grow, grows
from routing.router import Router
from routing.rows import Row
from routing.store import stored_tree

SMALL = settings.RouterSettings(everyday_rows=100, none_rows=200, words=3000, letter_groups=4000, forms=1500)
BEFORE = settings.TreeSettings(branches={"analytical": ("math", "reasoning"), "language": ("conversation", "knowledge"), "technical": ("code",)})
DEEPER = settings.TreeSettings(branches={"analytical": ("math", "reasoning"), "language": ("conversation", "knowledge", "law"), "technical": ("code",)})
WIDER = settings.TreeSettings(branches={**BEFORE.branches, "services": ("law",)})
MOVED = settings.TreeSettings(branches={"analytical": ("math", "law"), "language": ("conversation", "knowledge", "reasoning"), "technical": ("code",)})
ASKED = ("who owns the {} contract when the tenant dies", "can my landlord keep the {} deposit", "is a verbal {} contract valid in court",
         "what does the court say about {} damages", "how do i appeal a {} verdict", "what is the penalty for breaking a {} contract")
KINDS = ("rental", "work", "loan", "sales", "marriage", "lease", "repair", "insurance", "building", "travel", "phone", "gym")
LAW = [Row(asked.format(kind), "law", f"law{number % 2}") for number, asked in enumerate(ASKED) for kind in KINDS]


def _tree(chosen):
    return Tree.from_settings(chosen)


@pytest.fixture(scope="module")
def rows():
    return everyday_rows(_tree(BEFORE).domains, count=200, seed=11)


@pytest.fixture(scope="module")
def served(rows):
    return fit(rows, tree=_tree(BEFORE), settings=SMALL, seed=4).router


def _same(one, other):
    return np.array_equal(one.weights, other.weights) and np.array_equal(one.bias, other.bias) and one.temperature == other.temperature


def test_grow_under_a_branch_fits_that_branch_and_the_flat_classifier_only(served, rows):
    grown = grow(served, [*rows, *LAW], tree=_tree(DEEPER), settings=SMALL, seed=4).router
    assert _same(grown.gate, served.gate)
    assert _same(grown.root, served.root)
    assert _same(grown.children["analytical"], served.children["analytical"])
    assert grown.children["language"].labels == ("conversation", "knowledge", "law")
    assert grown.flat.labels == _tree(DEEPER).domains
    assert grown.features is served.features
    assert grown.rules == served.rules


def test_grow_by_a_branch_fits_the_root_and_leaves_every_branch(served, rows):
    grown = grow(served, [*rows, *LAW], tree=_tree(WIDER), settings=SMALL, seed=4).router
    assert _same(grown.gate, served.gate)
    assert not np.array_equal(grown.root.weights, served.root.weights)
    assert all(_same(grown.children[branch], served.children[branch]) for branch in served.children)
    assert grown.route("can my landlord keep the rental deposit").ranked[0].node == "law"


def test_grow_leaves_the_routes_of_another_branch_as_they_were(served, rows):
    grown = grow(served, [*rows, *LAW], tree=_tree(DEEPER), settings=SMALL, seed=4).router
    asked = [row.prompt for row in rows if row.label in ("math", "reasoning", "code")]
    for before, after in zip(served.route_batch(asked), grown.route_batch(asked), strict=True):
        kept = [ranked for ranked in after.ranked if ranked.node in ("math", "reasoning", "code")]
        assert kept == [ranked for ranked in before.ranked if ranked.node in ("math", "reasoning", "code")]


def test_grow_for_a_tree_that_lost_a_domain_is_refused(served, rows):
    smaller = Tree.from_settings(settings.TreeSettings(branches={"analytical": ("math",), "language": ("law",), "technical": ("code",)}))
    with pytest.raises(ValueError, match=r"doesn't grow into one for .*fit a whole router"):
        grow(served, rows, tree=smaller, settings=SMALL, seed=4)


@pytest.mark.parametrize(("larger", "expected"), [(DEEPER, True), (WIDER, True), (BEFORE, False), (MOVED, False)])
def test_grows_only_when_something_is_added_and_nothing_moves(larger, expected):
    assert grows(_tree(BEFORE), _tree(larger)) is expected


def test_fit_apart_with_a_served_router_of_a_smaller_tree_grows_it(served, rows, tmp_path, monkeypatch):
    served.save(tmp_path)
    folder = tmp_path / "grown"
    folder.mkdir()
    assert stored_tree(tmp_path).domains == served.tree.domains
    judged = apart._fit([*rows, *LAW], LAW, WIDER, SMALL, 4, folder, tmp_path)
    assert judged.report["grown_from"] == list(served.tree.domains)
    assert judged.accuracy >= apart.NEW_DOMAIN_ACCURACY
    assert np.array_equal(Router.load(folder, _tree(WIDER)).gate.weights, served.gate.weights)
    monkeypatch.setattr(apart, "NEW_DOMAIN_ACCURACY", 1.1)
    whole = apart._fit([*rows, *LAW], LAW, WIDER, SMALL, 4, folder, tmp_path)
    assert "grown_from" not in whole.report
    assert json.loads((folder / "router.json").read_text(encoding="utf-8"))["tree"]["branches"]["services"] == ["law"]
