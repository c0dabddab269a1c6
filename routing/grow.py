"""A fitted router for a tree that has more domains: what the new ones don't touch stays as it is, number for number.

Vocabulary, gate, thresholds, the root while the branches stay, and every branch whose children stay are taken over; only the parents of new nodes and the flat
classifier are fitted. Faster than a whole fit, and no other route changes; a whole fit knows the new domain's words as well.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experts.tree import OUT_OF_DOMAIN, Tree
from routing.calibrate import best_temperature
from routing.classifier import Classifier
from routing.features import Floats
from routing.fit import Fitted, How, Prepared, prepare_rows, report_of, tree_classifier, without_novelty
from routing.router import Router
from routing.rows import Row
from settings import RouterSettings


def grows(served: Tree, tree: Tree) -> bool:
    """Whether tree is served with more domains or branches and nothing moved or gone."""
    kept = all(set(served.nodes[branch].children) <= set(tree.nodes[branch].children) for branch in served.branches if branch in tree.branches)
    return served.root == tree.root and kept and set(served.branches) <= set(tree.branches) and set(served.domains) < set(tree.domains)


def grow(served: Router, rows: Sequence[Row], *, tree: Tree, settings: RouterSettings, seed: int) -> Fitted:
    """Fit the parents of new nodes and the flat classifier on rows. Raises ValueError where tree isn't the served one with more in it."""
    if not grows(served.tree, tree):
        raise ValueError(f"a router for {list(served.tree.domains)} doesn't grow into one for {list(tree.domains)}: only new domains and branches "
                         "can be added; fit a whole router")
    started = time.perf_counter()
    prepared = prepare_rows(rows, tree=tree, settings=settings, seed=seed)
    inside = np.flatnonzero(prepared.labels != OUT_OF_DOMAIN)
    known = prepared.take(inside)
    matrix = without_novelty(served.features.many(known.texts), served.features)
    how = How(settings.inverse_regularisation, seed)
    kept = {served.branch_of(label) for label in served.root.labels} == set(tree.branches)
    root = served.root if kept else _fitted(known, matrix, known.labels, labels=tree.domains, how=how)
    children = {branch: served.children[branch] if branch in served.children and served.children[branch].labels == tree.nodes[branch].children
                else _fitted(known, matrix, known.labels, labels=tree.nodes[branch].children, how=how)
                for branch in tree.branches if len(tree.nodes[branch].children) > 1}
    flat = _fitted(known, matrix, known.labels, labels=tree.domains, how=how)
    report = {**report_of(prepared, seed=seed, started=started), "features": served.features.width, "grown_from": list(served.tree.domains),
              "risk_coverage": served.facts.get("risk_coverage", [])}
    return Fitted(replace(served, tree=tree, root=root, children=children, flat=flat, facts=report), report)


def _fitted(known: Prepared, matrix: Any, found: NDArray[np.str_], *, labels: Sequence[str], how: How) -> Classifier:
    """A classifier of the rows with these labels, its temperature from those held back."""
    here = np.isin(found, labels)
    fitted, held = np.flatnonzero(here & ~known.held), np.flatnonzero(here & known.held)
    weights: Floats = known.weights[fitted]
    classifier = tree_classifier(matrix[fitted], found[fitted], weights, labels=labels, how=how)
    return replace(classifier, temperature=best_temperature(classifier, matrix[held], found[held]))
