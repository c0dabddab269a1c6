"""Decisions of the router: rules, batches, conversations, what is nowhere, and its files."""

import dataclasses
import json
import random
import subprocess
import sys

import numpy as np
import pytest
from scipy.special import softmax

import settings
from experts.tree import Tree
from routing.classifier import Classifier
from routing.everyday import everyday_rows
from routing.explain import explain
from routing.fit import fit
from routing.nowhere import none_rows
from routing.parts import Rules
from routing.perturb import typo
from routing.router import RouteContext, Router, decide
from routing.rows import Row
from routing.store import DamagedRouter

TREE = Tree.from_settings(settings.TreeSettings())
SMALL = settings.RouterSettings(everyday_rows=150, none_rows=300, words=4000, letter_groups=6000, forms=2000)
RULES = Rules(expert=0.6, branch=0.7)


@pytest.fixture(scope="module")
def fitted():
    rows = everyday_rows(TREE.domains, count=250, seed=77)
    return fit(rows, tree=TREE, settings=SMALL, seed=1)


@pytest.fixture(scope="module")
def router(fitted):
    return fitted.router


def _shares(ood, **experts):
    return np.array([ood, *(experts.get(domain, 0.0) for domain in TREE.domains)])


def test_decide_sure_of_the_expert_chooses_it():
    route = decide(_shares(0.05, math=0.9, code=0.05), tree=TREE, rules=RULES)
    assert (route.node, route.branch, route.expert, route.abstained, route.confidence) == ("math", "analytical", "math", False, 0.9)
    assert [ranked.node for ranked in route.ranked][:2] == ["math", "code"]
    assert "next code 0.05" in route.reason


def test_decide_sure_of_the_branch_only_chooses_the_branch():
    route = decide(_shares(0.05, math=0.5, reasoning=0.4, code=0.05), tree=TREE, rules=RULES)
    assert (route.node, route.branch, route.expert, route.abstained) == ("analytical", "analytical", None, True)
    assert route.confidence == pytest.approx(0.9)
    assert "math 0.50 is below 0.60" in route.reason


def test_decide_sure_of_neither_chooses_the_root():
    route = decide(_shares(0.1, math=0.4, code=0.3, knowledge=0.2), tree=TREE, rules=RULES)
    assert (route.node, route.branch, route.expert, route.abstained) == ("generalist", None, None, True)
    assert "sure of neither" in route.reason


def test_decide_out_of_domain_names_it():
    route = decide(_shares(0.8, math=0.2), tree=TREE, rules=RULES)
    assert route.node == "generalist"
    assert "none of the domains (0.80)" in route.reason


def test_decide_branch_with_one_child_reaches_the_expert_when_the_branch_is_reached():
    route = decide(_shares(0.45, code=0.55), tree=TREE, rules=Rules(expert=0.6, branch=0.5))
    assert (route.node, route.expert, route.abstained) == ("code", "code", False)


@pytest.mark.parametrize(("prompt", "node"), [
    ("what is 12% of 340", "math"), ("how do I reverse a list in python", "code"), ("who painted the mona lisa", "knowledge"),
    ("hi, how are you doing today", "conversation"), ("All cats are mortal. Rex is a cat. Is Rex mortal?", "reasoning")])
def test_route_everyday_prompt_reaches_its_expert(router, prompt, node):
    route = router.route(prompt)
    assert route.ranked[0].node == node
    assert sum(ranked.probability for ranked in route.ranked) <= 1 + 1e-9


@pytest.mark.parametrize("prompt", ["", "   ", "?!...", "\u5317\u4eac\u5e02\u3042"])
def test_route_without_a_known_word_goes_to_the_root(router, prompt):
    route = router.route(prompt)
    assert (route.node, route.abstained, route.confidence) == ("generalist", True, 0.0)
    assert "no known word" in route.reason


def test_route_of_gibberish_abstains(router):
    assert router.route("xkqzv bwrtpl qqzzx").node == "generalist"


def test_route_of_an_over_long_prompt_reads_both_ends(router):
    text = "write a python function to sort a list " + "la " * 50_000 + " return the sorted list in python code"
    short = router.route("write a python function to sort a list " + "la " * 600 + " return the sorted list in python code")
    assert router.route(text).ranked[0].node == short.ranked[0].node == "code"


