"""The family's examination as a whole: every promoted node in its domains, and every expert in every domain.

Runs the exams of exam.py and lays the figures out. Does not promote and does not know the router's insides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from data_prep.corpus import Corpus
from experts.device import Device
from experts.expert import Expert
from experts.registry import Registry
from experts.tree import Tree
from settings import DecodingSettings, ExamSettings
from training.constant import constant_scores
from training.exam import Exam, examine
from training.scorecard import Scorecard, wilson


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node's version and its results in its own domains. parameters: tied ones counted once; in the JSON alone."""

    version: str
    scorecard: Scorecard
    parameters: int


@dataclass(frozen=True, slots=True)
class FamilyReport:
    """nodes: every promoted node. matrix: node -> domain -> results of every node with a model in every domain. answering: domain -> the promoted node
    that answers there: its expert, or, until that has a version, its branch or the root; a domain where none does is left out. constant: "domain/task" ->
    what always giving the same answer would score there (constant.py). router_fault: why the promoted router can't be used."""

    nodes: Mapping[str, NodeReport]
    matrix: Mapping[str, Mapping[str, Scorecard]]
    router: Mapping[str, Any]
    experts: tuple[str, ...]
    answering: Mapping[str, str]
    constant: Mapping[str, float] = field(default_factory=dict)
    router_fault: str | None = None

    @property
    def cards(self) -> dict[str, Scorecard]:
        """What answers in each domain, examined there."""
        return {domain: self.matrix[self.answering[domain]][domain] for domain in self.experts if domain in self.answering}

    @property
    def stand_ins(self) -> dict[str, str]:
        """domain -> the node that answers where the expert has no version."""
        return {domain: node for domain, node in self.answering.items() if node != domain}

    @property
    def counted(self) -> dict[str, float]:
        """Accuracy of what answers in each domain, without those where nothing answers or no task is graded."""
        return {domain: card.accuracy for domain, card in self.cards.items() if card.accuracy is not None}

    @property
    def mean_accuracy(self) -> float | None:
        """Mean over the domains that are counted, which may be fewer than all; None when nothing is graded."""
        return sum(self.counted.values()) / len(self.counted) if self.counted else None

    @property
    def accuracies(self) -> dict[str, dict[str, float | None]]:
        """node -> domain -> accuracy on the tasks that every node answered, so that a column compares like with like: an expert sat more
        tasks of its own domain than the others did. None where nothing is graded."""
        found: dict[str, dict[str, float | None]] = {name: {} for name in self.matrix}
        for domain in self.experts:
            answered = [{outcome.key for outcome in row[domain].outcomes} for row in self.matrix.values()]
            common = set.intersection(*answered) if answered else set()
            for name, row in self.matrix.items():
                card = row[domain]
                found[name][domain] = replace(card, outcomes=tuple(outcome for outcome in card.outcomes if outcome.key in common)).accuracy_in(domain)
        return found


def examine_family(registry: Registry, corpus: Corpus, tree: Tree, *, settings: ExamSettings, decoding: DecodingSettings, device: Device,
                   router: Mapping[str, Any], router_fault: str | None = None) -> FamilyReport:
    """Examine every promoted node: in its own domains with exam.tasks tasks (root and branches: exam.root_tasks), in the others with exam.root_tasks.

    router, router_fault: what was found out about the router, and why that can't be used."""
    wide = Exam.of(corpus, tree.domains, tasks=settings.root_tasks, bits_rows=settings.bits_rows)
    nodes, matrix = {}, {}
    for name in tree.trainable:
        folder = registry.served(name)
        if folder is None:
            continue
        expert = Expert.load(folder, device=device)
        circles = bool(registry.card(name, folder.name).get("circles"))
        own = Exam.of(corpus, (name,), tasks=settings.tasks, bits_rows=settings.bits_rows) if name in tree.domains else None
        row = {domain: examine(expert, own if own is not None and domain == name else wide.restricted(domain), settings=settings, decoding=decoding,
                               circles=circles) for domain in tree.domains}
        matrix[name] = row
        nodes[name] = NodeReport(folder.name, row[name] if name in row else pooled([row[domain] for domain in tree.node(name).domains]),
                                 expert.parameters)
    constant = constant_scores(corpus, Exam.of(corpus, tree.domains, tasks=settings.tasks, bits_rows=settings.bits_rows))
    answering = {domain: node for domain in tree.domains if (node := tree.answering(domain, nodes)) is not None}
    return FamilyReport(nodes, matrix, router, experts=tree.domains, answering=answering, constant=constant, router_fault=router_fault)


