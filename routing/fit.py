"""Fits a router: vocabulary, one linear classifier a parent node, temperatures and thresholds on rows it wasn't fitted on.

Rows come from the caller; everyday phrases, "none of these" rows and perturbed copies are added here. Writes nothing.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import diags_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from experts.tree import OUT_OF_DOMAIN, Tree
from routing.calibrate import best_rules, best_temperature
from routing.classifier import Classifier
from routing.everyday import everyday_rows
from routing.features import Counts, Features, Floats, Ints, fit_features
from routing.nowhere import none_rows
from routing.parts import INSIDE, Rules
from routing.perturb import perturbed
from routing.router import Router
from routing.rows import FEEDBACK, Row, near_duplicate_groups, split_groups
from routing.spelling import fit_spelling
from routing.text import Reading, read, shorten, user_turns
from settings import RouterSettings

TOLERANCE = 0.01  # of LIBLINEAR's stop; its own 1e-4 takes a quarter more time and moved no decision of 4,000 (probabilities by at most 0.0004)
LARGEST_HELD = 20  # rows of a group that may be held back whole; a template with more prompts would be missing from the fit
CERTAIN = 20.0  # score of the only label that rows have: as good as never the other


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted router and what was seen on the way: rows by label and source, seconds, calibration."""

    router: Router
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class How:
    """strength: C of the classifiers; seed: of the order in which their solver visits the rows."""

    strength: float
    seed: int


@dataclass(frozen=True, eq=False)
class Prepared:
    """Rows ready to fit: texts, labels, sources, how much each counts by itself (emphasis) and in the fit (weights), and the mask
    of rows kept for calibration. The first `given` are the caller's, the others were added here; the first `unperturbed`
    are as they were written, the others are copies with a typo or the like."""

    texts: list[str]
    labels: NDArray[np.str_]
    sources: list[str]
    emphasis: Floats
    held: NDArray[np.bool_]
    given: int
    unperturbed: int

    @cached_property
    def weights(self) -> Floats:
        """Each label counts the same in all; within a label a source counts as the square root of its rows, a correction as a mean row."""
        return _weights(self.labels, self.sources, self.emphasis)

    def take(self, rows: Ints) -> Prepared:
        """The same for some of the rows."""
        return Prepared([self.texts[row] for row in rows], self.labels[rows], [self.sources[row] for row in rows], self.emphasis[rows], self.held[rows],
                        int((rows < self.given).sum()), int((rows < self.unperturbed).sum()))

    def origins(self) -> list[str | None]:
        """The source of each text, None for one of no domain."""
        return [None if label == OUT_OF_DOMAIN else source for label, source in zip(self.labels.tolist(), self.sources, strict=True)]


def fit(rows: Sequence[Row], *, tree: Tree, settings: RouterSettings, seed: int) -> Fitted:
    """Fit a router on labelled prompts. Raises ValueError for an unknown label or a domain without rows."""
    started = time.perf_counter()
    prepared = prepare_rows(rows, tree=tree, settings=settings, seed=seed)
    return fit_prepared(prepared, [read(text) for text in prepared.texts], tree=tree, settings=settings, seed=seed, started=started)


def fit_prepared(prepared: Prepared, readings: Sequence[Reading], *, tree: Tree, settings: RouterSettings, seed: int,
                 started: float | None = None) -> Fitted:
    """Fit on prepared rows and their texts as read() gives them. started: when the work on them began, by time.perf_counter."""
    started = time.perf_counter() if started is None else started
    own = prepared.unperturbed
    spelling = fit_spelling(readings[:own], sources=prepared.origins()[:own], most=settings.common_words, min_rows=settings.min_rows)
    counts = Counts.of(prepared.texts, [spelling.respelled(reading) for reading in readings])
    features = fit_features(counts, sources=prepared.origins(), word_limit=settings.words, gram_limit=settings.letter_groups,
                            form_limit=settings.forms, min_rows=settings.min_rows, spelling=spelling)
    matrix = features.of_counts(counts)
    router = _fit_classifiers(prepared, matrix, features=features, tree=tree, settings=settings, seed=seed)
    router, calibration = _calibrated(router, prepared, matrix, settings=settings)
    report = {**report_of(prepared, seed=seed, started=started), "features": features.width, **calibration}
    return Fitted(replace(router, facts=report), report)


