"""What became of the data: counts kept, dropped by reason with the first places, tokens, packing, overlap of train and exam.

Numbers and tables. Does not compute them from data (intake.py, corpus.py and overlap.py do).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from data_prep.sources import Rejection

PLACES_SHOWN = 5  # of each reason; the count says the rest


@dataclass(frozen=True, slots=True)
class Drops:
    """What was left out for one reason, and where first."""

    count: int
    first: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Intake:
    """One domain on its way from records to examples. own: examples that came from files; own_drops: what was left out of them; cycle: of
    the curriculum, None without; spared: training rows that stayed although these reasons hold for them, since they are too many."""

    read: int
    own: int
    kept: Mapping[str, int]
    sources: Mapping[str, int]
    drops: Mapping[str, Drops]
    text_bytes: Mapping[str, int]
    cycle: int | None = None
    own_drops: Mapping[str, Drops] = field(default_factory=dict)
    spared: Mapping[str, Drops] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Intake:
        """The inverse of to_json."""
        drops = {name: {reason: Drops(found["count"], tuple(found["first"])) for reason, found in facts.get(name, {}).items()}
                 for name in ("drops", "own_drops", "spared")}
        return cls(**{**facts, **drops})


@dataclass(frozen=True, slots=True)
class Packing:
    """Token counts of one domain. efficiency: share of the places of training rows that hold a token."""

    tokens: Mapping[str, int]
    answer_tokens: Mapping[str, int]
    cut_prompts: int
    cut_responses: int
    cut_tokens: int
    efficiency: float
    bytes_per_token: float


@dataclass(frozen=True, slots=True)
class Overlap:
    """Exam rows (of real records) with a near-duplicate in training; they are left out of the exam. keys: of those rows;
    pairs: (exam prompt, training prompt, similarity) of the first few; refused: too many for an exam at all."""

    exam_rows: int
    overlapping: int
    share: float
    refused: bool
    keys: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str, float], ...] = ()

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Overlap:
        """The inverse of dataclasses.asdict after a way through JSON."""
        return cls(**{**facts, "keys": tuple(facts["keys"]), "pairs": tuple((asked, trained, alike) for asked, trained, alike in facts["pairs"])})


@dataclass(frozen=True, slots=True)
class DomainReport:
    """All that is known of one domain's data."""

    domain: str
    intake: Intake
    packing: Packing
    overlap: Overlap | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All domains, and notes on the folder."""

    domains: tuple[DomainReport, ...]
    notes: tuple[str, ...] = ()
    tokenizer: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data, domains by name."""
        return {"domains": {entry.domain: {**asdict(entry.intake), **asdict(entry.packing), "overlap": asdict(entry.overlap) if entry.overlap else None}
                            for entry in self.domains},
                "notes": list(self.notes), "tokenizer": dict(self.tokenizer)}

    def of_files(self) -> list[str]:
        """What became of the user's own files, for a log: examples of each domain, what was left out with its first place, notes. Empty without any."""
        return [*(line for entry in self.domains for line in _of_files(entry)), *self.notes]

    def tables(self) -> Group:
        """Everything as rich shows it."""
        drops = [self._drops_table()] if any(entry.intake.drops for entry in self.domains) else []
        notes = [*(line for entry in self.domains for line in _of_spared(entry)), *self.notes]
        return Group(self._kept_table(), self._tokens_table(), *drops, *(Text(f"note: {note}") for note in notes))

    def _kept_table(self) -> Table:
        table = _table("records", "domain", "read", "train", "valid.", "exam", "left out", "doubles", "overlap")
        for entry in self.domains:
            intake, overlap = entry.intake, entry.overlap
            doubles = intake.drops["duplicate"].count if "duplicate" in intake.drops else 0
            table.add_row(entry.domain, f"{intake.read:,}", *(f"{intake.kept[split]:,}" for split in ("train", "validation", "exam")),
                          f"{sum(drops.count for drops in intake.drops.values()):,}", f"{doubles:,}",
                          "-" if overlap is None else f"{overlap.share:.1%}" + (" refused" if overlap.refused else ""))
        return table

    def _tokens_table(self) -> Table:
        table = _table("tokens", "domain", "train", "of answers", "bytes/token", "packed", "cut")
        for entry in self.domains:
            packing, tokens = entry.packing, entry.packing.tokens["train"]
            table.add_row(entry.domain, f"{tokens:,}", f"{packing.answer_tokens['train'] / max(1, tokens):.1%}", f"{packing.bytes_per_token:.2f}",
                          f"{packing.efficiency:.1%}", f"{packing.cut_prompts + packing.cut_responses:,}")
        return table

    def _drops_table(self) -> Table:
        table = Table("domain", "dropped because", "count", "first", title="left out", title_justify="left")
        for entry in self.domains:
            for reason, drops in sorted(entry.intake.drops.items(), key=lambda item: -item[1].count):
                table.add_row(entry.domain, reason, f"{drops.count:,}", Text("\n".join(drops.first)))
        return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(first, title=title, title_justify="left")
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def count_drops(rejections: Iterable[Rejection]) -> dict[str, Drops]:
    """Rejections by reason, with the first places of each."""
    found: dict[str, list[Rejection]] = {}
    for rejection in rejections:
        found.setdefault(rejection.reason, []).append(rejection)
    return {reason: Drops(len(same), tuple(f"{rejection.where}: {rejection.detail}" for rejection in same[:PLACES_SHOWN])) for reason, same in found.items()}


def _of_files(entry: DomainReport) -> list[str]:
    kept = [f"{entry.domain}: {entry.intake.own:,} examples from files"] if entry.intake.own else []
    gone = [f"{entry.domain}: {found.count:,} left out, {reason} ({found.first[0]})" for reason, found in entry.intake.own_drops.items()]
    return [*kept, *gone, *_of_spared(entry)]


def _of_spared(entry: DomainReport) -> list[str]:
    said = {"near-duplicate of a held-out row": "are like held-out ones", "shows a held-out row's answer": "show the answers of held-out ones"}
    return [f"{entry.domain}: {found.count:,} training rows {said[reason]} and were kept: more than a fifth of the domain ({found.first[0]})"
            for reason, found in entry.intake.spared.items()]