def pooled(parts: Sequence[Scorecard]) -> Scorecard:
    """One scorecard over the domains of several."""
    return Scorecard(exam="+".join(part.exam for part in parts), outcomes=tuple(outcome for part in parts for outcome in part.outcomes),
                     bits_per_byte={domain: value for part in parts for domain, value in part.bits_per_byte.items()},
                     distinct_2={domain: value for part in parts for domain, value in part.distinct_2.items()},
                     mean_words={domain: value for part in parts for domain, value in part.mean_words.items()},
                     seconds_per_answer=sum(part.seconds_per_answer for part in parts) / len(parts),
                     samples=tuple(sample for part in parts for sample in part.samples))


def to_json(report: FamilyReport) -> dict[str, Any]:
    """The JSON of the command (docs/design.md); more figures a node than it promises, none fewer."""
    nodes = {name: {"version": node.version, "accuracy": node.scorecard.accuracy, "interval_95": node.scorecard.interval(),
                    "loop_rate": node.scorecard.loop_rate, "never_ended": node.scorecard.never_ended,
                    "bits_per_byte": node.scorecard.mean_bits_per_byte, "parameters": node.parameters,
                    "distinct_2": dict(node.scorecard.distinct_2), "mean_words": dict(node.scorecard.mean_words),
                    "seconds_per_answer": node.scorecard.seconds_per_answer, "exact_match": node.scorecard.exact_match,
                    "per_level": node.scorecard.per_level,
                    "per_task": node.scorecard.by(lambda outcome: f"{outcome.domain}/{outcome.task}")} for name, node in report.nodes.items()}
    return {"nodes": nodes, "matrix": report.accuracies,
            "bits_matrix": {name: {domain: card.mean_bits_per_byte for domain, card in row.items()} for name, row in report.matrix.items()},
            "constant_answer": dict(report.constant), "router": dict(report.router), "router_fault": report.router_fault,
            "mean_accuracy": report.mean_accuracy, "experts_counted": len(report.counted), "answering": dict(report.answering)}


def faults(report: FamilyReport, *, exam: ExamSettings) -> list[str]:
    """Figures below the floors of the settings, in words; a domain where nothing answers is one, an expert without a version is none."""
    found = [f"{domain}: nothing answers" for domain in report.experts if domain not in report.answering]
    for domain, card in report.cards.items():
        name = _who(report, domain)
        if card.accuracy is not None and card.accuracy < exam.accuracy_floor:
            found.append(f"{name}: accuracy {card.accuracy:.1%} under exam.accuracy_floor = {exam.accuracy_floor:.1%}")
        if card.loop_rate > exam.loop_rate_ceiling:
            found.append(f"{name}: loop rate {card.loop_rate:.1%} over exam.loop_rate_ceiling = {exam.loop_rate_ceiling:.1%}")
    if report.router_fault is not None:
        found.append(f"router: {report.router_fault}")
    elif not report.router:
        found.append("router: none is promoted")
    elif report.router["accuracy"] < exam.router_floor:
        found.append(f"router: accuracy {report.router['accuracy']:.1%} under exam.router_floor = {exam.router_floor:.1%}")
    return found


