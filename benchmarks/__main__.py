"""python -m benchmarks NAME: one benchmark as a table, and with --json as a list of figures. Does not measure by itself."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measuring import Figure

NAMES = ("train", "sweep", "serve", "route", "swap")


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark that the command line names; 0 when it ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="figures as ratios against a peer in the same run")
    benchmarks = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name in NAMES:
        if importlib.util.find_spec(f"benchmarks.{name}") is None:
            continue
        module = importlib.import_module(f"benchmarks.{name}")
        one = benchmarks.add_parser(name, help=(module.__doc__ or "").partition(": ")[2].splitlines()[0])
        one.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
        module.add_arguments(one)
        one.set_defaults(measure=module.measure, parser=one)
    arguments = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    figures: list[Figure] = arguments.measure(arguments, arguments.parser)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([figure.to_json() for figure in figures], indent=1) + "\n", encoding="utf-8")
    Console().print(_table(figures))
    return 0


def _table(figures: Sequence[Figure]) -> Table:
    table = Table("what", "unit", "ours", "peer", "peer is", "ratio", "spread")
    for figure in figures:
        numbers = (f"{figure.ours:,.4g}" if figure.ours < 100 else f"{figure.ours:,.0f}", "" if figure.peer is None else f"{figure.peer:,.4g}")
        table.add_row(figure.name, figure.unit, *numbers, figure.peer_name or "", "" if figure.ratio is None else f"{figure.ratio:.2f}",
                      "" if figure.spread is None else f"{figure.spread:.0%}")
    return table


if __name__ == "__main__":
    sys.exit(main())
