"""Corrections from users as rows to fit on, so capped that no client can steer the router.

Reads no journal: the caller passes what was said. Decides nothing about when to fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from routing.rows import Row

SOURCE = "feedback"


@dataclass(frozen=True, slots=True)
class Correction:
    """A user's word that a prompt belongs to label. client: who said it, as the gateway knows them."""

    prompt: str
    label: str
    weight: float
    client: str


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
            rows.append(Row(correction.prompt, correction.label, SOURCE, min(correction.weight, most_weight)))
    return rows[::-1]
