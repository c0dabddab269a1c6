"""What a router must beat: the most frequent label, a few keywords, and the nearest neighbours on its own features.

For comparison only; nothing here is served.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from experts.tree import OUT_OF_DOMAIN
from routing.router import Router
from routing.rows import Row
from routing.text import shorten, user_turns

KEYWORDS_NAME = "keyword rules"
MAJORITY_NAME = "majority"
NEIGHBOURS_NAME = "nearest neighbours"
_KEYWORDS = MappingProxyType({
    "code": re.compile(r"\b(python|java|javascript|function|code|array|string|sql|html|css|bash|file|directory|program|class|algorithm|script)\b"),
    "math": re.compile(r"\d.*\b(how many|how much|total|percent|sum|times|cost|each)\b|\d\s*[-+*/^=]\s*\d|\b(solve|calculate|equation)\b"),
    "reasoning": re.compile(r"^(is|are|was|were|do|does|did|can|could|would|will|has|have)\b(?! you)|\b(true or false|true, false|conclude|if all|options)\b"),
    "knowledge": re.compile(r"^(who|what|when|where|which|why|how|name|list|explain|define)\b"),
})


def baselines(router: Router, rows: Sequence[Row], *, near: Neighbours | None = None) -> dict[str, float]:
    """Accuracy on the in-domain rows of the most frequent fitted label, the keyword rules, the flat classifier and, where given, the neighbours."""
    known = [row for row in rows if row.label != OUT_OF_DOMAIN]
    most = majority_label(router)
    found = {} if most is None else {MAJORITY_NAME: float(np.mean([row.label == most for row in known]))}
    found |= {KEYWORDS_NAME: keyword_accuracy(known),
              "flat": float(np.mean([guess == row.label for guess, row in zip(flat_choices(router, known), known, strict=True)]))}
    return found if near is None else {**found, NEIGHBOURS_NAME: near.accuracy(known)}


def majority_label(router: Router) -> str | None:
    """The domain that most rows of the router's fit had; None for a router that doesn't say."""
    counts = Counter({label: count for label, count in router.facts.get("by_label", {}).items() if label in router.tree.domains})
    return counts.most_common(1)[0][0] if counts else None


def keyword_accuracy(rows: Sequence[Row]) -> float:
    """Share right of the keyword rules."""
    return float(np.mean([guess == row.label for guess, row in zip(keyword_choices(rows), rows, strict=True)]))


def keyword_choices(rows: Sequence[Row]) -> list[str]:
    """The first domain whose rule matches the last user turn; conversation where none does."""
    return [next((domain for domain, rule in _KEYWORDS.items() if rule.search(_said(row).lower())), "conversation") for row in rows]


def flat_choices(router: Router, rows: Sequence[Row]) -> list[str]:
    """What the flat classifier, fitted beside the tree, holds most probable for the last user turns; it knows no "ood"."""
    shares = router.flat.probabilities(router.features.many([newest_turn(router, row) for row in rows]))
    return [router.flat.labels[place] for place in shares.argmax(axis=1).tolist()]


def majority_accuracy(fitted: Sequence[Row], rows: Sequence[Row]) -> float:
    """Share right of the most frequent label of the fitted rows."""
    label = Counter(row.label for row in fitted).most_common(1)[0][0]
    return float(np.mean([row.label == label for row in rows]))


@dataclass(frozen=True, eq=False)
class Neighbours:
    """A fitted nearest-neighbour classifier on the features of a router."""

    router: Router
    model: Any

    def accuracy(self, rows: Sequence[Row]) -> float:
        """Share right."""
        return float(np.mean([guess == row.label for guess, row in zip(neighbour_choices(self, rows), rows, strict=True)]))


def neighbours(router: Router, rows: Sequence[Row], *, seed: int, most: int = 20_000) -> Neighbours:
    """Five neighbours by Euclidean distance, which on rows of length one orders as the cosine does; at most so many fitted rows."""
    places = np.random.default_rng(seed).permutation(len(rows))[:most]
    chosen = [rows[place] for place in places.tolist()]
    model = KNeighborsClassifier(n_neighbors=5, weights="distance", algorithm="brute")
    model.fit(router.features.many([newest_turn(router, row) for row in chosen]), np.array([row.label for row in chosen]))
    return Neighbours(router, model)


def neighbour_choices(near: Neighbours, rows: Sequence[Row]) -> list[str]:
    """The label of most of the neighbours of each row."""
    guesses: list[str] = near.model.predict(near.router.features.many([newest_turn(near.router, row) for row in rows])).tolist()
    return guesses


def _said(row: Row) -> str:
    turns = user_turns(row.prompt)
    return turns[0] if turns else ""


def newest_turn(router: Router, row: Row) -> str:
    """What the user said last, as much of it as the router reads."""
    return shorten(_said(row), limit=router.rules.max_prompt_chars)