def to_tables(report: FamilyReport) -> list[Table | Text]:
    """What a person reads: nodes, who stands in for an expert, matrix of accuracies and of bits per byte, what answers in each domain by level and by
    task, router, sample answers of each domain."""
    nodes = _table("promoted nodes", "node", "version", "accu-\nracy", "95 %", "loop\nrate", "never\nended", "bits\n/byte", "dis-\ntinct-2", "words",
                   "s/an-\nswer", gap=0)
    for name, node in report.nodes.items():
        card, interval = node.scorecard, node.scorecard.interval()
        nodes.add_row(name, node.version, _percent(card.accuracy), f"{interval[0]:.0%}-{interval[1]:.0%}" if interval else "", _percent(card.loop_rate),
                      _percent(card.never_ended), f"{card.mean_bits_per_byte:.3f}", f"{sum(card.distinct_2.values()) / len(card.distinct_2):.2f}",
                      f"{sum(card.mean_words.values()) / len(card.mean_words):.1f}" if card.mean_words else "-", f"{card.seconds_per_answer:.3f}")
    stand_ins = [Text(f"{domain}: no version is promoted; answered by {node}") for domain, node in report.stand_ins.items()]
    tables: list[Table | Text] = [nodes, *stand_ins, *_mean(report)]
    domains = list(report.experts)
    accuracy, bits = _table("accuracy by domain, the same tasks in a column", "node", *domains), _table("bits per byte by domain", "node", *domains)
    compared = report.accuracies
    for name, row in report.matrix.items():
        accuracy.add_row(name, *(_percent(compared[name][domain]) for domain in domains))
        bits.add_row(name, *(f"{row[domain].mean_bits_per_byte:.3f}" for domain in domains))
    tables += [accuracy, bits, _by_level(report), _by_task(report)]
    if report.router:
        tables.append(Text(f"router {report.router['version']}: accuracy {report.router['accuracy']:.1%} on {report.router['n']} exam prompts"))
    oracle = report.router.get("oracle")
    if oracle:
        tables.append(Text(f"answers through the router {oracle['routed']:.1%}, through the best node of each prompt {oracle['oracle']:.1%}: regret "
                           f"{oracle['regret']:.3f}, of which {oracle['routing_regret']:.3f} by routing; "
                           f"through {oracle['best_single']} alone {oracle['best_single_grade']:.1%}; {oracle['n']} prompts"))
    tables += [Text(f"\n[{_who(report, sample.domain)}] {sample.prompt[-300:]}\n  expected: {sample.expected[:300]}\n  answered: {sample.answer[:300]}"
                    + ("" if sample.score is None else f"   ({sample.score:.0%})"))
               for card in report.cards.values() for sample in card.samples]
    return tables


def _who(report: FamilyReport, domain: str) -> str:
    return f"{domain}, answered by {report.stand_ins[domain]}" if domain in report.stand_ins else domain


def _table(title: str, name: str, *figures: str, gap: int = 1) -> Table:
    """A table that a console of 80 columns shows whole, where one with lines would have names and numbers cut. gap: blanks between columns, beside one."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(name, no_wrap=True)
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    return table


def _mean(report: FamilyReport) -> list[Text]:
    if report.mean_accuracy is None:
        return []
    left_out = [f"{domain}: nothing {'graded' if domain in report.answering else 'answers'}" for domain in report.experts if domain not in report.counted]
    whose = "the experts and what answers in their place" if report.stand_ins else "the experts"
    return [Text(f"mean accuracy of {whose} {report.mean_accuracy:.1%}" + (
        f", of {len(report.counted)} of {len(report.experts)} alone ({'; '.join(left_out)})" if left_out else ""))]


def _by_level(report: FamilyReport) -> Table:
    """Of tasks of the curriculum alone: records have no levels."""
    table = _table("experts by level", "level", "graded", "accuracy", "95 %")
    for domain, card in report.cards.items():
        for level, found in card.level_scores(domain).items():
            low, high = wilson(sum(found), n=len(found))
            table.add_row(f"{domain}/{level}", str(len(found)), _percent(sum(found) / len(found)), f"{low:.0%}-{high:.0%}")
    return table


def _by_task(report: FamilyReport) -> Table:
    table = _table("experts by task", "task", "graded", "accuracy", "95 %", "exact\nmatch", "one answer\nto all")
    for domain, card in report.cards.items():
        scores: dict[str, list[float]] = defaultdict(list)
        exact = card.exact_match
        for outcome in card.outcomes:
            if outcome.score is not None:
                scores[f"{domain}/{outcome.task}"].append(outcome.score)
        for task, found in sorted(scores.items()):
            low, high = wilson(sum(found), n=len(found))
            table.add_row(Text(task), str(len(found)), _percent(sum(found) / len(found)), f"{low:.0%}-{high:.0%}",
                          _percent(exact[task]) if task in exact else "", _percent(report.constant.get(task)))
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
