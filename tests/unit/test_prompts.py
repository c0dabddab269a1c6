"""Labelled prompts for routers: which ones, how many a domain, and in what order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from data_prep.prompts import LabelledPrompt, corpus_prompts, curriculum_prompts, evenly, prompts_to_fit
from experts.tree import Tree
from settings import RouterSettings, TreeSettings

TREE = Tree.from_settings(TreeSettings(branches={"one": ("law", "math")}))


def toy_corpus(count: int) -> Any:
    """So many examples a domain and split, named by all three."""
    def examples(domain: str, split: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(prompt=f"{domain} {split} {number}", source=f"{domain}.jsonl") for number in range(count)]

    return SimpleNamespace(examples=examples)


@pytest.mark.parametrize(("most", "expected"), [(None, list(range(10))), (10, list(range(10))), (99, list(range(10))), (4, [0, 2, 5, 7]), (1, [0]), (0, [])])
def test_evenly_spreads_over_the_whole_sequence(most: int | None, expected: list[int]) -> None:
    assert list(evenly(range(10), most=most)) == expected


def test_corpus_prompts_are_of_the_split_labelled_and_capped_a_domain() -> None:
    assert corpus_prompts(toy_corpus(4), TREE, "validation", most=2) == [
        LabelledPrompt("law validation 0", "law", "law.jsonl"), LabelledPrompt("law validation 2", "law", "law.jsonl"),
        LabelledPrompt("math validation 0", "math", "math.jsonl"), LabelledPrompt("math validation 2", "math", "math.jsonl")]


def test_curriculum_prompts_are_made_for_domains_that_have_one_the_same_for_a_seed() -> None:
    made = curriculum_prompts(TREE, count=30, seed=5)
    assert {(prompt.label, prompt.source) for prompt in made} == {("math", "curriculum/math")}
    assert len(made) == 30
    assert made == curriculum_prompts(TREE, count=30, seed=5) != curriculum_prompts(TREE, count=30, seed=6)


def test_prompts_to_fit_are_training_rows_up_to_the_cap_and_curriculum_beside_them() -> None:
    made = prompts_to_fit(toy_corpus(20), TREE, router=RouterSettings(rows=10, curriculum_rows=7), seed=0)
    counts = [sum(prompt.source == source for prompt in made) for source in ("law.jsonl", "math.jsonl", "curriculum/math")]
    assert counts == [10, 10, 7]
    assert all(" train " in prompt.prompt for prompt in made if prompt.source.endswith(".jsonl"))
