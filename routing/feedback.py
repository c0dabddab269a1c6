"""Corrections from users as rows to fit on, so capped that no client can steer the router.

Reads no journal: the caller passes what was said. Decides nothing about when to fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from experts.tree import OUT_OF_DOMAIN, Tree
from routing.rows import FEEDBACK, Row
from settings import RouterSettings


@dataclass(frozen=True, slots=True)
class Correction:
    """A user's word that a prompt belongs to label. client: who said it, as the gateway knows them."""

    prompt: str
    label: str
    client: str


def feedback_rows(said: Iterable[Mapping[str, Any]], *, tree: Tree, settings: RouterSettings) -> list[Row]:
    """Rows of what the journal holds of POST /feedback, oldest first, under the caps of the settings."""
    corrections = [correction for facts in said if (correction := _correction(facts, tree=tree)) is not None]
    newest = newest_corrections(corrections, most_a_client=settings.feedback_a_client, most=settings.feedback_rows)
    return [Row(each.prompt, each.label, FEEDBACK, settings.feedback_weight) for each in newest]


def _correction(facts: Mapping[str, Any], *, tree: Tree) -> Correction | None:
    """A good route confirms its expert, a bad one names the right node; a node above two experts or none says nothing to fit on."""
    named = facts["expert"] if facts["verdict"] == "good" else facts["right_node"]
    if named == tree.root:
        return Correction(facts["prompt"], OUT_OF_DOMAIN, facts["client"])
    domains = tree.nodes[named].domains if named in tree.nodes else ()
    return Correction(facts["prompt"], domains[0], facts["client"]) if len(domains) == 1 else None


def newest_corrections(corrections: Iterable[Correction], *, most_a_client: int, most: int) -> list[Correction]:
    """The newest of the corrections given oldest first, in that order: at most most_a_client of each client, and most of all.

    A client's later word on a prompt replaces the earlier one; empty prompts fall away.
    """
    latest: dict[tuple[str, str], Correction] = {}
    for correction in corrections:
        if correction.prompt.strip():
            latest.pop((correction.client, correction.prompt), None)
            latest[correction.client, correction.prompt] = correction
    taken: Counter[str] = Counter()
    kept: list[Correction] = []
    for correction in reversed(latest.values()):
        if taken[correction.client] < most_a_client and len(kept) < most:
            taken[correction.client] += 1
            kept.append(correction)
    return kept[::-1]
