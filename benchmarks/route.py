"""Figures of the router on a folder of records: held-out rows, sources never seen, out of domain, perturbations, speed.

python -m benchmarks route --data PATH [--json FILE]. Peers in the same run: plain TF-IDF with logistic regression fitted on the
records alone, nearest neighbours on the router's features, keywords, majority, flat. Fits its own routers and serves nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import settings
from benchmarks.measuring import Figure
from benchmarks.route_rows import MANY, curriculum_rows, everyday_test_rows, nowhere_rows, record_rows
from experts.tree import OUT_OF_DOMAIN, Tree
from routing.baselines import KEYWORDS_NAME, keyword_accuracy, majority_accuracy, neighbours
from routing.evaluate import evaluate
from routing.fit import fit
from routing.perturb import PERTURBATIONS
from routing.router import Router
from routing.rows import Row, near_duplicate_groups, split_groups

PLAIN = "TF-IDF + logistic regression on the records alone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    settings.add_arguments(parser)
    parser.add_argument("--sources-rows", type=int, default=1500, metavar="N", help="most rows a source in the leave-sources-out part (default 1500)")
    parser.add_argument("--sources", nargs="*", metavar="NAME", help="hold out these sources only; without a name: skip that part")


def measure(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Figure]:
    """All figures."""
    chosen = settings.from_arguments(parser, arguments)
    if chosen.data.path is None:
        parser.error("--data PATH is needed: a folder with one sub-folder of records a domain")
    tree = Tree.from_settings(chosen.tree)
    rows = record_rows(Path(chosen.data.path), tree=tree)
    figures = held_out_lines(rows, tree=tree, chosen=chosen)
    if arguments.sources is None or arguments.sources:
        figures += sources_lines(rows, tree=tree, chosen=chosen, most=arguments.sources_rows, only=arguments.sources)
    return figures


def line(name: str, unit: str, ours: float, *, peer: float | None = None, peer_name: str | None = None, spread: float | None = None) -> Figure:
    """One figure; the ratio where there is a peer."""
    return Figure(name, unit, ours, peer, peer_name, ours / peer if peer else None, spread)


def held_out_lines(rows: Sequence[Row], *, tree: Tree, chosen: settings.Settings) -> list[Figure]:
    """A router fitted on nine tenths of the records (whole near-duplicate groups), judged on the rest and on rows of the project's own."""
    held = split_groups(near_duplicate_groups([row.prompt for row in rows]), share=0.1, seed=chosen.run.seed)
    kept = [row for row, out in zip(rows, held.tolist(), strict=True) if not out]
    test = [row for row, out in zip(rows, held.tolist(), strict=True) if out]
    fitted = fit([*kept, *curriculum_rows(tree, seed=chosen.run.seed + 1)], tree=tree, settings=chosen.router, seed=chosen.run.seed)
    router = fitted.router
    plain = _plain(kept)
    judged = evaluate(router, [*test, *nowhere_rows()])
    lines_by_domain = [line(f"accuracy, random held-out records of {domain}", "share", share) for domain, share in judged.per_domain.items()]
    near = neighbours(router, kept, seed=chosen.run.seed)
    lines = [
        line("accuracy, random held-out records", "share", judged.accuracy, peer=_plain_accuracy(plain, test), peer_name=PLAIN),
        line("accuracy, the same, against the flat classifier", "share", judged.accuracy, peer=judged.flat_accuracy, peer_name="flat"),
        line("accuracy, the same, against nearest neighbours", "share", judged.accuracy, peer=near.accuracy(test[:2000]), peer_name="5 nearest neighbours"),
        line("accuracy, the same, against keywords", "share", judged.accuracy, peer=keyword_accuracy(test), peer_name=KEYWORDS_NAME),
        line("accuracy, the same, against the majority", "share", judged.accuracy, peer=majority_accuracy(kept, test), peer_name="majority"),
        line("branch accuracy, random held-out records", "share", judged.branch_accuracy),
        line("expected calibration error, held-out", "share", judged.ece),
        line("out-of-domain AUROC", "share", judged.ood_auroc or 0.0, peer=_plain_auroc(plain, test), peer_name=PLAIN),
        line("out-of-domain recall at 5 % false rejection", "share", judged.ood_recall or 0.0),
        line("coverage, held-out", "share", judged.coverage), line("selective accuracy, held-out", "share", judged.selective_accuracy or 0.0),
    ]
    short = everyday_test_rows(tree)
    short_judged = evaluate(router, short, timed=1)
    lines.append(line("accuracy, short everyday prompts", "share", short_judged.accuracy, peer=_plain_accuracy(plain, short), peer_name=PLAIN))
    lessons = evaluate(router, curriculum_rows(tree, seed=chosen.run.seed + 2, count=300), timed=1)
    lines.append(line("accuracy, new curriculum prompts", "share", lessons.accuracy))
    return [*lines, *lines_by_domain, *_stability(router, test[:1500], seed=chosen.run.seed),
            *_speed(router, test, seconds=fitted.report["fit_s"], fitted_rows=fitted.report["rows"])]


