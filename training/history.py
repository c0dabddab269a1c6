"""Exam accuracy against training time, read from a run's journal, and its picture. Does not train or examine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experts.journal import Event
from experts.tree import Tree


@dataclass(frozen=True, slots=True)
class Point:
    """What the family scored after so many minutes of training (examinations left out): accuracy by domain of the node that answers there."""

    minutes: float
    accuracy: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean over the domains."""
        return sum(self.accuracy.values()) / len(self.accuracy)


def points(events: Sequence[Event], tree: Tree) -> list[Point]:
    """A point a promotion, from the first at which every graded domain has an answer.

    A domain answers through its expert once that is promoted, until then through its branch or the root, with the accuracy
    that node showed in the domain at its own promotion.
    """
    spent: dict[tuple[str, int, int], float] = {}  # seconds of training, by node, cycle and begun: an early version and the end count once
    begun: Counter[str] = Counter()  # trainings of a node that weren't a stopped one's rest; fast_train.py's are all of one cycle
    shown: dict[str, Mapping[str, float | None]] = {}
    found = []
    for event in events:
        if event.kind == "training_started" and event.node is not None:
            begun[event.node] += not event.facts.get("resumed", True)  # journals of earlier versions don't say: a cycle is one training
        training = event.facts.get("training")
        if training is None or event.node is None:
            continue
        job = event.node, int(training["cycle"]), begun[event.node]
        spent[job] = max(spent.get(job, 0.0), float(training["train_s"]))
        if event.kind != "promoted":
            continue
        shown[event.node] = event.facts["scorecard"]["per_domain"]
        accuracy = _answering(shown, tree)
        if accuracy:
            found.append(Point(sum(spent.values()) / 60, accuracy))
    return found


def _answering(shown: Mapping[str, Mapping[str, float | None]], tree: Tree) -> dict[str, float]:
    accuracy = {}
    for domain in tree.domains:
        place = tree.answering(domain, shown)
        value = shown[place].get(domain) if place is not None else None
        if value is not None:
            accuracy[domain] = value
    return accuracy


def draw(found: Sequence[Point], *, domains: Sequence[str], file: Path) -> None:
    """A picture (the suffix says which kind) of the accuracies over minutes. Raises ImportError without matplotlib, ValueError without points."""
    if not found:
        raise ValueError("the journal has no promotion with an exam; let the loop promote something first")
    from matplotlib.figure import Figure  # an extra: only pictures need it

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="minutes of training, the whole tree together", ylabel="exam accuracy", ylim=(0, 1))
    minutes = [point.minutes for point in found]
    for domain in domains:
        axes.step(minutes, [point.accuracy.get(domain, float("nan")) for point in found], where="post", linewidth=1, label=domain)
    axes.step(minutes, [point.mean for point in found], where="post", linewidth=3, color="black", label="mean")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file)
