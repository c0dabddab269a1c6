"""One fitted linear classifier as plain arrays: probabilities of labels from features, with a temperature.

Scores equal scikit-learn's decision_function with the same coefficients. Fitting is in fit.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from routing.features import Floats


@dataclass(frozen=True, eq=False)
class Classifier:
    """labels in column order; weights (rows, columns of features) and bias (rows,), one row for one or two labels, else one a label."""

    labels: tuple[str, ...]
    weights: Floats
    bias: Floats
    temperature: float = 1.0

    def scores(self, features: Any) -> Floats:
        """Decision scores of a feature matrix, as scikit-learn's decision_function gives them; always two-dimensional."""
        scores: Floats = np.asarray(features @ self.weights.T) + self.bias
        return scores

    def probabilities(self, features: Any) -> Floats:
        """Calibrated probability of each label, one row a text."""
        return self.from_scores(self.scores(features))

    def from_scores(self, scores: Floats) -> Floats:
        """Calibrated probabilities from decision scores (texts, rows)."""
        scaled = scores / self.temperature
        if len(self.labels) == 2:
            scaled = np.hstack((np.zeros_like(scaled), scaled))
        return softmax(scaled)

    def margin_weights(self, label: str, other: str) -> Floats:
        """Weights of the features in the score of label over other: their products with the features sum, with the bias, to it."""
        if len(self.labels) == 2:
            sign = 1.0 if self.labels.index(label) == 1 else -1.0
            return sign * np.asarray(self.weights[0], dtype=np.float64)
        difference: Floats = self.weights[self.labels.index(label)] - self.weights[self.labels.index(other)]
        return difference


def softmax(scores: Floats) -> Floats:
    """Softmax over the last axis."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: Floats = raised / raised.sum(axis=-1, keepdims=True)
    return shares