def sources_lines(rows: Sequence[Row], *, tree: Tree, chosen: settings.Settings, most: int, only: Sequence[str] | None) -> list[Figure]:
    """Each source held out in turn: ours fitted on the other sources and the curriculum, the plain one on the other sources."""
    lessons = curriculum_rows(tree, seed=chosen.run.seed + 1)
    sources = [name for name in dict.fromkeys(row.source for row in rows) if only is None or name in only]
    capped = _capped(rows, most=most, seed=chosen.run.seed)
    smaller = chosen.router.model_copy(update={"perturbed_share": 0.1})
    lines, judged = [], []
    for source in sources:
        test = [row for row in capped if row.source == source]
        kept = [row for row in capped if row.source != source]
        result = evaluate(fit([*kept, *lessons], tree=tree, settings=smaller, seed=chosen.run.seed).router, test, timed=1)
        judged.append((result.accuracy, _plain_accuracy(_plain(kept), test), result.coverage, result.selective_accuracy or 0.0, test[0].label))
        lines.append(line(f"accuracy, source {source} ({test[0].label}) held out", "share", result.accuracy, peer=judged[-1][1], peer_name=PLAIN))
    table = np.array([entry[:4] for entry in judged])
    covered = table[:, 2]
    lines.append(line("mean accuracy, sources held out", "share", float(table[:, 0].mean()), peer=float(table[:, 1].mean()), peer_name=PLAIN,
                      spread=float(table[:, 0].std())))
    labels = np.array([entry[4] for entry in judged])
    for domain in dict.fromkeys(labels.tolist()):
        here = table[labels == domain]
        lines.append(line(f"mean accuracy, sources of {domain} held out", "share", float(here[:, 0].mean()), peer=float(here[:, 1].mean()), peer_name=PLAIN))
    lines.append(line("coverage, sources held out", "share", float(covered.mean())))
    lines.append(line("selective accuracy, sources held out", "share", float((table[:, 3] * covered).sum() / covered.sum()) if covered.sum() else 0.0))
    return lines


def _capped(rows: Sequence[Row], *, most: int, seed: int) -> list[Row]:
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    rng = Random(seed)
    return [row for found in by_source.values() for row in (rng.sample(found, most) if len(found) > most else found)]


def _plain(rows: Sequence[Row]) -> Callable[[Sequence[Row]], tuple[Any, Any]]:
    """scikit-learn's defaults on whole prompts: labels and the largest probability of rows."""
    vectorizer = TfidfVectorizer()
    model = LogisticRegression(max_iter=300)
    model.fit(vectorizer.fit_transform([row.prompt for row in rows]), [row.label for row in rows])

    def judge(asked: Sequence[Row]) -> tuple[Any, Any]:
        shares = model.predict_proba(vectorizer.transform([row.prompt for row in asked]))
        return model.classes_[shares.argmax(axis=1)], shares.max(axis=1)

    return judge


def _plain_accuracy(plain: Callable[[Sequence[Row]], tuple[Any, Any]], rows: Sequence[Row]) -> float:
    return float((plain(rows)[0] == np.array([row.label for row in rows])).mean())


def _plain_auroc(plain: Callable[[Sequence[Row]], tuple[Any, Any]], rows: Sequence[Row]) -> float:
    both = [*rows, *nowhere_rows()]
    return float(roc_auc_score([row.label == OUT_OF_DOMAIN for row in both], 1 - plain(both)[1]))


def _stability(router: Router, rows: Sequence[Row], *, seed: int) -> list[Figure]:
    """Share of decisions (the answering node) that a perturbation leaves as they were."""
    single = [replace(row, prompt=row.prompt) for row in rows if "\nAssistant: " not in row.prompt]
    before = [route.node for route in router.route_batch([row.prompt for row in single])]
    lines, unchanged = [], []
    for name, change in PERTURBATIONS.items():
        rng = Random(f"{name}/{seed}")
        after = [route.node for route in router.route_batch([change(row.prompt, rng) for row in single])]
        unchanged.append(float(np.mean([one == other for one, other in zip(before, after, strict=True)])))
        lines.append(line(f"decisions unchanged after: {name}", "share", unchanged[-1]))
    return [*lines, line("decisions unchanged, mean of perturbations", "share", float(np.mean(unchanged)))]


def _speed(router: Router, rows: Sequence[Row], *, seconds: float, fitted_rows: int) -> list[Figure]:
    prompts = [row.prompt for row in rows]
    judged = evaluate(router, rows, timed=2000).latency_ms
    started = time.perf_counter()
    router.route_batch(prompts * MANY)
    rate = len(prompts) * MANY / (time.perf_counter() - started)
    with tempfile.TemporaryDirectory() as folder:
        router.save(Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
        started = time.perf_counter()
        Router.load(Path(folder), router.tree)
        load_ms = (time.perf_counter() - started) * 1000
    return [line("latency of one decision, p50", "ms", judged["p50"]), line("latency of one decision, p99", "ms", judged["p99"]),
            line("batch", "prompts/s", rate), line(f"fit on {fitted_rows} rows", "s", seconds),
            line("files", "MB", size), line("load", "ms", load_ms)]
