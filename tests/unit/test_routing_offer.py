"""Whether a new router may take the served one's place, and what the two are compared on."""

import dataclasses
import logging

import numpy as np
import pytest

from experts.tree import Tree
from routing.fit import fit
from routing.offer import judge, make_offer
from routing.rows import Row
from settings import RouterSettings, TreeSettings

TREE = Tree.from_settings(TreeSettings(branches={"numbers": ("math",), "technical": ("code",)}))
SETTINGS = RouterSettings(everyday_rows=0, none_rows=40, words=500, letter_groups=500)
ROWS = [Row(text.format(n), label, "toy") for n in range(60) for label, text in (
    ("math", "add the numbers {} and seven please"), ("code", "write a python function number {}"))]
HELD = [Row("add the numbers 99 and seven", "math", "toy"), Row("write a python function number 99", "code", "toy"), Row("qqx zzw kkv", "ood", "toy")]


@pytest.mark.parametrize(("accuracy", "before", "promote"), [(0.95, 0.95, True), (0.9501, 0.95, True), (0.9499, 0.95, False), (0.1, None, True)])
def test_judge_promotes_unless_worse(accuracy, before, promote):
    assert judge(accuracy, before=before, prompts=10).promote is promote


def test_judge_reason_tells_close_accuracies_apart():
    assert judge(0.9812, before=0.9814, prompts=951).reason == "accuracy on 951 held-out prompts 98.12%, served version 98.14%"


def test_make_offer_judges_both_routers_on_the_held_out_rows(tmp_path):
    served = fit(ROWS, tree=TREE, settings=SETTINGS, seed=3).router
    swapped = dataclasses.replace(served.root, weights=-served.root.weights, bias=-served.root.bias)
    dataclasses.replace(served, root=swapped).save(tmp_path)
    offer = make_offer(ROWS, held_out=HELD, tree=TREE, settings=SETTINGS, seed=3, served=tmp_path)
    assert (offer.evaluation.accuracy, offer.before) == (1.0, 0.0)
    assert offer.verdict.reason == "accuracy on 2 held-out prompts 100.00%, served version 0.00%"  # of no domain: not among them
    assert np.array_equal(offer.fitted.router.root.weights, served.root.weights)


def test_make_offer_beside_a_damaged_router_says_that_nothing_was_compared(tmp_path, caplog):
    fit(ROWS, tree=TREE, settings=SETTINGS, seed=3).router.save(tmp_path)
    (tmp_path / "router.safetensors").write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        offer = make_offer(ROWS, held_out=HELD, tree=TREE, settings=SETTINGS, seed=3, served=tmp_path)
    assert offer.before is None
    assert "nothing to compare the new router with" in caplog.text
    assert "router.safetensors is damaged" in caplog.text
