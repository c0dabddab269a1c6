"""How good a router is on labelled rows: accuracy, abstention, out-of-domain, calibration, latency. Fits nothing.

accuracy asks for the most probable expert, abstained or not; coverage and selective accuracy ask for what was decided.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from experts.tree import OUT_OF_DOMAIN
from routing.baselines import flat_choices
from routing.calibrate import risk_coverage
from routing.features import Floats
from routing.router import Router
from routing.rows import Row

BINS = 15
ABSTAINED = "abstained"
_WARM_UP = 50


@dataclass(frozen=True)
class Evaluation:
    """Figures over rows, shares from 0 to 1; None where there is no out-of-domain row, or every row was abstained. n: all rows, n_ood of them
    out of domain. per_domain: accuracy by label. ood_auroc: of 1 less the largest expert probability. ood_recall: share of out-of-domain rows
    recognised when 5 % of in-domain rows are turned away. brier: of several classes (Brier 1950), 0 to 2. latency_ms: single decisions."""

    n: int
    accuracy: float
    branch_accuracy: float
    per_domain: dict[str, float]
    ood_auroc: float | None
    ood_recall: float | None
    ece: float
    brier: float
    coverage: float
    selective_accuracy: float | None
    latency_ms: dict[str, float]
    flat_accuracy: float
    n_ood: int
    confusion: dict[str, dict[str, int]]
    risk_coverage: list[dict[str, float]]
    reliability: list[dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """As the command writes it."""
        return asdict(self)


def evaluate(router: Router, rows: Sequence[Row], *, timed: int = 1000) -> Evaluation:
    """Judge a router on rows labelled with its domains or "ood". timed: at most that many single decisions are timed.

    Raises ValueError for a label that the router doesn't know, and where no row has a domain as its label.
    """
    _check(router, rows)
    labels = np.array([row.label for row in rows])
    routes = router.route_batch([row.prompt for row in rows])
    domains = np.array(router.tree.domains)
    shares = np.array([[ranked.probability for ranked in sorted(route.ranked, key=lambda ranked: router.tree.domains.index(ranked.node))]
                       for route in routes])
    inside = labels != OUT_OF_DOMAIN
    first = domains[shares.argmax(axis=1)]
    top = shares.max(axis=1)
    right = (first == labels)[inside]
    decided = np.array([route.expert or "" for route in routes])
    covered = (decided != "")[inside]
    some_ood = bool((~inside).any())
    return Evaluation(
        n=len(rows), accuracy=float(right.mean()), branch_accuracy=_branch_accuracy(router, shares[inside], labels[inside]),
        per_domain={domain: float((first[labels == domain] == domain).mean()) for domain in router.tree.domains if (labels == domain).any()},
        ood_auroc=float(roc_auc_score(~inside, 1 - top)) if some_ood else None,
        ood_recall=float((top[~inside] < np.quantile(top[inside], 0.05)).mean()) if some_ood else None,
        ece=expected_calibration_error(top[inside], right),
        brier=float(((shares[inside] - (labels[inside][:, None] == domains)) ** 2).sum(axis=1).mean()),
        coverage=float(covered.mean()),
        selective_accuracy=float((decided[inside] == labels[inside])[covered].mean()) if covered.any() else None,
        latency_ms=latency(router, [row.prompt for row in rows][:timed]), flat_accuracy=_flat_accuracy(router, rows),
        n_ood=int((~inside).sum()), confusion=_confusion(labels, np.where(decided == "", ABSTAINED, decided)),
        risk_coverage=risk_coverage(top[inside], right), reliability=reliability(top[inside], right))


def expected_calibration_error(confidence: Floats, right: NDArray[np.bool_], *, bins: int = BINS) -> float:
    """Mean over equal-width bins, by their rows, of |accuracy - mean confidence| (Guo et al. 2017, equation 3)."""
    return float(sum(abs(part["accuracy"] - part["confidence"]) * part["share"] for part in reliability(confidence, right, bins=bins)))


def reliability(confidence: Floats, right: NDArray[np.bool_], *, bins: int = BINS) -> list[dict[str, float]]:
    """Mean confidence, accuracy and share of the rows of each bin of equal width that has some."""
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    return [{"confidence": float(confidence[places == place].mean()), "accuracy": float(right[places == place].mean()),
             "share": float((places == place).mean())} for place in sorted(set(places.tolist()))]


def latency(router: Router, prompts: Sequence[Any]) -> dict[str, float]:
    """Milliseconds of one decision at a time, p50 and p99, after a short warm-up."""
    for prompt in prompts[:_WARM_UP]:
        router.route(prompt)
    spent = []
    for prompt in prompts:
        started = time.perf_counter()
        router.route(prompt)
        spent.append((time.perf_counter() - started) * 1000)
    return {"p50": float(np.quantile(spent, 0.5)), "p99": float(np.quantile(spent, 0.99))} if spent else {"p50": 0.0, "p99": 0.0}


def _check(router: Router, rows: Sequence[Row]) -> None:
    if all(row.label == OUT_OF_DOMAIN for row in rows):
        raise ValueError(f"{len(rows)} rows, none of them with a domain as its label; give lines of {{\"prompt\", \"label\"}}")
    strange = sorted({row.label for row in rows} - {*router.tree.domains, OUT_OF_DOMAIN})
    if strange:
        raise ValueError(f"rows are labelled {strange}; this router knows {[*router.tree.domains, OUT_OF_DOMAIN]}")


def _branch_accuracy(router: Router, shares: Floats, labels: NDArray[np.str_]) -> float:
    branch_of = [router.tree.nodes[domain].parent for domain in router.tree.domains]
    by_branch = np.stack([shares[:, [place for place, name in enumerate(branch_of) if name == branch]].sum(axis=1) for branch in router.tree.branches], axis=1)
    wanted = [router.tree.branches.index(str(router.tree.nodes[label].parent)) for label in labels.tolist()]
    return float((by_branch.argmax(axis=1) == np.array(wanted)).mean())


def _flat_accuracy(router: Router, rows: Sequence[Row]) -> float:
    known = [row for row in rows if row.label != OUT_OF_DOMAIN]
    return float(np.mean([guess == row.label for guess, row in zip(flat_choices(router, known), known, strict=True)]))


def _confusion(labels: NDArray[np.str_], answers: NDArray[np.str_]) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for label, answer in zip(labels.tolist(), answers.tolist(), strict=True):
        row = table.setdefault(label, {})
        row[answer] = row.get(answer, 0) + 1
    return table
