"""python -m benchmarks NAME: one benchmark as a table, and with --json as a list of figures. Does not measure by itself."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from rich.table import Table

from benchmarks.measuring import Figure
from experts.console import accept_any_text, plain_console
from experts.durable import write_json

NAMES = {
    "train": "training tokens/s against transformers' Trainer and a bare loop, share of the machine's peak",
    "sweep": "validation loss and time of learning rates and optimizers",
    "serve": "generated tokens/s and time to the first token",
    "route": "accuracy, calibration and speed of the router",
    "tree": "bits per byte and accuracy of the tree against one model of equal compute",
    "swap": "requests lost and delayed while versions are swapped",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark that the command line names; 0 when it ran."""
    accept_any_text()
    lines = "\n".join(f"  {name:<8}{text}" for name, text in NAMES.items())
    parser = argparse.ArgumentParser(prog="python -m benchmarks", formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description="Figures as ratios against a peer in the same run.",
                                     epilog=f"benchmarks:\n{lines}\n\npython -m benchmarks NAME --help shows the options of one")
    parser.add_argument("name", choices=list(NAMES), metavar="NAME", help="benchmark to run")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    chosen = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    figures = _run(importlib.import_module(f"benchmarks.{chosen.name}"), name=chosen.name, words=chosen.rest)
    plain_console(soft_wrap=False).print(_table(figures))
    return 0


def _run(module: ModuleType, *, name: str, words: list[str]) -> list[Figure]:
    """The figures of one benchmark, written to --json where asked for."""
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    file, rest = output.parse_known_args(words)
    if hasattr(module, "main"):  # it parses the rest by itself
        figures = [Figure(**line) for line in module.main(rest)]
    else:
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=NAMES[name], parents=[output])
        module.add_arguments(parser)
        figures = module.measure(parser.parse_args(rest), parser)
    if file.json is not None:
        write_json(file.json, [figure.to_json() for figure in figures])
    return figures


def _table(figures: Sequence[Figure]) -> Table:
    table = Table("what", "unit", "ours", "peer", "peer is", "ratio", "spread")
    for figure in figures:
        table.add_row(figure.name, figure.unit, _number(figure.ours), _number(figure.peer), figure.peer_name or "",
                      "" if figure.ratio is None else f"{figure.ratio:.2f}", "" if figure.spread is None else f"{figure.spread:.0%}")
    return table


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
