"""Figures of the router on a folder of records: held-out rows, sources never seen, out of domain, perturbations, speed.

python -m benchmarks route --data PATH [--json FILE]. Peers in the same run: plain TF-IDF with logistic regression fitted on the
records alone, Aurelio's semantic-router, nearest neighbours on the router's features, keywords, majority, flat. Fits its own
routers and serves nothing.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

import settings
from benchmarks.measuring import Figure
from benchmarks.route_peers import aurelio_lines, simple_lines
from benchmarks.route_plain import PLAIN, Plain, line
from benchmarks.route_rows import BLIND, MANY, curriculum_rows, everyday_test_rows, nowhere_rows, record_rows
from benchmarks.route_sources import sources_lines
from experts.tree import Tree
from routing.baselines import KEYWORDS_NAME, keyword_accuracy, majority_accuracy
from routing.evaluate import evaluate
from routing.fit import fit
from routing.perturb import PERTURBATIONS
from routing.router import Router
from routing.rows import Row, near_duplicate_groups, split_groups

log = logging.getLogger(__name__)
PARTS = ("held-out", "sources")
STABILITY_ROWS = 1500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    settings.add_arguments(parser)
    parser.add_argument("--sources-rows", type=int, default=1500, metavar="N", help="most rows a source in the leave-sources-out part (default 1500)")
    parser.add_argument("--sources", nargs="*", metavar="NAME", help="hold out these sources only; without a name, or left out: each in turn")
    parser.add_argument("--only", choices=PARTS, help="one of the two parts alone")
    parser.add_argument("--encoder", type=Path, metavar="FOLDER", help="a model folder as one more encoder for semantic-router")


def measure(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Figure]:
    """All figures."""
    chosen = settings.from_arguments(parser, arguments)
    if chosen.data.path is None:
        parser.error("--data PATH is needed: a folder with one sub-folder of records a domain")
    tree = Tree.from_settings(chosen.tree)
    rows = record_rows(Path(chosen.data.path), tree=tree)
    figures = held_out_lines(rows, tree=tree, chosen=chosen, encoder=arguments.encoder) if arguments.only != "sources" else []
    for figure in figures:  # said at once: the second part takes minutes
        log.info("%s: %.4f%s", figure.name, figure.ours, f" ({figure.peer_name} {figure.peer:.4f})" if figure.peer is not None else "")
    if arguments.only != "held-out":
        figures += sources_lines(rows, lessons=curriculum_rows(tree, seed=chosen.run.seed + 1), tree=tree, settings=chosen.router, seed=chosen.run.seed,
                                 most=arguments.sources_rows, only=arguments.sources or None)
    return figures


def held_out_lines(rows: Sequence[Row], *, tree: Tree, chosen: settings.Settings, encoder: Path | None) -> list[Figure]:
    """A router fitted on nine tenths of the records (whole near-duplicate groups), judged on the rest and on rows of the project's own."""
    held = split_groups(near_duplicate_groups([row.prompt for row in rows]), share=0.1, seed=chosen.run.seed)
    kept = [row for row, out in zip(rows, held.tolist(), strict=True) if not out]
    test = [row for row, out in zip(rows, held.tolist(), strict=True) if out]
    fitted = fit([*kept, *curriculum_rows(tree, seed=chosen.run.seed + 1)], tree=tree, settings=chosen.router, seed=chosen.run.seed)
    router = fitted.router
    plain, nowhere = Plain(kept), nowhere_rows()
    judged = evaluate(router, [*test, *nowhere])
    lines_by_domain = [line(f"accuracy, random held-out records of {domain}", "share", share) for domain, share in judged.per_domain.items()]
    lines = [
        line("accuracy, random held-out records", "share", judged.accuracy, peer=plain.accuracy(test), peer_name=PLAIN),
        line("accuracy, the same, against the flat classifier", "share", judged.accuracy, peer=judged.flat_accuracy, peer_name="flat"),
        line("accuracy, the same, against keywords", "share", judged.accuracy, peer=keyword_accuracy(test), peer_name=KEYWORDS_NAME),
        line("accuracy, the same, against the majority", "share", judged.accuracy, peer=majority_accuracy(kept, test), peer_name="majority"),
        line("branch accuracy, random held-out records", "share", judged.branch_accuracy),
        line("expected calibration error, held-out", "share", judged.ece),
        line("out-of-domain AUROC", "share", judged.ood_auroc or 0.0, peer=plain.auroc([*test, *nowhere]), peer_name=PLAIN),
        line("out-of-domain recall at 5 % false rejection", "share", judged.ood_recall or 0.0),
        line("coverage, held-out", "share", judged.coverage), line("selective accuracy, held-out", "share", judged.selective_accuracy or 0.0),
    ]
    for name, short in (("short everyday prompts", everyday_test_rows(tree)), ("short everyday prompts, the blind set", everyday_test_rows(tree, file=BLIND))):
        lines.append(line(f"accuracy, {name}", "share", evaluate(router, short, timed=1).accuracy, peer=plain.accuracy(short), peer_name=PLAIN))
    lessons = evaluate(router, curriculum_rows(tree, seed=chosen.run.seed + 2, count=300), timed=1)
    lines.append(line("accuracy, new curriculum prompts", "share", lessons.accuracy))
    mixed = Random(chosen.run.seed).sample(test, len(test))  # records stand by domain; what takes some of them shall take some of each
    fifth = mixed[:len(mixed) // 5]
    beside = [*simple_lines(router, kept, fifth, nowhere, seed=chosen.run.seed),
              *aurelio_lines(router, kept, fifth, nowhere, encoder=encoder, seed=chosen.run.seed)]
    return [*lines, *lines_by_domain, *beside, *_stability(router, mixed[:STABILITY_ROWS], seed=chosen.run.seed),
            *_speed(router, mixed, seconds=fitted.report["fit_s"], fitted_rows=fitted.report["rows"])]


def _stability(router: Router, rows: Sequence[Row], *, seed: int) -> list[Figure]:
    """Share of decisions (the answering node) that a perturbation leaves as they were."""
    single = [row for row in rows if "\nAssistant: " not in row.prompt]
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
