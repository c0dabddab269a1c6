"""Examine every promoted node and the router, print what they can do, and fail below the floors of the settings.

Trains and promotes nothing; a damaged version that it comes upon is set aside, as everywhere (experts/registry.py). Not a test module: pytest
doesn't collect it.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import settings as configuration
from experts.console import accept_any_text, plain_console
from settings import Settings
from training.command import require_folders

if TYPE_CHECKING:
    from data_prep.corpus import Corpus
    from experts.registry import Registry
    from experts.tree import Tree
    from training.grades import GradedPrompt
    from training.report import FamilyReport


def main(arguments: list[str] | None = None) -> int:
    """Command line. Exit code 0; 1 when a figure is below its floor; 2 when nothing can be examined."""
    accept_any_text()
    parser = argparse.ArgumentParser(prog="test_all_experts.py", description="examine every promoted node and the router")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--grades", type=Path, metavar="FILE", help="write every node's grade on every exam prompt, for routing evaluate --prompts FILE")
    configuration.add_arguments(parser)
    parsed = parser.parse_args(arguments)
    require_folders(parser, {"--json": parsed.json, "--grades": parsed.grades})
    chosen = configuration.from_arguments(parser, parsed)
    logging.basicConfig(level=chosen.run.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)

    from training.command import repairable
    from training.report import faults, to_json, to_tables

    try:
        report = _examine(chosen, grades=parsed.grades)
    except repairable() as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if parsed.json is not None:  # before the tables: what was examined for minutes is kept whatever becomes of the output
        parsed.json.write_text(json.dumps(to_json(report), indent=2) + "\n", encoding="utf-8")
    console = plain_console(soft_wrap=False)
    for table in to_tables(report):
        console.print(table)
    below = faults(report, exam=chosen.exam)
    for fault in below:
        console.print(f"below the floor: {fault}")
    return 1 if below else 0


def _examine(chosen: Settings, *, grades: Path | None) -> FamilyReport:
    import torch

    from data_prep.corpus import open_corpus
    from experts import device as devices
    from experts.registry import Registry
    from experts.tree import Tree
    from training.command import CommandFailed
    from training.grades import graded_prompts, write_grades
    from training.report import examine_family

    if chosen.run.threads is not None:
        torch.set_num_threads(chosen.run.threads)
    tree, registry = Tree.from_settings(chosen.tree), Registry(Path(chosen.run.dir))
    if all(registry.served(name) is None for name in tree.trainable):
        raise CommandFailed(f"nothing is promoted in {chosen.run.dir} yet; run python continuous_loop.py first, or give --run DIR")
    corpus = open_corpus(chosen, tree)
    router, fault = _examine_router(registry, corpus, tree)
    report = examine_family(registry, corpus, tree, settings=chosen.exam, decoding=chosen.decoding, device=devices.choose(chosen.run.device), router=router,
                            router_fault=fault)
    graded = graded_prompts(report.matrix, corpus, tree.domains)
    if grades is not None:
        write_grades(grades, graded)
    return replace(report, router={**router, "oracle": _regret(registry, graded, tree)}) if router and graded and tree.root in report.nodes else report


def _examine_router(registry: Registry, corpus: Corpus, tree: Tree) -> tuple[dict[str, Any], str | None]:
    """The promoted router's figures, none without one; and why it can't be used, as where it was fitted for another tree."""
    from routing.evaluate import evaluate
    from routing.router import Router
    from routing.rows import Row
    from routing.store import DamagedRouter

    folder = registry.served("router")
    if folder is None:
        return {}, None
    try:
        router = Router.load(folder, tree)
    except DamagedRouter as error:
        return {}, f"{folder.name} can't be used: {error}"
    rows = [Row(row.prompt, domain, row.source) for domain in tree.domains for row in corpus.examples(domain, "exam")]
    return {"version": folder.name, **evaluate(router, rows).to_json()}, None


def _regret(registry: Registry, graded: Sequence[GradedPrompt], tree: Tree) -> dict[str, Any]:
    """What the router's choices cost against the node that answers each prompt best."""
    from routing.oracle import Graded, regret
    from routing.router import Router

    folder = registry.served("router")
    assert folder is not None
    return regret(Router.load(folder, tree), [Graded(row.prompt, row.grades, row.label) for row in graded]).to_json()


if __name__ == "__main__":
    sys.exit(main())
