"""python -m benchmarks tree: the tree against one model of the same size on the same data, at equal total compute, over several budgets.

Each arm is a run of continuous_loop.py with a fixed number of steps; both sit the same exams. A run that has ended is not
trained again, so a long comparison goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import settings as configuration
from benchmarks.measuring import Figure
from data_prep.corpus import open_corpus
from experts.device import choose
from experts.durable import write_json
from experts.expert import Expert
from experts.journal import Journal
from experts.registry import Registry
from experts.tree import Tree
from settings import HOME, Settings
from training.exam import Exam, examine
from training.scorecard import Scorecard

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What answers in each domain of one finished run, a domain: bits per byte on held-out rows, exam accuracy (None: ungraded), loop rate."""

    bits: Mapping[str, float]
    accuracy: Mapping[str, float | None]
    loop_rate: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Point:
    """Bits per byte of both arms over one budget, mean over domains. data: name of the folder of records, "hub" or "curriculum"."""

    data: str
    steps: int
    tree: float
    one_model: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    configuration.add_arguments(parser)
    parser.add_argument("--steps", type=int, nargs="+", default=[750, 1500, 3000], help="budgets: steps of the whole tree together (default 750 1500 3000)")
    parser.add_argument("--work", type=Path, default=Path("runs/tree"), metavar="DIR", help="folder that keeps the runs (default runs/tree)")
    parser.add_argument("--side-by-side", action="store_true", help="also a single model with the steps that lie on one way from the root to an expert")
    parser.add_argument("--points", type=Path, metavar="FILE", help="file that gathers the means of every budget and data set measured, over many calls")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="bits per byte over steps, as a picture; with --points of all that stand there")


def measure(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Figure]:
    """Train what isn't trained yet, examine, and put the arms side by side."""
    settings = configuration.from_arguments(parser, arguments)
    if min(arguments.steps) < 20:
        parser.error(f"--steps {min(arguments.steps)}: at least 20, or the experts get none")
    torch.set_num_threads(settings.run.threads or torch.get_num_threads())
    figures: list[Figure] = []
    points = gathered(arguments.points) if arguments.points is not None else []  # before hours of training, should it be damaged
    data = Path(settings.data.path).resolve().name if settings.data.path is not None else "hub" if settings.data.hub else "curriculum"
    for steps in sorted(arguments.steps):
        tree = _finished(settings, arguments.work / f"tree-{steps}", words=[f"loop.steps={steps}"])
        one = _finished(settings, arguments.work / f"one-{steps}", words=one_model(settings, steps=steps))
        figures += side_by_side(tree, one, steps=steps, peer_name="one model, equal total steps")
        points.append(Point(data, steps, _mean(tree.bits), _mean(one.bits)))
        if arguments.side_by_side:
            way = way_steps(arguments.work / f"tree-{steps}", Tree.from_settings(settings.tree))
            figures += side_by_side(tree, _finished(settings, arguments.work / f"one-{way}", words=one_model(settings, steps=way)), steps=steps,
                                    peer_name=f"one model, the {way} steps of one way down the tree")
    if arguments.points is not None:
        points = gathered(arguments.points, new=points)
    if arguments.picture is not None:
        draw(points, arguments.picture)
    return figures