def report_of(prepared: Prepared, *, seed: int, started: float) -> dict[str, Any]:
    """What was fitted on, and how long it took."""
    return {"rows": prepared.given, "fitted_texts": int((~prepared.held).sum()), "calibration_texts": int(prepared.held.sum()),
            "by_label": dict(Counter(prepared.labels.tolist())), "by_source": dict(Counter(prepared.sources)), "seed": seed,
            "fit_s": round(time.perf_counter() - started, 2)}


def prepare_rows(rows: Sequence[Row], *, tree: Tree, settings: RouterSettings, seed: int) -> Prepared:
    """Check rows, add the project's own, hold whole near-duplicate groups back for calibration, add perturbed copies of the rest."""
    _check(rows, tree=tree)
    own = [*(replace(row, weight=settings.everyday_weight) for row in everyday_rows(tree.domains, count=settings.everyday_rows, seed=seed)),
           *none_rows(settings.none_rows, seed=seed)]
    everything, given = [*rows, *own], len(rows)
    texts = [shorten(user_turns(row.prompt)[0], limit=settings.max_prompt_chars) for row in everything]
    groups = near_duplicate_groups(texts)
    held = split_groups(groups, share=settings.calibration_share, seed=seed)
    held &= np.bincount(groups, minlength=1)[groups] <= LARGEST_HELD
    held &= np.array([row.source != FEEDBACK and (number < given or row.label == OUT_OF_DOMAIN) for number, row in enumerate(everything)])
    rng = Random(f"perturbed/{seed}")
    chosen = [number for number in range(len(texts)) if not held[number] and rng.random() < settings.perturbed_share]
    texts += [perturbed(texts[number], rng) for number in chosen]
    everything += [everything[number] for number in chosen]
    sources = [row.source for row in everything]
    labels = np.array([row.label for row in everything])
    emphasis = np.array([row.weight for row in everything])
    return Prepared(texts, labels, sources, emphasis, np.concatenate((held, np.zeros(len(chosen), dtype=bool))), given, len(held))


def _check(rows: Sequence[Row], *, tree: Tree) -> None:
    known = {*tree.domains, OUT_OF_DOMAIN}
    strange = sorted({row.label for row in rows} - known)
    if strange:
        raise ValueError(f"rows are labelled {strange}; a label is one of {sorted(known)}; name the domain under [tree.branches] or relabel the rows")
    missing = sorted(set(tree.domains) - {row.label for row in rows})
    if missing:
        raise ValueError(f"no rows for {missing}; every domain needs prompts to be told from the others: add records or the curriculum for it")


def _weights(labels: NDArray[np.str_], sources: Sequence[str], emphasis: Floats) -> Floats:
    by_source = Counter(zip(labels.tolist(), sources, strict=True))
    weights: Floats = emphasis / np.sqrt([by_source[pair] for pair in zip(labels.tolist(), sources, strict=True)])
    corrected = np.array(sources) == FEEDBACK
    names = set(labels.tolist())
    for label in names:
        here = labels == label
        if corrected.any() and (here & ~corrected).any():  # as a source of its own a single correction would outweigh a hundred records
            weights[here & corrected] = emphasis[here & corrected] * weights[here & ~corrected].mean()
        weights[here] *= len(labels) / len(names) / weights[here].sum()
    return weights


