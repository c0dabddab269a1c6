"""python -m training curve FILE: the losses of a training as a chart in the terminal, read from what fast_train.py --json wrote.
python -m training history --run DIR --picture FILE: exam accuracy against minutes of training, read from a run's journal. Trains nothing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import settings
from experts.console import accept_any_text, plain_console
from experts.journal import Journal
from experts.tree import Tree
from training.curve import chart, picture
from training.history import draw, points

SERIES = ("val_loss", "train_loss")


def main(words: Sequence[str] | None = None) -> int:
    """0 when a chart was drawn, 2 with the reason when the file can't be drawn."""
    accept_any_text()
    parser = argparse.ArgumentParser(prog="python -m training")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    curve = commands.add_parser("curve", help="losses of a training as a chart in the terminal, or a picture")
    curve.add_argument("file", type=Path, metavar="FILE", help="JSON written by fast_train.py --json")
    curve.add_argument("--series", choices=SERIES, default=SERIES[0], help="what is drawn (default val_loss)")
    curve.add_argument("--over", choices=("step", "train_s", "tokens"), default="step", help="what it is drawn over (default step)")
    curve.add_argument("--picture", type=Path, metavar="FILE", help="draw a picture too: .png, .svg or .pdf")
    history = commands.add_parser("history", help="exam accuracy against minutes of training, as a picture")
    settings.add_arguments(history)
    history.add_argument("--picture", type=Path, required=True, metavar="FILE", help="picture to write: .png, .svg or .pdf")
    arguments = parser.parse_args(words)
    return _curve(curve, arguments) if arguments.command == "curve" else _history(history, arguments)


def _history(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    chosen = settings.from_arguments(parser, arguments)
    tree = Tree.from_settings(chosen.tree)
    with Journal(Path(chosen.run.dir) / "journal.db", read_only=True) as journal:
        found = points(journal.events(), tree)
    try:
        draw(found, domains=tree.domains, file=arguments.picture)
    except (ImportError, ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {chosen.run.dir} can't be drawn: {error}; "
                       "the picture needs a run with promotions and python -m pip install -e \".[curves]\"\n")
    console = plain_console()
    for point in found:
        values = ", ".join(f"{domain} {value:.1%}" for domain, value in point.accuracy.items())
        console.print(f"{point.minutes:6.1f} min  mean {point.mean:.1%}  {values}")
    return 0


def _curve(curve: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    try:
        history = json.loads(arguments.file.read_text(encoding="utf-8"))["history"]
        points = [(float(line[arguments.over]), float(line[arguments.series])) for line in history]
        drawn = chart(points)
    except (OSError, ValueError, KeyError, TypeError) as error:
        curve.exit(2, f"{curve.prog}: {arguments.file} can't be drawn: {type(error).__name__} {error}; give the file that fast_train.py --json wrote\n")
    if arguments.picture is not None:
        try:
            picture(points, x=arguments.over, y=arguments.series, file=arguments.picture)
        except (ImportError, ValueError, OSError) as error:
            curve.exit(2, f"{curve.prog}: {arguments.picture} can't be written: {error}; pictures need python -m pip install -e \".[curves]\"\n")
    console = plain_console()
    console.print(f"{arguments.series} over {arguments.over}")
    console.print(drawn)
    best = min(points, key=lambda point: point[1])
    console.print(f"lowest {best[1]:.4f} at {arguments.over} {best[0]:g}, last {points[-1][1]:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
