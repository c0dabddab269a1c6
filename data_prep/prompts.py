"""Prompts labelled with their domain, for fitting and judging a router: from the corpus, and from the curriculum beside it.

Does not fit (routing does), and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from data_prep import curriculum
from data_prep.corpus import Corpus
from data_prep.records import Split
from experts.tree import Tree
from settings import RouterSettings

Item = TypeVar("Item")


class LabelledPrompt(NamedTuple):
    """A prompt, the domain it belongs to, and where it is from; the order of routing.rows.Row."""

    prompt: str
    label: str
    source: str


def corpus_prompts(corpus: Corpus, tree: Tree, split: Split, *, most: int | None = None) -> list[LabelledPrompt]:
    """Prompts of a split, at most so many a domain."""
    return [LabelledPrompt(example.prompt, domain, example.source) for domain in tree.domains
            for example in evenly(corpus.examples(domain, split), most=most)]


def curriculum_prompts(tree: Tree, *, count: int, seed: int) -> list[LabelledPrompt]:
    """So many prompts of every domain that has a curriculum, over all its levels: a router fitted on a user's records alone
    wouldn't know the curriculum's way of asking."""
    return [LabelledPrompt(record.prompt, domain, record.source) for domain in tree.domains if domain in curriculum.domains()
            for record in curriculum.make_records(domain, count=count, levels=curriculum.levels(domain), seed=seed)]


def prompts_to_fit(corpus: Corpus, tree: Tree, *, router: RouterSettings, seed: int) -> list[LabelledPrompt]:
    """What a run's router is fitted on, but for what the router adds itself and what users corrected."""
    return [*corpus_prompts(corpus, tree, "train", most=router.rows), *curriculum_prompts(tree, count=router.curriculum_rows, seed=seed)]


def evenly(items: Sequence[Item], *, most: int | None) -> Sequence[Item]:
    """At most `most` items, spread evenly over the sequence, so that every file and level keeps its share."""
    if most is None or len(items) <= most:
        return items
    return [items[number * len(items) // most] for number in range(most)]