def _fit_classifiers(prepared: Prepared, matrix: Any, *, features: Features, tree: Tree, settings: RouterSettings, seed: int) -> Router:
    """The mean of one fit on everything and of fits that each leave some sources out; flat, for comparison, is the root of the one on everything.

    A term that only one source has gets no weight in the fits without it, so that what several sources share decides (bagging, Breiman
    1996, over sources in place of rows). The mean of linear scores is a linear score: deciding costs what it does with one fit.
    """
    how = How(settings.inverse_regularisation, seed)
    folds = source_folds(prepared, count=settings.source_folds)
    parts = [np.flatnonzero(folds != left_out) for left_out in range(settings.source_folds) if (folds == left_out).any()]
    fits = [_one_fit(prepared.take(rows), matrix[rows], features=features, tree=tree, how=how) for rows in (np.arange(len(folds)), *parts)]
    share = settings.folds_share / max(1, settings.source_folds)  # one that leaves nothing out would be the fit on everything once more
    shares = np.array([1 - share * len(parts), *[share] * len(parts)])
    gate, root, *below = (_mean(classifiers, shares) for classifiers in zip(*fits, strict=True))
    rules = Rules(history_decay=settings.history_decay, history_turns=settings.history_turns, max_prompt_chars=settings.max_prompt_chars)
    return Router(tree, features, gate, root, dict(zip(_parted(tree), below, strict=True)), fits[0][1], rules)


def source_folds(prepared: Prepared, *, count: int) -> Ints:
    """Which of count fits leaves a row out, -1 for none. A label's sources take turns, the largest first; rows that were added here,
    users' corrections and labels of a single source stay in every fit."""
    added = {FEEDBACK, *prepared.sources[prepared.given:prepared.unperturbed]}
    sizes = Counter((label, source) for label, source in zip(prepared.labels.tolist(), prepared.sources, strict=True) if source not in added)
    turns: dict[tuple[str, str], int] = {}
    started = 0
    for label in dict.fromkeys(label for label, _ in sizes):
        found = sorted((pair for pair in sizes if pair[0] == label), key=lambda pair: (-sizes[pair], pair))
        if len(found) > 1 and count:
            turns |= {pair: (started + place) % count for place, pair in enumerate(found)}
            started += len(found)
    return np.array([turns.get(pair, -1) for pair in zip(prepared.labels.tolist(), prepared.sources, strict=True)], dtype=np.int64)


def _one_fit(prepared: Prepared, matrix: Any, *, features: Features, tree: Tree, how: How) -> list[Classifier]:
    """Gate, root and one classifier a branch with several experts. The gate reads everything; the others read in-domain rows, and of
    those not how strange they are. The root is fitted on domains: a branch is what any of its domains is, for which one plane is too few
    (held-out accuracy +0.2 to 0.5 points on three draws)."""
    fitted = np.flatnonzero(~prepared.held)
    outside = np.where(prepared.labels[fitted] == OUT_OF_DOMAIN, OUT_OF_DOMAIN, INSIDE)
    gate = tree_classifier(matrix[fitted], outside, prepared.weights[fitted], labels=(INSIDE, OUT_OF_DOMAIN), how=how)
    rows, part = _inside(prepared, matrix, features=features)
    labels, weights = prepared.labels[rows], prepared.weights[rows]
    root = tree_classifier(part, labels, weights, labels=tree.domains, how=how)
    return [gate, root, *(_child(part, labels, weights, tree.nodes[branch].children, how=how) for branch in _parted(tree))]


def _inside(prepared: Prepared, matrix: Any, *, features: Features) -> tuple[Ints, Any]:
    """The rows of a domain that are fitted on, and their features but for how strange they are."""
    rows = np.flatnonzero(~prepared.held & (prepared.labels != OUT_OF_DOMAIN))
    return rows, without_novelty(matrix[rows], features)


def _parted(tree: Tree) -> list[str]:
    """Branches with several experts."""
    return [branch for branch in tree.branches if len(tree.nodes[branch].children) > 1]