def test_route_batch_equals_route_of_each(router):
    prompts = [row.prompt for row in everyday_rows(TREE.domains, count=15, seed=3)] + ["", "zzzz", "User: hi\nAssistant: yo\nUser: what is 3 + 4?"]
    for single, many in zip(map(router.route, prompts), router.route_batch(prompts), strict=True):
        assert (single.node, single.reason) == (many.node, many.reason)
        assert single.confidence == pytest.approx(many.confidence, abs=1e-12)


def test_route_follow_up_is_held_by_the_conversation(router):
    talk = [{"role": "user", "content": "how many inches are in 12 feet"}, {"role": "assistant", "content": "144"}, {"role": "user", "content": "and 15?"}]
    alone = {ranked.node: ranked.probability for ranked in router.route("and 15?").ranked}
    together = {ranked.node: ranked.probability for ranked in router.route(talk).ranked}
    assert together["math"] > alone["math"]
    assert router.route(talk).ranked[0].node == "math"


def test_route_clear_new_subject_is_not_held_by_the_conversation(router):
    asked = "write a python function to reverse a string and print each character"
    talk = [{"role": "user", "content": "what is 12 times 9"}, {"role": "assistant", "content": "108"}, {"role": "user", "content": asked}]
    assert router.route(talk) == router.route(asked)


def test_route_context_pulls_an_unsure_turn_towards_its_node(router):
    alone = {ranked.node: ranked.probability for ranked in router.route("and that one?").ranked}
    pulled = {ranked.node: ranked.probability for ranked in router.route("and that one?", context=RouteContext("code")).ranked}
    assert pulled["code"] > alone["code"]


def test_router_loaded_decides_the_same(router, tmp_path):
    router.save(tmp_path)
    loaded = Router.load(tmp_path, TREE)
    prompts = [row.prompt for row in everyday_rows(TREE.domains, count=20, seed=9)]
    assert loaded.route_batch(prompts) == router.route_batch(prompts)
    assert loaded.rules == router.rules
    assert sorted(path.name for path in tmp_path.iterdir()) == ["router.json", "router.safetensors"]


def test_router_loaded_reads_typos_as_the_one_that_was_saved(router, tmp_path):
    router.save(tmp_path)
    loaded = Router.load(tmp_path, TREE)
    assert loaded.features.spelling == router.features.spelling
    assert loaded.route("waht wuold happen if all ice melted").ranked == router.route("what would happen if all ice melted").ranked


def test_router_of_the_format_before_spelling_reads_every_word_as_it_is(router, tmp_path):
    router.save(tmp_path)
    document = json.loads((tmp_path / "router.json").read_text(encoding="utf-8"))
    del document["spelling"]
    (tmp_path / "router.json").write_text(json.dumps({**document, "version": 1}), encoding="utf-8")
    loaded = Router.load(tmp_path, TREE)
    right, slip = loaded.route("what would happen if all ice melted"), loaded.route("waht wuold happen if all ice melted")
    assert right == router.route("what would happen if all ice melted")
    assert slip.ranked != right.ranked
    assert explain(loaded, "waht wuold happen if all ice melted").read_as == {}


def _by_hand(router, text, branch_share):
    """Expert's probability: inside, times its branch's share of the root's probabilities, times its share among its siblings."""
    part = router.features.one(text)

    def shares(classifier):
        scores = (classifier.weights[:, part.ids] @ part.values + classifier.bias) / classifier.temperature
        return dict(zip(classifier.labels, softmax([0.0, *scores] if len(classifier.labels) == 2 else scores), strict=True))

    root = shares(router.root)
    siblings = {domain: share for child in router.children.values() for domain, share in shares(child).items()}
    return {domain: shares(router.gate)["inside"] * branch_share(root, str(TREE.nodes[domain].parent)) * siblings.get(domain, 1.0) for domain in TREE.domains}


PROMPTS = ["what is 12 plus 30", "capital of france", "hello, how are you", "reverse a list in python", "if all cats are animals, is Tom an animal"]


@pytest.mark.parametrize("text", PROMPTS)
def test_router_counts_a_domain_at_the_root_for_its_branch(router, text):
    assert router.root.labels == TREE.domains
    expected = _by_hand(router, text, lambda root, branch: sum(root[domain] for domain in TREE.nodes[branch].children))
    assert {ranked.node: ranked.probability for ranked in router.route(text).ranked} == pytest.approx(expected, abs=1e-9)


