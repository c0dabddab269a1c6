"""Leave-sources-out: every source of the records held out in turn, the router fitted on the others and the curriculum.

Rows are prepared and counted once; each turn takes what is left of them. The peer is fitted on the other sources' records alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import Figure
from benchmarks.route_plain import PLAIN, Plain, line
from experts.tree import Tree
from routing.fit import Prepared, fit_prepared, prepare_rows
from routing.rows import Row
from routing.text import Reading, read
from settings import RouterSettings

log = logging.getLogger(__name__)
_WORKERS = 2
_COVERAGES = (0.7, 0.75, 0.8, 0.85, 0.9)
_REJECTIONS = (0.04, 0.06, 0.08, 0.1, 0.12)


@dataclass(frozen=True, eq=False)
class Turn:
    """What came of one source held out; confidence and right: of the most probable expert, a row each; curve: the router's own
    risk-coverage curve, from which thresholds are read."""

    source: str
    domain: str
    ours: float
    plain: float
    coverage: float
    selective: float
    confidence: NDArray[np.float64]
    right: NDArray[np.bool_]
    curve: Sequence[Mapping[str, float]]


def sources_lines(rows: Sequence[Row], *, lessons: Sequence[Row], tree: Tree, settings: RouterSettings, seed: int, most: int,
                  only: Sequence[str] | None) -> list[Figure]:
    """The figures, at most so many rows a source. only: hold out these sources, None for all."""
    capped = capped_rows(rows, most=most, seed=seed)
    prepared = prepare_rows([*capped, *lessons], tree=tree, settings=settings, seed=seed)
    readings = [read(text) for text in prepared.texts]
    sources = [name for name in dict.fromkeys(row.source for row in rows) if only is None or name in only]

    def turn(source: str) -> Turn:
        test = [row for row in capped if row.source == source]
        others = [row for row in capped if row.source != source]
        found = _without(source, prepared, readings, test, tree=tree, settings=settings, seed=seed, plain=Plain(others).accuracy(test))
        log.info("%s (%s): accuracy %.3f, plain %.3f, coverage %.3f, selective %.3f", source, found.domain, found.ours, found.plain, found.coverage,
                 found.selective)
        return found

    with ThreadPoolExecutor(_WORKERS) as pool:  # the solver runs without Python's lock
        return _lines(list(pool.map(turn, sources)), most=most)


def _without(source: str, prepared: Prepared, readings: Sequence[Reading], test: Sequence[Row], *, tree: Tree, settings: RouterSettings, seed: int,
             plain: float) -> Turn:
    left = np.array([number for number, name in enumerate(prepared.sources) if name != source], dtype=np.int64)
    router = fit_prepared(prepared.take(left), [readings[row] for row in left.tolist()], tree=tree, settings=settings, seed=seed).router
    routes = router.route_batch([row.prompt for row in test])
    right = np.array([route.ranked[0].node == row.label for route, row in zip(routes, test, strict=True)])
    decided = np.array([route.expert is not None for route in routes])
    return Turn(source, test[0].label, float(right.mean()), plain, float(decided.mean()), float(right[decided].mean()) if decided.any() else 0.0,
                np.array([route.ranked[0].probability for route in routes]), right, router.facts["risk_coverage"])


def _lines(turns: Sequence[Turn], *, most: int) -> list[Figure]:
    lines = [line(f"accuracy, source {turn.source} ({turn.domain}) held out", "share", turn.ours, peer=turn.plain, peer_name=PLAIN) for turn in turns]
    ours, plain = np.array([turn.ours for turn in turns]), np.array([turn.plain for turn in turns])
    covered = np.array([turn.coverage for turn in turns])
    for domain in dict.fromkeys(turn.domain for turn in turns):
        here = np.array([turn.domain == domain for turn in turns])
        lines.append(line(f"mean accuracy, sources of {domain} held out", "share", float(ours[here].mean()), peer=float(plain[here].mean()), peer_name=PLAIN))
    right = np.array([turn.selective for turn in turns]) * covered
    return [*lines,
            line(f"mean accuracy, {len(turns)} sources held out, at most {most} rows each", "share", float(ours.mean()), peer=float(plain.mean()),
                 peer_name=PLAIN, spread=float(ours.std())),
            line("coverage, sources held out", "share", float(covered.mean())),
            line("selective accuracy, sources held out", "share", float(right.sum() / covered.sum()) if covered.sum() else 0.0),
            *(line(f"selective accuracy at coverage {share:.2f}, sources held out", "share", at_coverage(turns, share)) for share in _COVERAGES),
            *(figure for share in _REJECTIONS for figure in _if_rejected(turns, share))]


def _if_rejected(turns: Sequence[Turn], share: float) -> list[Figure]:
    """Coverage and selective accuracy had the thresholds turned away this share of each router's validation rows."""
    covered, right = [], []
    for turn in turns:
        bar = min(turn.curve, key=lambda point: abs(point["coverage"] - (1 - share)))["threshold"]
        covered.append(float((turn.confidence >= bar).mean()))
        right.append(float((turn.right & (turn.confidence >= bar)).mean()))
    name = f"sources held out, if {share:.0%} of validation rows were turned away"
    return [line(f"coverage, {name}", "share", float(np.mean(covered))), line(f"selective accuracy, {name}", "share", float(np.sum(right) / np.sum(covered)))]


def at_coverage(turns: Sequence[Turn], share: float) -> float:
    """Accuracy of the surest rows of all sources together that make up this share, each source counting the same."""
    confidence, right = np.concatenate([turn.confidence for turn in turns]), np.concatenate([turn.right for turn in turns])
    weight = np.concatenate([np.full(len(turn.right), 1 / len(turn.right)) for turn in turns]) / len(turns)
    order = np.argsort(-confidence, kind="stable")
    kept = order[np.cumsum(weight[order]) <= share + 1e-9]
    return float((right[kept] * weight[kept]).sum() / weight[kept].sum()) if len(kept) else 0.0


def capped_rows(rows: Sequence[Row], *, most: int, seed: int) -> list[Row]:
    """At most so many rows a source, drawn by the seed."""
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    rng = Random(seed)
    return [row for found in by_source.values() for row in (rng.sample(found, most) if len(found) > most else found)]
