"""Temperatures and thresholds from rows that the classifiers were not fitted on. Pure: arrays in, numbers out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from experts.tree import OUT_OF_DOMAIN
from routing.classifier import Classifier
from routing.features import Floats
from routing.parts import Rules
from routing.router import Router
from settings import RouterSettings


def best_temperature(classifier: Classifier, matrix: Any, labels: NDArray[np.str_]) -> float:
    """The temperature at which held-out labels are most likely (Guo et al. 2017, arXiv 1706.04599, section 4.2); 1 without rows."""
    if not len(labels):
        return 1.0
    scores = classifier.scores(matrix)
    columns = np.array([classifier.labels.index(label) for label in labels.tolist()])
    everyone = np.arange(len(columns))

    def cost(log_temperature: float) -> float:
        shares = replace(classifier, temperature=float(np.exp(log_temperature))).from_scores(scores)
        return float(-np.log(shares[everyone, columns] + 1e-12).mean())

    return float(np.exp(minimize_scalar(cost, bounds=(-3.0, 3.0), method="bounded").x))


def risk_coverage(confidence: Floats, right: NDArray[np.bool_], *, points: int = 51) -> list[dict[str, float]]:
    """Coverage, risk (error share of what is covered) and threshold, from sure to unsure (El-Yaniv and Wiener 2010, JMLR 11, section 2).

    confidence, right: one number a row. At most `points` places, evenly spaced in coverage.
    """
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum(~right[order])
    places = sorted({max(1, round(share * len(order))) for share in np.linspace(0, 1, points)} & set(range(1, len(order) + 1)))
    return [{"coverage": place / len(order), "risk": float(errors[place - 1] / place), "threshold": float(confidence[order[place - 1]])} for place in places]


def best_rules(router: Router, shares: Floats, labels: NDArray[np.str_], *, settings: RouterSettings) -> tuple[Rules, list[dict[str, float]]]:
    """Thresholds for an expert and a branch, and the risk-coverage curve of the in-domain rows; the router's own rules without such rows.

    expert: the quantile false_rejection of the rows' largest probability, so that this share of them isn't sent to an expert. branch:
    half of the doubt that an expert may leave, since a branch has to be right about less but answers less well. shares: as
    Router.shares_of gives them, one row a label.
    """
    inside = labels != OUT_OF_DOMAIN
    if not inside.any():
        return router.rules, []
    known = shares[inside]
    confidence = known[:, 1:].max(axis=1)
    right = np.array(router.tree.domains)[known[:, 1:].argmax(axis=1)] == labels[inside]
    expert = float(np.quantile(confidence, settings.false_rejection))
    return replace(router.rules, expert=expert, branch=(1 + expert) / 2), risk_coverage(confidence, right)