def test_router_of_the_format_whose_root_has_branches_is_read_and_routes_by_them(router, tmp_path):
    above = Classifier(TREE.branches, router.root.weights[[0, 2, 4]], router.root.bias[[0, 2, 4]], 0.7)
    old = dataclasses.replace(router, root=above)
    old.save(tmp_path)
    document = json.loads((tmp_path / "router.json").read_text(encoding="utf-8"))
    (tmp_path / "router.json").write_text(json.dumps({**document, "version": 2}), encoding="utf-8")
    loaded = Router.load(tmp_path, TREE)
    for text in PROMPTS:
        found = {ranked.node: ranked.probability for ranked in loaded.route(text).ranked}
        assert found == pytest.approx(_by_hand(old, text, lambda root, branch: root[branch]), abs=1e-9)
        assert explain(loaded, text).terms


def test_router_whose_root_leaves_a_branch_out_is_refused(router, tmp_path):
    dataclasses.replace(router, root=Classifier(TREE.domains[:3], router.root.weights[:3], router.root.bias[:3])).save(tmp_path)
    with pytest.raises(DamagedRouter, match="the tree needs"):
        Router.load(tmp_path, TREE)


def test_router_with_a_flipped_byte_is_refused(router, tmp_path):
    router.save(tmp_path)
    packed = bytearray((tmp_path / "router.safetensors").read_bytes())
    packed[-5] ^= 1
    (tmp_path / "router.safetensors").write_bytes(packed)
    with pytest.raises(DamagedRouter, match=r"router.safetensors is damaged or of another router: sha256"):
        Router.load(tmp_path, TREE)


