"""The plain peer of the router: scikit-learn's TF-IDF and logistic regression with their defaults, fitted on records alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchmarks.measuring import Figure
from experts.tree import OUT_OF_DOMAIN
from routing.rows import Row

PLAIN = "TF-IDF + logistic regression on the records alone"


class Plain:
    """Whole prompts in, the label and the largest probability out."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Fits on rows."""
        self._vectorizer, self._model = TfidfVectorizer(), LogisticRegression(max_iter=300)
        self._model.fit(self._vectorizer.fit_transform([row.prompt for row in rows]), [row.label for row in rows])

    def judge(self, rows: Sequence[Row]) -> tuple[Any, Any]:
        """Labels and the largest probabilities."""
        shares = self._model.predict_proba(self._vectorizer.transform([row.prompt for row in rows]))
        return self._model.classes_[shares.argmax(axis=1)], shares.max(axis=1)

    def accuracy(self, rows: Sequence[Row]) -> float:
        """Share right."""
        return float((self.judge(rows)[0] == np.array([row.label for row in rows])).mean())

    def auroc(self, rows: Sequence[Row]) -> float:
        """Area under the curve for telling "ood" rows by the largest probability."""
        return float(roc_auc_score([row.label == OUT_OF_DOMAIN for row in rows], 1 - self.judge(rows)[1]))


def line(name: str, unit: str, ours: float, *, peer: float | None = None, peer_name: str | None = None, spread: float | None = None) -> Figure:
    """One figure; the ratio where there is a peer."""
    return Figure(name, unit, ours, peer, peer_name, ours / peer if peer else None, spread)
