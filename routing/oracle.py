"""The second label of a prompt: the node that answers it best; and what the router's choice costs against it.

Grades come from the caller, who examined the nodes. The same is reckoned for simpler ways of choosing. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from routing.baselines import KEYWORDS_NAME, MAJORITY_NAME, NEIGHBOURS_NAME, Neighbours, flat_choices, keyword_choices, majority_label, neighbour_choices
from routing.router import Router
from routing.rows import Row

KNOWING = "knowing the domain"


@dataclass(frozen=True, slots=True)
class Graded:
    """One exam prompt and the grade (0 to 1) of every node's answer to it. label: its domain."""

    prompt: str
    grades: Mapping[str, float]
    label: str = ""


@dataclass(frozen=True, slots=True)
class Regret:
    """Mean grades over prompts. regret: oracle less routed. gain: routed less the best single node. among_best: share of prompts
    on which no node did better than the chosen one. others: the mean grade of other ways to choose, by name."""

    n: int
    routed: float
    oracle: float
    regret: float
    best_single: str
    best_single_grade: float
    gain: float
    among_best: float
    others: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """As the command writes it; regrets: of the other ways too."""
        return {**asdict(self), "routing_regret": self.routing_regret, "regrets": {name: self.oracle - grade for name, grade in self.others.items()}}

    @property
    def routing_regret(self) -> float | None:
        """What a router that knew every domain would have added: the part of the regret that is the router's. The rest is luck of the
        oracle, which on each prompt takes whichever of all nodes happened to be right."""
        return self.others[KNOWING] - self.routed if KNOWING in self.others else None


def regret(router: Router, graded: Sequence[Graded], *, near: Neighbours | None = None) -> Regret:
    """Regret of the router's choices. A node without a grade of its own is graded as the nearest ancestor that has one.

    near: nearest neighbours to reckon beside it. Raises ValueError without rows, for rows graded on different nodes, and
    when no ancestor of a choice was graded.
    """
    if not graded:
        raise ValueError("no graded prompts; examine the nodes first and pass their grades")
    nodes = sorted(graded[0].grades)
    if any(sorted(row.grades) != nodes for row in graded):
        raise ValueError(f"prompts are graded on different nodes; every prompt needs the grades of {nodes}")
    table = np.array([[row.grades[node] for node in nodes] for row in graded])
    chosen = [route.node for route in router.route_batch([row.prompt for row in graded])]
    routed = _grades(router, chosen, graded, nodes)
    best_of_each = table.max(axis=1)
    single = table.mean(axis=0)
    best = int(single.argmax())
    others = {name: float(np.mean(_grades(router, choices, graded, nodes))) for name, choices in _others(router, graded, table, nodes, near=near).items()}
    return Regret(len(graded), float(np.mean(routed)), float(best_of_each.mean()), float(best_of_each.mean() - np.mean(routed)), nodes[best],
                  float(single[best]), float(np.mean(routed) - single[best]), float((np.array(routed) >= best_of_each).mean()), others)


def _others(router: Router, graded: Sequence[Graded], table: Any, nodes: Sequence[str], *, near: Neighbours | None) -> dict[str, list[str]]:
    """Choices of simpler ways. "knowing the domain" takes, of each label, the node that is best on its prompts: no router of domains does better."""
    if not all(row.label in router.tree.domains for row in graded):
        return {}
    rows = [Row(row.prompt, row.label, "exam") for row in graded]
    labels = np.array([row.label for row in graded])
    best = {label: nodes[int(table[labels == label].mean(axis=0).argmax())] for label in set(labels.tolist())}
    most = majority_label(router)
    found = {KNOWING: [best[row.label] for row in graded], "expert of the true domain": labels.tolist(), "flat": flat_choices(router, rows),
             KEYWORDS_NAME: keyword_choices(rows)}
    if set(found[KEYWORDS_NAME]) - set(router.tree.domains):
        del found[KEYWORDS_NAME]  # the rules know the built-in domains only
    if most is not None:
        found[MAJORITY_NAME] = [most] * len(rows)
    if near is not None:
        found[NEIGHBOURS_NAME] = neighbour_choices(near, rows)
    return found


def _grades(router: Router, chosen: Sequence[str], graded: Sequence[Graded], nodes: Sequence[str]) -> list[float]:
    return [row.grades[_graded_node(router, node, nodes)] for row, node in zip(graded, chosen, strict=True)]


def _graded_node(router: Router, node: str, graded: Sequence[str]) -> str:
    for place in reversed(router.tree.path(node)):
        model = router.tree.model_of(place)
        if model in graded:
            return model
    raise ValueError(f"neither {node} nor a node above it was graded; graded: {list(graded)}")