def test_router_cut_short_is_refused(router, tmp_path):
    router.save(tmp_path)
    text = (tmp_path / "router.json").read_text(encoding="utf-8")
    (tmp_path / "router.json").write_text(text[:len(text) // 2], encoding="utf-8")
    with pytest.raises(DamagedRouter, match="can't be read as JSON"):
        Router.load(tmp_path, TREE)


@pytest.mark.parametrize(("change", "reason"), [
    ({"format": "other"}, "isn't a router of this project"), ({"version": 99}, "format version 99"), ({"words": []}, "vocabulary of"),
    ({"spelling": {"known": ["what"], "common": ["what", "what"]}}, "2 common words, 1 different"),
    ({"spelling": {"known": [], "common": ["what"]}}, "0 different"), ({"spelling": {"known": [7], "common": []}}, "no word"),
    ({"classifiers": {}}, "the tree needs"), ({"rules": {"hope": 1}}, "no whole router"), ({"rules": {"expert": "0.5"}}, "rule expert is '0.5'"),
    ({"rules": {"branch": float("nan")}}, "rule branch is nan"), ({"rules": {"history_turns": 1.5}}, "rule history_turns is 1.5")])
def test_router_foreign_document_is_refused_with_the_reason(router, tmp_path, change, reason):
    router.save(tmp_path)
    document = json.loads((tmp_path / "router.json").read_text(encoding="utf-8"))
    (tmp_path / "router.json").write_text(json.dumps({**document, **change}), encoding="utf-8")
    with pytest.raises(DamagedRouter, match=reason):
        Router.load(tmp_path, TREE)


def test_router_with_an_infinite_weight_of_a_term_is_refused(router, tmp_path):
    dataclasses.replace(router, features=dataclasses.replace(router.features, idf=router.features.idf * np.inf)).save(tmp_path)
    with pytest.raises(DamagedRouter, match="idf of float64 with a number that isn't finite"):
        Router.load(tmp_path, TREE)


def test_router_with_an_infinite_temperature_is_refused(router, tmp_path):
    router.save(tmp_path)
    document = json.loads((tmp_path / "router.json").read_text(encoding="utf-8"))
    document["classifiers"]["root"]["temperature"] = float("inf")
    (tmp_path / "router.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DamagedRouter, match="no positive temperature"):
        Router.load(tmp_path, TREE)


def test_router_of_the_same_tree_with_its_branches_in_another_order_decides_the_same(router, tmp_path):
    router.save(tmp_path)
    turned = dict(reversed([(branch, TREE.nodes[branch].children) for branch in TREE.branches]))
    loaded = Router.load(tmp_path, Tree.from_settings(settings.TreeSettings(branches=turned)))
    for row in everyday_rows(TREE.domains, count=5, seed=9):
        here, there = ({ranked.node: ranked.probability for ranked in one.route(row.prompt).ranked} for one in (router, loaded))
        assert there == pytest.approx(here)


def test_router_of_another_tree_is_refused(router, tmp_path):
    router.save(tmp_path)
    other = Tree.from_settings(settings.TreeSettings(branches={"one": ("math", "law")}))
    with pytest.raises(DamagedRouter, match="fitted for the tree"):
        Router.load(tmp_path, other)


def test_router_absent_is_refused(tmp_path):
    with pytest.raises(DamagedRouter, match=r"no router.json in .*fit a router"):
        Router.load(tmp_path, TREE)


def test_fit_with_an_unknown_label_is_refused():
    with pytest.raises(ValueError, match=r"labelled \['law'\]; a label is one of"):
        fit([Row("sue them", "law", "x")], tree=TREE, settings=SMALL, seed=0)


def test_fit_without_rows_of_a_domain_is_refused():
    with pytest.raises(ValueError, match=r"no rows for \['code', 'conversation', 'knowledge', 'reasoning'\]"):
        fit([Row("1 + 1", "math", "x")], tree=TREE, settings=SMALL, seed=0)


def test_fit_with_the_same_seed_gives_the_same_router(fitted):
    again = fit(everyday_rows(TREE.domains, count=250, seed=77), tree=TREE, settings=SMALL, seed=1)
    assert np.array_equal(again.router.root.weights, fitted.router.root.weights)
    assert again.router.rules == fitted.router.rules


def test_fit_report_counts_labels_and_keeps_the_curve(fitted):
    assert set(fitted.report["by_label"]) == {*TREE.domains, "ood"}
    assert fitted.report["calibration_texts"] > 0
    assert fitted.report["risk_coverage"][-1]["coverage"] == 1.0


def test_explain_terms_sum_to_the_margin_at_the_deciding_node(router):
    explanation = explain(router, "what is 12 plus 30", terms=100_000)
    part = router.features.one("what is 12 plus 30")
    assert explanation.decided_for == "math"
    if explanation.against == "reasoning":
        expected = -(router.children["analytical"].weights[0, part.ids] @ part.values)
    elif explanation.against == "ood":
        expected = -(router.gate.weights[0, part.ids] @ part.values)
    else:
        scores = dict(zip(router.root.labels, router.root.weights[:, part.ids] @ part.values, strict=True))
        whole = dict(zip(router.root.labels, router.root.scores(router.features.many(["what is 12 plus 30"]))[0], strict=True))
        mine, theirs = (max(TREE.nodes[TREE.nodes[name].parent].children, key=whole.__getitem__) for name in ("math", explanation.against))
        expected = scores[mine] - scores[theirs]
    assert sum(term.weight for term in explanation.terms) == pytest.approx(expected)
    assert explanation.terms[0].weight == max(explanation.terms, key=lambda term: abs(term.weight)).weight


def test_explain_gives_every_node_a_probability(router):
    explanation = explain(router, "capital of france")
    assert set(explanation.probabilities) == {*TREE.nodes, "ood"}
    assert explanation.probabilities["generalist"] + explanation.probabilities["ood"] == pytest.approx(1.0)
    assert json.loads(json.dumps(explanation.to_json()))["route"]["node"] == explanation.route.node


def test_explain_names_the_words_that_were_read_as_others_and_weighs_those(router):
    slip, right = explain(router, "waht wuold happen if all ice melted"), explain(router, "what would happen if all ice melted")
    assert slip.read_as == {"waht": "what", "wuold": "would"}
    assert (right.read_as, slip.terms) == ({}, right.terms)


def test_route_batch_of_typos_equals_route_of_each(router):
    rng = random.Random(4)
    prompts = [typo(row.prompt, rng) for row in everyday_rows(TREE.domains, count=30, seed=9)]
    for one, other in zip(router.route_batch(prompts), map(router.route, prompts), strict=True):
        assert one.node == other.node
        assert [ranked.probability for ranked in one.ranked] == pytest.approx([ranked.probability for ranked in other.ranked], abs=1e-12)


def test_none_rows_hold_languages_tasks_and_gibberish():
    sources = {row.source for row in none_rows(500, seed=0)}
    assert sources == {"none/languages", "none/tasks", "none/gibberish"}


def test_routing_imports_no_torch():
    code = "import sys, routing.fit, routing.router, routing.explain, routing.evaluate, routing.store; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=settings.HOME, check=False, timeout=120).returncode == 0


def test_route_is_a_frozen_result(router):
    with pytest.raises(dataclasses.FrozenInstanceError):
        router.route("hello").node = "math"
