"""The second label of a prompt: the node that answers it best; and what the router's choice costs against it.

Grades come from the caller, who examined the nodes. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from routing.router import Router


@dataclass(frozen=True, slots=True)
class Graded:
    """One exam prompt and the grade (0 to 1) of every node's answer to it."""

    prompt: str
    grades: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Regret:
    """Mean grades over prompts. regret: oracle less routed. gain: routed less the best single node."""

    n: int
    routed: float
    oracle: float
    regret: float
    best_single: str
    best_single_grade: float
    gain: float


def regret(router: Router, graded: Sequence[Graded]) -> Regret:
    """Regret of the router's choices. A node without a grade of its own is graded as the nearest ancestor that has one.

    Raises ValueError without rows, for rows graded on different nodes, and when no ancestor of a choice was graded.
    """
    if not graded:
        raise ValueError("no graded prompts; examine the nodes first and pass their grades")
    nodes = sorted(graded[0].grades)
    if any(sorted(row.grades) != nodes for row in graded):
        raise ValueError(f"prompts are graded on different nodes; every prompt needs the grades of {nodes}")
    table = np.array([[row.grades[node] for node in nodes] for row in graded])
    chosen = [_graded_node(router, route.node, nodes) for route in router.route_batch([row.prompt for row in graded])]
    routed = float(np.mean([row.grades[node] for row, node in zip(graded, chosen, strict=True)]))
    oracle = float(table.max(axis=1).mean())
    single = table.mean(axis=0)
    best = int(single.argmax())
    return Regret(len(graded), routed, oracle, oracle - routed, nodes[best], float(single[best]), routed - float(single[best]))


def _graded_node(router: Router, node: str, graded: Sequence[str]) -> str:
    for place in reversed(router.tree.path(node)):
        model = router.tree.model_of(place)
        if model in graded:
            return model
    raise ValueError(f"neither {node} nor a node above it was graded; graded: {list(graded)}")
