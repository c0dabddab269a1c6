"""Fits and judges a router in a process of its own, so that the memory it takes ends with it.

A fit on 50,000 prompts takes some 2 GB for half a minute; the loop that asks for it runs for days. Writes the router's files
into the folder it is given, nothing else.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from experts.durable import explained
from experts.tree import Tree
from routing.offer import Verdict, make_offer
from routing.rows import Row
from settings import RouterSettings, TreeSettings

LOOK_S = 0.2  # between two looks at should_stop
STOPS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C and systemd's stop reach the whole group; the parent decides what becomes of a fit


class FitFailed(RuntimeError):
    """The fitting process ended without a result; the message says what to do."""


class FitStopped(Exception):
    """The fit was given up because somebody asked to stop."""


@dataclass(frozen=True, slots=True)
class Judged:
    """accuracy: of the fitted router on the held-out rows; verdict: whether it may take the served one's place; report: what it was fitted on."""

    report: dict[str, Any]
    accuracy: float
    verdict: Verdict


def fit_apart(rows: Sequence[Row], *, held_out: Sequence[Row], tree: TreeSettings, settings: RouterSettings, seed: int, folder: Path,
              served: Path | None, should_stop: Callable[[], bool]) -> Judged:
    """Do what routing.offer.make_offer does, and save the fitted router into folder. Raises FitFailed, FitStopped, OutOfSpace, and what make_offer raises.

    A fit takes a minute or two, for which nobody waits who has pressed Ctrl-C: should_stop is asked meanwhile, and the other process is ended.
    Should this process be killed meanwhile, the other ends by itself when it has fitted: a pool's worker would wait for ever.
    """
    context = multiprocessing.get_context("spawn")
    results, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, list(rows), list(held_out), tree, settings, seed, folder, served), daemon=True)
    with _stops_held_back():
        process.start()
    sender.close()
    try:
        while not results.poll(LOOK_S):
            if should_stop():
                process.kill()
                raise FitStopped
        result = results.recv()
    except (EOFError, BrokenPipeError) as error:  # Windows' poll() tells the second
        raise FitFailed("the process that fits the router ended without a result, most often for want of memory; "
                        "lower router.rows, or close other programs") from error
    finally:
        results.close()
        process.join()
    if isinstance(result, MemoryError):
        raise FitFailed("there is no memory for the router's fit; lower router.rows, or close other programs") from result
    if isinstance(result, Exception):
        with explained(folder):  # here, since its own exceptions don't come through a pipe
            raise result
    assert isinstance(result, Judged)
    return result


@contextmanager
def _stops_held_back() -> Iterator[None]:
    """Signals that stop a group wait meanwhile; a process that is started here begins so, and is deaf to them before it has read its modules."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # else start() does, and lets them through afterwards
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(sender: Connection, *task: Any) -> None:
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    try:
        result: Judged | Exception = _fit(*task)
    except (ValueError, OSError, MemoryError) as error:
        result = error
    try:
        sender.send(result)
    except BrokenPipeError:
        return  # nobody waits any more


def _fit(rows: list[Row], held_out: list[Row], tree: TreeSettings, settings: RouterSettings, seed: int, folder: Path, served: Path | None) -> Judged:
    offer = make_offer(rows, held_out=held_out, tree=Tree.from_settings(tree), settings=settings, seed=seed, served=served)
    offer.fitted.router.save(folder)
    return Judged(offer.fitted.report, offer.evaluation.accuracy, offer.verdict)
