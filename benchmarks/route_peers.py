"""Other ways beside ours on the same rows: accuracy, out-of-domain AUROC, latency of one decision.

Flat and nearest neighbours on the router's own features, and Aurelio's semantic-router, whose encoders are local here: latent
semantic analysis of scikit-learn's TF-IDF, its own sparse TF-IDF beside that, and any folder that transformers can read. It needs
the extra peers; without it there are no lines.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from benchmarks.measuring import Figure
from benchmarks.route_plain import line
from experts.tree import OUT_OF_DOMAIN
from routing.baselines import NEIGHBOURS_NAME, neighbours, newest_turn
from routing.evaluate import Evaluation, evaluate
from routing.router import Router
from routing.rows import Row

log = logging.getLogger(__name__)
_UTTERANCES = 300  # a domain; its documentation has a handful, more is kinder to it
_SIZE = 256
_TIMED = 100


def aurelio_lines(router: Router, fitted: Sequence[Row], test: Sequence[Row], nowhere: Sequence[Row], *, encoder: Path | None, seed: int) -> list[Figure]:
    """Three figures for each encoder, on the same rows for both sides; none where semantic-router isn't installed."""
    try:
        from semantic_router import IndexedRouter, Route
        from semantic_router.encoders import DenseEncoder, HuggingFaceEncoder, TfidfEncoder
    except ImportError as error:
        log.warning("no semantic-router beside ours: %s; pip install \"branchwise[peers]\"", error)
        return []
    rows = Random(seed).sample(list(fitted), len(fitted))
    by_domain = {domain: [row.prompt for row in rows if row.label == domain][:_UTTERANCES] for domain in router.tree.domains}
    routes = [Route(name=domain, utterances=prompts) for domain, prompts in by_domain.items()]
    meaning = make_pipeline(TfidfVectorizer(sublinear_tf=True), TruncatedSVD(_SIZE, random_state=seed), Normalizer(copy=False))
    meaning.fit([row.prompt for row in rows])

    class Local(DenseEncoder):  # type: ignore[misc]
        def __call__(self, docs: list[str]) -> list[list[float]]:
            found: list[list[float]] = meaning.transform(docs).tolist()
            return found

    ways: dict[str, Callable[[], Any]] = {
        "semantic-router, latent semantic analysis": lambda: IndexedRouter(Local(name="lsa"), routes),
        "semantic-router, the same and its sparse TF-IDF": lambda: IndexedRouter(Local(name="lsa"), routes, sparse_encoder=TfidfEncoder())}
    if encoder is not None:
        ways[f"semantic-router, {encoder.parent.name}/{encoder.name} averaged"] = lambda: IndexedRouter(_averaged(HuggingFaceEncoder, encoder), routes)
    return [figure for name, way in ways.items() for figure in _beside(router, way(), test, nowhere, name=name)]


def simple_lines(router: Router, fitted: Sequence[Row], test: Sequence[Row], nowhere: Sequence[Row], *, seed: int) -> list[Figure]:
    """The same three figures for the flat classifier and for nearest neighbours, on the router's features."""
    near = neighbours(router, fitted, seed=seed)

    def by_flat(prompts: Sequence[str]) -> Any:
        return router.flat.probabilities(router.features.many(prompts))

    def by_neighbours(prompts: Sequence[str]) -> Any:
        return near.model.predict_proba(router.features.many(prompts))

    def flat_one(prompts: Sequence[str]) -> Any:
        part = router.features.one(prompts[0])
        return router.flat.from_scores((part.values @ router.flat.weights[:, part.ids].T + router.flat.bias)[None, :])

    both = [*test, *nowhere]
    said = [newest_turn(router, row) for row in both]
    ours = evaluate(router, both, timed=_TIMED)
    lines = []
    for name, shares_of, one, labels in (("flat", by_flat, flat_one, router.flat.labels),
                                         (NEIGHBOURS_NAME, by_neighbours, by_neighbours, near.model.classes_)):
        shares = shares_of(said)
        right = np.array(labels)[shares.argmax(axis=1)][:len(test)] == np.array([row.label for row in test])
        spent = _milliseconds(one, [[prompt] for prompt in said[:_TIMED]])
        lines += _three(ours, name=name, accuracy=float(right.mean()), auroc=_auroc(both, shares.max(axis=1)), p50=spent)
    return lines


def _averaged(maker: Any, folder: Path) -> Any:
    encoder = maker(name=str(folder), tokenizer_kwargs={"model_max_length": 256})
    if encoder._tokenizer.pad_token is None:
        encoder._tokenizer.pad_token = encoder._tokenizer.eos_token
    return encoder


def _beside(router: Router, theirs: Any, test: Sequence[Row], nowhere: Sequence[Row], *, name: str) -> list[Figure]:
    both = [*test, *nowhere]
    found = [theirs(row.prompt, limit=None, threshold=-np.inf) for row in both]
    best = np.array([choices[0].confidence for choices in found])
    right = [choices[0].name == row.label for choices, row in zip(found, test, strict=False)]
    spent = _milliseconds(theirs, [row.prompt for row in both[:_TIMED]])
    return _three(evaluate(router, both, timed=_TIMED), name=name, accuracy=float(np.mean(right)), auroc=_auroc(both, best), p50=spent)


def _three(ours: Evaluation, *, name: str, accuracy: float, auroc: float, p50: float) -> list[Figure]:
    return [line("accuracy, random held-out records", "share", ours.accuracy, peer=accuracy, peer_name=name),
            line("out-of-domain AUROC", "share", ours.ood_auroc or 0.0, peer=auroc, peer_name=name),
            line("latency of one decision, p50", "ms", ours.latency_ms["p50"], peer=p50, peer_name=name)]


def _auroc(rows: Sequence[Row], confidence: Any) -> float:
    return float(roc_auc_score([row.label == OUT_OF_DOMAIN for row in rows], -confidence))


def _milliseconds(way: Callable[[Any], Any], asked: Sequence[Any]) -> float:
    """Median of one call each."""
    spent = []
    for prompt in asked:
        began = time.perf_counter()
        way(prompt)
        spent.append((time.perf_counter() - began) * 1000)
    return float(np.quantile(spent, 0.5))
