"""Adding a domain fits its parent alone: everything else of the served router stays, number for number."""

import dataclasses

import numpy as np
import pytest

import settings
from experts.tree import Tree
from routing.everyday import everyday_rows
from routing.explain import explain
from routing.fit import fit
from routing.grow import grow, grows
from routing.offer import make_offer
from routing.router import Router
from routing.rows import Row

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


def test_grown_router_explains_and_stores_a_domain_that_its_root_has_no_label_for(served, rows, tmp_path):
    grown = grow(served, [*rows, *LAW], tree=_tree(DEEPER), settings=SMALL, seed=4).router
    grown.save(tmp_path)
    loaded = Router.load(tmp_path, _tree(DEEPER))
    found = explain(loaded, "what is the penalty for breaking a python contract", terms=1000)
    assert (found.decided_for, found.against) == ("law", "code")
    part = loaded.features.one("what is the penalty for breaking a python contract")
    without_bias = dict(zip(loaded.root.labels, loaded.root.weights[:, part.ids] @ part.values, strict=True))
    closest = max(("conversation", "knowledge"), key=lambda name: without_bias[name] + loaded.root.bias[loaded.root.labels.index(name)])
    assert sum(term.weight for term in found.terms) == pytest.approx(without_bias[closest] - without_bias["code"])
    assert found.probabilities["language"] == pytest.approx(sum(found.probabilities[name] for name in ("conversation", "knowledge", "law")))


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


def test_make_offer_with_a_served_router_of_a_smaller_tree_grows_it(served, rows, tmp_path):
    served.save(tmp_path)
    offer = make_offer([*rows, *LAW], held_out=LAW, tree=_tree(WIDER), settings=SMALL, seed=4, served=tmp_path)
    assert offer.fitted.report["grown_from"] == list(served.tree.domains)
    assert offer.evaluation.per_domain == {"law": 1.0}
    assert _same(offer.fitted.router.gate, served.gate)
    assert offer.before is None


def test_make_offer_fits_a_whole_router_when_the_old_gate_turns_the_new_domain_away(served, rows, tmp_path):
    deaf = dataclasses.replace(served.gate, weights=np.zeros_like(served.gate.weights), bias=np.array([9.0]))
    dataclasses.replace(served, gate=deaf).save(tmp_path)
    offer = make_offer([*rows, *LAW], held_out=LAW, tree=_tree(WIDER), settings=SMALL, seed=4, served=tmp_path)
    assert "grown_from" not in offer.fitted.report
    assert offer.fitted.router.route("can my landlord keep the rental deposit").node == "law"
