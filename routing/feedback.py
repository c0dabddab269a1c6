"""Corrections from users as rows to fit on, so capped that no client can steer the router.

Reads no journal: the caller passes what was said. Decides nothing about when to fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
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
    weight: float
    client: str


def feedback_rows(said: Iterable[Mapping[str, Any]], *, tree: Tree, settings: RouterSettings) -> list[Row]:
    """Rows of what the journal holds of POST /feedback, oldest first, under the caps of the settings."""
    corrections = [correction for facts in said if (correction := _correction(facts, tree=tree, weight=settings.feedback_weight)) is not None]
    return correction_rows(corrections, labels=(*tree.domains, OUT_OF_DOMAIN), most_a_client=settings.feedback_a_client,
                           most_weight=settings.feedback_weight)[-settings.feedback_rows:] if settings.feedback_rows else []


def _correction(facts: Mapping[str, Any], *, tree: Tree, weight: float) -> Correction | None:
    """A good route confirms its expert, a bad one names the right node; a node above two experts or none says nothing to fit on."""
    named = facts["expert"] if facts["verdict"] == "good" else facts["right_node"]
    if named == tree.root:
        return Correction(facts["prompt"], OUT_OF_DOMAIN, weight, facts["client"])
    domains = tree.nodes[named].domains if named in tree.nodes else ()
    return Correction(facts["prompt"], domains[0], weight, facts["client"]) if len(domains) == 1 else None


def correction_rows(corrections: Iterable[Correction], *, labels: Collection[str], most_a_client: int, most_weight: float) -> list[Row]:
    """Rows of the newest corrections (given oldest first): of each client at most most_a_client, none heavier than most_weight.

    A client's later word on a prompt replaces the earlier one; unknown labels and empty prompts fall away.
    """
    latest: dict[tuple[str, str], Correction] = {}
    for correction in corrections:
        if correction.label in labels and correction.prompt.strip() and correction.weight > 0:
            latest.pop((correction.client, correction.prompt), None)
            latest[correction.client, correction.prompt] = correction
    taken: Counter[str] = Counter()
    rows = []
    for correction in reversed(latest.values()):
        if taken[correction.client] < most_a_client:
            taken[correction.client] += 1
            rows.append(Row(correction.prompt, correction.label, FEEDBACK, min(correction.weight, most_weight)))
    return rows[::-1]
