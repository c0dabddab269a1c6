"""python -m training curve FILE: the losses of a training as a chart in the terminal. Reads what fast_train.py --json wrote; does not train."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from training.curve import chart

SERIES = ("val_loss", "train_loss")


def main(words: Sequence[str] | None = None) -> int:
    """0 when a chart was drawn, 2 with the reason when the file can't be drawn."""
    parser = argparse.ArgumentParser(prog="python -m training")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    curve = commands.add_parser("curve", help="losses of a training as a chart in the terminal")
    curve.add_argument("file", type=Path, metavar="FILE", help="JSON written by fast_train.py --json")
    curve.add_argument("--series", choices=SERIES, default=SERIES[0], help="what is drawn (default val_loss)")
    curve.add_argument("--over", choices=("step", "train_s", "tokens"), default="step", help="what it is drawn over (default step)")
    arguments = parser.parse_args(words)
    try:
        history = json.loads(arguments.file.read_text(encoding="utf-8"))["history"]
        points = [(float(line[arguments.over]), float(line[arguments.series])) for line in history]
        drawn = chart(points)
    except (OSError, ValueError, KeyError, TypeError) as error:
        curve.exit(2, f"{curve.prog}: {arguments.file} can't be drawn: {type(error).__name__} {error}; give the file that fast_train.py --json wrote\n")
    console = Console(soft_wrap=True)
    console.print(f"{arguments.series} over {arguments.over}", markup=False, highlight=False)
    console.print(drawn, markup=False, highlight=False)
    best = min(points, key=lambda point: point[1])
    console.print(f"lowest {best[1]:.4f} at {arguments.over} {best[0]:g}, last {points[-1][1]:.4f}", markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