def gathered(file: Path, *, new: Sequence[Point] = ()) -> list[Point]:
    """The points of a file with new ones merged in, sorted; a new one replaces that of the same data and budget. The file has them all then."""
    old = [Point(**line) for line in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []
    merged = {(point.data, point.steps): point for point in (*old, *new)}
    points = [merged[key] for key in sorted(merged)]
    write_json(file, [asdict(point) for point in points])
    return points


def one_model(settings: Settings, *, steps: int) -> list[str]:
    """Settings under which the loop trains the root alone, for all of the steps and down to the lowest rate."""
    return [f"loop.steps={steps}", "loop.root_share=1", "loop.branch_share=0", f"loop.root_final_lr_share={settings.train.final_lr_share}"]


def way_steps(folder: Path, tree: Tree) -> int:
    """Most steps on one way from the root to an expert in the first cycle of a finished run, as its journal has them."""
    events = Journal(folder / "journal.db", read_only=True).events(kind="training_started")
    steps = {event.node: int(event.facts["steps"]) for event in events if event.facts["cycle"] == 0}
    return max(sum(steps.get(name, 0) for name in tree.path(domain)) for domain in tree.domains)


def side_by_side(tree: Result, one: Result, *, steps: int, peer_name: str) -> list[Figure]:
    """A figure a domain and the means; ours is the tree, the ratio of bits is better below one."""
    figures = [Figure(f"{steps} steps: bits per byte, {domain}", "bits/byte", bits, one.bits[domain], peer_name, bits / one.bits[domain])
               for domain, bits in tree.bits.items()]
    mine, theirs = _mean(tree.bits), _mean(one.bits)
    figures.append(Figure(f"{steps} steps: bits per byte, mean", "bits/byte", mine, theirs, peer_name, mine / theirs))
    graded = [domain for domain, value in tree.accuracy.items() if value is not None and one.accuracy[domain] is not None]
    figures += [Figure(f"{steps} steps: exam accuracy, {domain}", "share", tree.accuracy[domain] or 0.0, one.accuracy[domain], peer_name) for domain in graded]
    figures += [Figure(f"{steps} steps: loop rate, {domain}", "share", rate, one.loop_rate[domain], peer_name) for domain, rate in tree.loop_rate.items()]
    return figures


def _finished(settings: Settings, folder: Path, *, words: Sequence[str]) -> Result:
    """The result of a run, trained first when it hasn't ended its first cycle."""
    chosen = configuration.changed(settings, [f"run.dir={json.dumps(str(folder))}", *words])
    file = folder.parent / f"{folder.name}.toml"
    if file.exists() and file.read_text(encoding="utf-8") != configuration.to_toml(chosen):
        raise SystemExit(f"{folder} was trained with other settings than these ({file} has them); give another --work, or delete both")
    if not Journal(folder / "journal.db", read_only=True).events(kind="cycle_ended", limit=1):
        folder.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(configuration.to_toml(chosen), encoding="utf-8")
        _log.info("training %s", folder)
        command = [sys.executable, str(HOME / "continuous_loop.py"), "--config", str(file), "--cycles", "1", "--no-serve", "--quiet"]
        subprocess.run(command, check=True, cwd=Path.cwd(), stdout=sys.stderr)
    return _examined(chosen)


def _examined(settings: Settings) -> Result:
    tree, registry = Tree.from_settings(settings.tree), Registry(Path(settings.run.dir))
    corpus, device = open_corpus(settings, tree), choose(settings.run.device)
    cards = {}
    for domain in tree.domains:
        place = tree.answering(domain, registry.pointer().nodes)
        folder = registry.served(place) if place is not None else None
        assert place is not None, f"{settings.run.dir} ended without a root"
        assert folder is not None, f"{settings.run.dir} has lost its {place}"
        exam = Exam.of(corpus, (domain,), tasks=settings.exam.tasks, bits_rows=settings.exam.bits_rows)
        kept = registry.card(place, folder.name)
        before = Scorecard.of_card(kept, sitting=exam.sitting(settings.exam, settings.decoding))  # an expert sat it before it was promoted
        cards[domain] = before or examine(Expert.load(folder, device=device), exam, settings=settings.exam, decoding=settings.decoding,
                                          circles=bool(kept.get("circles")))
    return Result({domain: card.mean_bits_per_byte for domain, card in cards.items()}, {domain: card.accuracy for domain, card in cards.items()},
                  {domain: card.loop_rate for domain, card in cards.items()})


def _mean(bits: Mapping[str, float]) -> float:
    return sum(bits.values()) / len(bits)


def draw(points: Sequence[Point], file: Path) -> None:
    """Bits per byte over steps, a panel a data set, as a picture."""
    from matplotlib.figure import Figure as Canvas  # the extra curves

    sets = sorted({point.data for point in points})
    canvas = Canvas(figsize=(5.5 * len(sets), 4.5), layout="constrained")
    for place, data in enumerate(sets):
        axes = canvas.add_subplot(1, len(sets), place + 1, title=data, xlabel="steps, all nodes together", xscale="log",
                                  ylabel="bits per byte on held-out rows, mean over domains")
        mine = sorted((point for point in points if point.data == data), key=lambda point: point.steps)
        for name, bits in (("tree", [point.tree for point in mine]), ("one model", [point.one_model for point in mine])):
            axes.plot([point.steps for point in mine], bits, marker="o", label=name)
        axes.grid(alpha=0.3)
        axes.legend()
    canvas.savefig(file)
