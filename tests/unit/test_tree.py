"""experts/tree.py: shape, order, parents, and whose model answers."""

import pytest

from experts.tree import Tree
from settings import SettingsError, TreeSettings, load


def _tree(**branches):
    return Tree.from_settings(TreeSettings(branches={name: tuple(domains) for name, domains in branches.items()}))


def test_tree_default_has_the_family():
    tree = Tree.from_settings(load().tree)
    assert tuple(tree.nodes) == ("generalist", "analytical", "language", "technical", "math", "reasoning", "conversation", "knowledge", "code")
    assert tree.domains == ("math", "reasoning", "conversation", "knowledge", "code")
    assert tree.trainable == ("generalist", "analytical", "language", "math", "reasoning", "conversation", "knowledge", "code")


def test_tree_branch_with_one_child_shares_its_model_and_is_skipped_as_a_start():
    tree = Tree.from_settings(load().tree)
    assert tree.model_of("technical") == "code"
    assert tree.start_of("code") == "generalist"
    assert tree.start_of("math") == "analytical"
    assert tree.start_of("generalist") is None


def test_tree_sixth_domain_is_one_line():
    tree = Tree.from_settings(load(overrides=['tree.branches.technical=["code", "law"]']).tree)
    assert tree.domains[-1] == "law"
    assert tree.path("law") == ("generalist", "technical", "law")
    assert "technical" in tree.trainable


@pytest.mark.parametrize(("name", "available", "answers"), [
    ("math", {"generalist", "analytical", "math"}, "math"),
    ("math", {"generalist", "analytical"}, "analytical"),
    ("math", {"generalist"}, "generalist"),
    ("technical", {"generalist", "code"}, "code"),
    ("technical", {"generalist"}, "generalist"),
    ("math", set(), None),
])
def test_tree_answering_is_the_nearest_node_with_a_version(name, available, answers):
    assert Tree.from_settings(load().tree).answering(name, available) == answers


@pytest.mark.parametrize(("branches", "words"), [
    ({}, "tree.branches is empty"),
    ({"a": []}, r"tree\.branches\.a has no domain"),
    ({"a": ["x", "x"]}, "'x' stands 2 times"),
    ({"a": ["generalist"]}, "'generalist' stands 2 times"),
    ({"a": ["Law"]}, "'Law' can't name a node"),
    ({"a": ["auto"]}, "'auto' can't name a node"),
    ({"a": ["../up"]}, "can't name a node"),
])
def test_tree_wrong_shape_is_refused(branches, words):
    with pytest.raises(SettingsError, match=words):
        _tree(**branches)


def test_tree_unknown_node_lists_known_ones():
    with pytest.raises(KeyError, match="no node named 'maths'; known: generalist"):
        Tree.from_settings(load().tree).node("maths")
