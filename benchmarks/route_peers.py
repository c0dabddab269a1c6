"""Aurelio's semantic-router beside ours on the same rows: accuracy, out-of-domain AUROC, latency of one decision.

Its encoders here are local: latent semantic analysis of scikit-learn's TF-IDF, its own sparse TF-IDF beside that, and any folder
that transformers can read. It needs the extra peers; without it there are no lines.
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
from routing.evaluate import evaluate
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
    spent = []
    for row in both[:_TIMED]:
        began = time.perf_counter()
        theirs(row.prompt)
        spent.append((time.perf_counter() - began) * 1000)
    ours = evaluate(router, both, timed=_TIMED)
    return [line("accuracy, random held-out records", "share", ours.accuracy, peer=float(np.mean(right)), peer_name=name),
            line("out-of-domain AUROC", "share", ours.ood_auroc or 0.0, peer=float(roc_auc_score([row.label == OUT_OF_DOMAIN for row in both], -best)),
                 peer_name=name),
            line("latency of one decision, p50", "ms", ours.latency_ms["p50"], peer=float(np.quantile(spent, 0.5)), peer_name=name)]
