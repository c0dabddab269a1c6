"""Why a prompt went where it went: every node's probability, the runner-up, and the terms that tipped it, with weights.

The weight of a term is its TF-IDF value times the difference of the two classifiers' coefficients. Judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data_prep.records import Message
from experts.tree import OUT_OF_DOMAIN
from routing.features import Sparse
from routing.parts import INSIDE
from routing.router import Route, RouteContext, Router
from routing.text import shorten, tokens, user_turns


@dataclass(frozen=True, slots=True)
class Term:
    """A word, letter group or dense fact. weight > 0 spoke for the chosen side, < 0 for the runner-up."""

    term: str
    weight: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """A route with its reasons. probabilities: every node of the tree and "ood". against: what came second where it was decided.
    terms: the strongest first, of the newest user turn alone, as it was read; where two branches part, those between the domains that say most
    for either; read_as: words of it that were read as another one."""

    route: Route
    probabilities: dict[str, float]
    decided_for: str
    against: str
    terms: tuple[Term, ...]
    read_as: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """As POST /route and the command give it."""
        return asdict(self)


def explain(router: Router, prompt: str | Sequence[Message], *, context: RouteContext | None = None, terms: int = 10) -> Explanation:
    """Explain the route of a prompt."""
    route = router.route(prompt, context=context)
    turns = user_turns(prompt)
    newest = shorten(turns[0], limit=router.rules.max_prompt_chars) if turns else ""
    part = router.features.one(newest)
    leaves = {ranked.node: ranked.probability for ranked in route.ranked}
    probabilities = {name: sum(leaves[domain] for domain in node.domains) for name, node in router.tree.nodes.items()}
    probabilities[OUT_OF_DOMAIN] = max(0.0, 1.0 - probabilities[router.tree.root])
    ordered = sorted({**leaves, OUT_OF_DOMAIN: probabilities[OUT_OF_DOMAIN]}.items(), key=lambda pair: -pair[1])
    first, second = ordered[0][0], ordered[1][0]
    return Explanation(route, probabilities, first, second, _terms(router, part, first=first, second=second, count=terms),
                       {word: meant for word in tokens(newest) if (meant := router.features.spelling.meant(word)) != word})


def _terms(router: Router, part: Sparse, *, first: str, second: str, count: int) -> tuple[Term, ...]:
    if part.empty:
        return ()
    weights = _difference(router, part, first, second)[part.ids] * part.values
    strongest = np.argsort(-np.abs(weights), kind="stable")[:count]
    names = router.features.names_of(part.ids[strongest])
    return tuple(Term(name, float(weight)) for name, weight in zip(names, weights[strongest], strict=True))


def _difference(router: Router, part: Sparse, first: str, second: str) -> Any:
    """Weights at the node where the paths to both part: at the gate, at the root, or at their common branch."""
    if OUT_OF_DOMAIN in (first, second):
        return router.gate.margin_weights(*((OUT_OF_DOMAIN, INSIDE) if first == OUT_OF_DOMAIN else (INSIDE, OUT_OF_DOMAIN)))
    parents = [str(router.tree.nodes[name].parent) for name in (first, second)]
    if parents[0] == parents[1]:
        return router.children[parents[0]].margin_weights(first, second)
    return router.root.margin_weights(*(_strongest(router, part, branch) for branch in parents))


def _strongest(router: Router, part: Sparse, branch: str) -> str:
    """The label of the root that says most for a branch."""
    labels = router.root.labels
    shares = router.root.from_scores((part.values @ router.root.weights[:, part.ids].T + router.root.bias)[None, :])[0]
    return max((label for label in labels if router.branch_of(label) == branch), key=lambda label: float(shares[labels.index(label)]))
