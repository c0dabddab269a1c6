"""python -m experts.moe report RUN: is the router of a run well, and what to turn if not."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from experts.console import accept_any_text


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: healthy or to be watched; 1: an alarm; 2: no such run, or no readings in it."""
    accept_any_text()
    parser = argparse.ArgumentParser(prog="python -m experts.moe", description="Health of token-level routers.")
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="each metric with its healthy range, verdict, since when, and the lever to pull")
    report.add_argument("run", type=Path, metavar="RUN", help="run folder, as in runs/nanomoe")
    report.add_argument("--node", metavar="NAME", help="one node only")
    report.add_argument("--json", type=Path, metavar="FILE", help="write it to a file, too")
    options = parser.parse_args(arguments)
    return _report(report, options)


def _report(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from rich.console import Console

    from experts.journal import JournalError
    from experts.moe.report import NoReadings, report, show

    if not options.run.is_dir():
        parser.exit(2, f"{parser.prog}: no folder {options.run}; give the run folder of a training, as in runs/nanomoe\n")
    try:
        found = report(options.run, node=options.node)
    except (NoReadings, JournalError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    show(found, console=Console(width=None if sys.stdout.isatty() else 200))
    return 1 if any(one["verdict"] == "alarm" for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