def _mean(parts: Sequence[Classifier], shares: Floats) -> Classifier:
    """The classifier whose scores are the weighted means of theirs."""
    return replace(parts[0], weights=sum(share * part.weights for share, part in zip(shares, parts, strict=True)),
                   bias=sum(share * part.bias for share, part in zip(shares, parts, strict=True)))


def without_novelty(matrix: Any, features: Features) -> Any:
    """The matrix with zeros where it says how strange a text is; coefficients of such columns stay zero."""
    mask = np.ones(features.width)
    mask[features.first_novelty:] = 0
    return (matrix @ diags_array(mask)).tocsr()


def _child(matrix: Any, labels: NDArray[np.str_], weights: Floats, children: Sequence[str], *, how: How) -> Classifier:
    here = np.flatnonzero(np.isin(labels, children))
    return tree_classifier(matrix[here], labels[here], weights[here], labels=children, how=how)


def tree_classifier(matrix: Any, found: NDArray[np.str_], weights: Floats, *, labels: Sequence[str], how: How) -> Classifier:
    """A fitted classifier with its labels in this order; a sole label is certain, and nothing is fitted for it."""
    if len(labels) == 1 or len(set(found.tolist())) == 1:
        certain = np.zeros(1 if len(labels) <= 2 else len(labels))
        if len(labels) > 1:
            certain = certain - CERTAIN
        return Classifier(tuple(labels), np.zeros((len(certain), matrix.shape[1])), certain)
    return _ordered(linear(matrix, found, weights, how=how), labels)


def linear(matrix: Any, labels: NDArray[np.str_], weights: Floats, *, how: How) -> LinearSVC:
    """scikit-learn's linear classifier with squared hinge loss and L2 penalty, one label against the others (Fan et al. 2008, LIBLINEAR).

    Beside logistic regression on the same rows it was half a point better on held-out records and many times faster.
    """
    model = LinearSVC(C=how.strength, dual=True, random_state=how.seed, tol=TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(matrix, labels, sample_weight=weights)
    return model


def _ordered(model: LinearSVC, labels: Sequence[str]) -> Classifier:
    """The model with its labels in the tree's order."""
    found = [str(label) for label in model.classes_]
    if len(found) == 2:
        sign = 1.0 if found == list(labels) else -1.0
        return Classifier(tuple(labels), sign * model.coef_, sign * model.intercept_)
    order = [found.index(label) for label in labels]
    return Classifier(tuple(labels), np.ascontiguousarray(model.coef_[order]), model.intercept_[order])


def _calibrated(router: Router, prepared: Prepared, matrix: Any, *, settings: RouterSettings) -> tuple[Router, dict[str, Any]]:
    """Temperatures and thresholds from the rows that were held back."""
    held = np.flatnonzero(prepared.held)
    labels = prepared.labels[held]
    if not len(held):
        return router, {"calibration": "no rows held back; probabilities are as fitted"}
    part = matrix[held]
    inside = np.flatnonzero(labels != OUT_OF_DOMAIN)
    known, domains = part[inside], labels[inside]
    gated = np.where(labels == OUT_OF_DOMAIN, OUT_OF_DOMAIN, INSIDE)
    gate = replace(router.gate, temperature=best_temperature(router.gate, part, gated))
    root = replace(router.root, temperature=best_temperature(router.root, known, domains))
    children = {}
    for branch, child in router.children.items():
        here = np.flatnonzero(np.isin(domains, child.labels))
        children[branch] = replace(child, temperature=best_temperature(child, known[here], domains[here]))
    flat = replace(router.flat, temperature=best_temperature(router.flat, known, domains))
    router = replace(router, gate=gate, root=root, children=children, flat=flat)
    rules, curve = best_rules(router, router.shares_of(part), labels, settings=settings)
    fitted = {"gate": gate, "root": root, **children, "flat": flat}
    temperatures = {name: classifier.temperature for name, classifier in fitted.items()}
    return replace(router, rules=rules), {"temperatures": temperatures, "risk_coverage": curve}
