"""Train the family, examine and promote it, fit its router, serve it, and keep improving it.

The composition root: the one place that joins training, routing and serving. Reads settings, wires, calls.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import settings as configuration
from experts.console import accept_any_text
from settings import Settings

if TYPE_CHECKING:
    from data_prep.corpus import Corpus
    from experts.tree import Tree
    from training.loop import FitRouter
    from training.progress import Reporter

STOP_GATEWAY_S = 40.0  # at least
AFTER_DRAIN_S = 10.0  # for a gateway to send last words and free its models


def main(arguments: list[str] | None = None) -> int:
    """Command line. Exit code 0 after the cycles or Ctrl-C; 2 when the run can't start or go on, with the reason."""
    accept_any_text()
    parser = argparse.ArgumentParser(prog="continuous_loop.py", description="train, examine, promote, route and serve, in a loop")
    parser.add_argument("--cycles", type=int, metavar="N", help="stop after N cycles (default: never)")
    parser.add_argument("--no-serve", action="store_true", help="train without a gateway")
    parser.add_argument("--quiet", action="store_true", help="no progress, only what was promoted and why")
    configuration.add_arguments(parser)
    parsed = parser.parse_args(arguments)
    if parsed.cycles is not None and parsed.cycles < 1:
        parser.error(f"--cycles {parsed.cycles}: at least 1, or leave it out to go on for ever")
    chosen = configuration.from_arguments(parser, parsed)
    logging.basicConfig(level=chosen.run.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)

    from serving.child import GatewayFailed
    from training.command import repairable, stop_signal

    try:
        with stop_signal() as stop:
            _run(chosen, cycles=parsed.cycles, serve=not parsed.no_serve, quiet=parsed.quiet, stop=stop)
    except repairable(GatewayFailed) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


def _run(chosen: Settings, *, cycles: int | None, serve: bool, quiet: bool, stop: threading.Event) -> None:
    import torch

    from experts import device as devices
    from training.loop import Loop
    from training.progress import Reporter
    from training.run_folder import open_run

    with open_run(chosen) as run, Reporter(quiet=quiet) as reporter:
        device = devices.choose(chosen.run.device)
        devices.seed_everything(chosen.run.seed)
        if chosen.run.threads is not None:
            torch.set_num_threads(chosen.run.threads)
        reporter.note(f"run {run.folder}, device {device.wanted} ({device.name}): {device.reason}")
        run.journal.append("loop_started", pid=os.getpid(), device=f"{device.wanted} ({device.name})", reason=device.reason)
        fit_router = router_fitter(run.tree, chosen, work=run.folder / "work", should_stop=stop.is_set)
        loop = Loop(run, device=device, fit_router=fit_router, reporter=reporter, should_stop=stop.is_set)
        with _gateway(chosen, folder=run.folder, reporter=reporter) if serve else _nothing():
            loop.run(cycles=cycles)
        run.journal.append("loop_ended", stopped=stop.is_set())


def router_fitter(tree: Tree, chosen: Settings, *, work: Path, should_stop: Callable[[], bool]) -> FitRouter:
    """The function that the loop calls to fit a router: rows from corpus, curriculum and feedback, judged on held-out rows beside the served one.

    It returns None while data, tree, feedback and settings are those that the served router was fitted on, or a refused one since, and when
    should_stop says so. work: folder for the fitted files until the registry has them.
    """
    from data_prep.prompts import corpus_prompts, prompts_to_fit
    from experts.durable import TEMPORARY, ensure_folder, remove_leftovers
    from experts.journal import Journal
    from routing.apart import FitFailed, FitStopped, fit_apart
    from routing.feedback import feedback_rows
    from routing.offer import settings_fingerprint
    from routing.rows import FEEDBACK, Row
    from routing.store import fits
    from training.loop import RouterCandidate

    asked = settings_fingerprint(chosen.router, seed=chosen.run.seed)
    refused: set[tuple[str, int, Path | None]] = set()  # data, feedback and served router of fits that were worse: the same again would be, too

    def fit_router(corpus: Corpus, served: Path | None) -> RouterCandidate | None:
        with Journal(Path(chosen.run.dir) / "journal.db", read_only=True) as journal:
            said = journal.events(kind=FEEDBACK)
        last_said = said[-1].id if said else 0
        card = _card(served) if served is not None and fits(served, tree) else None
        if card is not None and card["corpus"] == corpus.fingerprint and card.get("feedback", 0) == last_said \
                and card.get("settings", asked) == asked:
            return None
        occasion = (corpus.fingerprint, last_said, served)
        if occasion in refused:
            return None
        rows = [Row(*prompt) for prompt in prompts_to_fit(corpus, tree, router=chosen.router, seed=chosen.run.seed)]
        rows += feedback_rows([event.facts for event in said], tree=tree, settings=chosen.router)
        held_out = [Row(*prompt) for prompt in corpus_prompts(corpus, tree, "validation")]
        remove_leftovers(work)
        # A name of this process's own: the fit of a loop that was killed goes on for a while, and would write among these files.
        folder = work / f"{TEMPORARY}router-{os.getpid()}-fit"
        ensure_folder(folder)
        try:
            judged = fit_apart(rows, held_out=held_out, tree=chosen.tree, settings=chosen.router, seed=chosen.run.seed, folder=folder, served=served,
                               should_stop=should_stop)
        except FitStopped:
            return None
        except FitFailed as error:
            logging.getLogger(__name__).error("no router this cycle: %s", error)
            return None
        if not judged.verdict.promote:
            refused.add(occasion)
        return RouterCandidate(write=lambda target: _copy_files(folder, target),
                               card={"report": judged.report, "accuracy": judged.accuracy, "feedback": last_said, "settings": asked},
                               promote=judged.verdict.promote, reason=judged.verdict.reason)

    return fit_router


def _card(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    return card


def _copy_files(source: Path, target: Path) -> None:
    for file in sorted(source.iterdir()):
        shutil.copyfile(file, target / file.name)


@contextmanager
def _gateway(chosen: Settings, *, folder: Path, reporter: Reporter) -> Iterator[None]:
    """The gateway as a child process for as long as the loop runs; it reads the very settings that the loop has."""
    from experts.durable import write_text
    from serving.child import GatewayChild

    resolved = folder / "settings.toml"
    absolute = chosen.run.model_copy(update={"dir": str(folder.resolve())})  # the child's working folder is another
    write_text(resolved, configuration.to_toml(chosen.model_copy(update={"run": absolute})))
    child = GatewayChild(["--config", str(resolved.resolve())], folder=configuration.HOME,
                         stop_s=max(STOP_GATEWAY_S, chosen.serve.drain_s + AFTER_DRAIN_S))
    try:
        child.start()
        reporter.note(f"gateway: http://{chosen.serve.host}:{chosen.serve.port} (process {child.pid})")
        yield
    finally:
        child.stop()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


if __name__ == "__main__":
    sys.exit(main())
