"""python -m data_prep build|report: make the shards of a data folder, and show what became of every record.

build takes the files as they are now; report shows what was prepared last (and builds when there is nothing yet). A training that was
stopped keeps the corpus that it began with. Does not train.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import settings
from experts.console import accept_any_text, plain_console


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, 1 when an exam is refused, 2 when the data can't be used."""
    accept_any_text()
    parser = argparse.ArgumentParser(prog="python -m data_prep", description="Make shards of a data folder and report on them.")
    parser.add_argument("action", choices=("build", "report"), help="build: take the files as they are now; report: show what was prepared last")
    settings.add_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parsed = parser.parse_args(arguments)
    chosen = settings.from_arguments(parser, parsed)
    logging.basicConfig(level=chosen.run.log_level, format="%(message)s", stream=sys.stderr)
    return _run(chosen, action=parsed.action, json_file=parsed.json)


def _run(chosen: settings.Settings, *, action: str, json_file: Path | None) -> int:
    from data_prep.corpus import DataError, last_cycle, last_levels, prepare
    from data_prep.exam_check import ExamOverlap, require_exams
    from experts.durable import NotWritable, OutOfSpace, write_text
    from experts.run_lock import RunLock, RunLocked
    from experts.tree import Tree

    errors = plain_console(stderr=True)
    try:
        folder = Path(chosen.run.dir)
        folder.mkdir(parents=True, exist_ok=True)
        with RunLock(folder):
            cycle = last_cycle(folder / "data")
            corpus = prepare(chosen, Tree.from_settings(chosen.tree), cycle=cycle or 0, log=errors.print, levels=last_levels(folder / "data"),
                             resume=action == "report", allow_overlap=True)
    except (DataError, NotWritable, OutOfSpace, RunLocked, settings.SettingsError) as error:
        errors.print(f"data_prep: {error}")
        return 2
    plain_console(soft_wrap=False).print(corpus.report.tables())
    if action == "report" and cycle is not None:
        errors.print(f"data_prep: the files as they were when cycle {cycle} was prepared; `build` takes them as they are now")
    if json_file is not None:
        write_text(json_file, json.dumps(corpus.report.to_json(), indent=1) + "\n")
    try:
        require_exams({entry.domain: entry.overlap for entry in corpus.report.domains if entry.overlap}, most=chosen.data.max_exam_overlap)
    except ExamOverlap as error:
        errors.print(f"data_prep: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
