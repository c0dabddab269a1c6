"""Fits and judges a router in a process of its own, so that the memory it takes ends with it.

A fit on 50,000 prompts takes some 2 GB for half a minute; the loop that asks for it runs for days. Writes the router's files
into the folder it is given, nothing else.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from experts.tree import Tree
from routing.evaluate import evaluate
from routing.fit import Fitted, Row, fit
from routing.grow import grow, grows
from routing.router import Router
from routing.store import DamagedRouter, stored_tree
from settings import RouterSettings, TreeSettings


class FitFailed(RuntimeError):
    """The fitting process ended without a result; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Judged:
    """accuracy: of the fitted router on the held-out rows; before: of the served one on the same rows, None without one that fits the tree."""

    report: dict[str, Any]
    accuracy: float
    before: float | None


def fit_apart(rows: Sequence[Row], *, held_out: Sequence[Row], tree: TreeSettings, settings: RouterSettings, seed: int, folder: Path,
              served: Path | None) -> Judged:
    """Fit on rows, save into folder, and judge it and the served router on held_out. A served router of a smaller tree grows by the new
    domains if that is enough for them. Raises FitFailed, and what routing.fit.fit raises.

    Should this process be killed meanwhile, the other ends by itself when it has fitted: a pool's worker would wait for ever.
    """
    context = multiprocessing.get_context("spawn")
    results, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, list(rows), list(held_out), tree, settings, seed, folder, served), daemon=True)
    process.start()
    sender.close()
    try:
        result = results.recv()
    except EOFError as error:
        raise FitFailed("the process that fits the router ended without a result, most often for want of memory; "
                        "lower router.rows, or close other programs") from error
    finally:
        results.close()
        process.join()
    if isinstance(result, Exception):
        raise result
    assert isinstance(result, Judged)
    return result


def _work(sender: Connection, *task: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what becomes of a fit
    try:
        result: Judged | Exception = _fit(*task)
    except (ValueError, OSError, MemoryError) as error:
        result = error
    try:
        sender.send(result)
    except BrokenPipeError:
        return  # nobody waits any more


NEW_DOMAIN_ACCURACY = 0.9  # of held-out prompts of each new domain, from which a grown router is enough


def _fit(rows: list[Row], held_out: list[Row], tree_settings: TreeSettings, settings: RouterSettings, seed: int, folder: Path, served: Path | None) -> Judged:
    tree = Tree.from_settings(tree_settings)
    smaller = _served_router(served, tree=None)
    fitted = _grown(smaller, rows, held_out, tree=tree, settings=settings, seed=seed) if smaller is not None and grows(smaller.tree, tree) else None
    if fitted is None:
        fitted = fit(rows, tree=tree, settings=settings, seed=seed)
    fitted.router.save(folder)
    before = _served_router(served, tree=tree)
    return Judged(fitted.report, evaluate(fitted.router, held_out, timed=1).accuracy,
                  evaluate(before, held_out, timed=1).accuracy if before is not None else None)


def _grown(served: Router, rows: list[Row], held_out: list[Row], *, tree: Tree, settings: RouterSettings, seed: int) -> Fitted | None:
    """The served router with the new domains added, or None when it doesn't know them well enough: its vocabulary and the nodes above are old."""
    fitted = grow(served, rows, tree=tree, settings=settings, seed=seed)
    shares = evaluate(fitted.router, held_out, timed=1).per_domain
    new = set(tree.domains) - set(served.tree.domains)
    return fitted if all(shares.get(domain, 0.0) >= NEW_DOMAIN_ACCURACY for domain in new) else None


def _served_router(folder: Path | None, *, tree: Tree | None) -> Router | None:
    """The served router, for its own tree when none is named; None where there is none, or it is for another tree."""
    try:
        return Router.load(folder, tree or stored_tree(folder)) if folder is not None else None
    except DamagedRouter:
        return None
