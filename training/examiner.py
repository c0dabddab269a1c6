"""Sits a candidate and what it would replace on the same exam, and puts the two scorecards before promote.decide.

Remembers the results of incumbents on disk, so that a parent is examined once an exam. Does not promote.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep import curriculum
from data_prep.clean import clean
from data_prep.corpus import Corpus
from data_prep.records import Example
from experts.device import Device
from experts.durable import write_json
from experts.expert import Expert
from settings import Settings
from training.exam import Exam, Examinee, ExamSource, bits_per_byte, chance_bits_per_byte, examine, goes_in_circles, stratified
from training.promote import FEWEST_TASKS, Decision, decide, level_gate, mastered_levels
from training.run_folder import Run
from training.scorecard import Scorecard, habitual

log = logging.getLogger(__name__)

FIRST_TASKS = 10
FIRST_BITS_ROWS = 20
FIRST_NEW_TOKENS = 64
LEVEL_TASKS = 40  # of a level that an exam leaves out: enough for promote.FEWEST_TASKS, answered in seconds
LEFT_ROWS = 30  # held-out rows a domain that an exam must leave, so that a choice among four points can rest on them


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision with the scorecard it rests on. circles: whether the candidate's plain answers go in circles. mastered: curriculum levels ("math/1") that
    it or a version before it had at loop.level_floor or above.

    dearer: whether held-out answers cost it more than what answered before (bits per byte, beyond promote.bits_tolerance).
    """

    decision: Decision
    scorecard: Scorecard
    circles: bool
    against: str | None
    dearer: bool = False
    mastered: tuple[str, ...] = ()

    @property
    def card(self) -> Mapping[str, Any]:
        """What a version's card keeps of the exam."""
        return {"scorecard": self.scorecard.to_json(), "decision": self.decision.reason, "against": self.against, "circles": self.circles,
                "mastered": list(self.mastered)}

    @property
    def summary(self) -> Mapping[str, Any]:
        """The scorecard without outcomes and samples, for the journal."""
        return {key: value for key, value in self.scorecard.to_json().items() if key not in {"outcomes", "samples"}}


class Examiner:
    """Examines candidates of one run."""

    def __init__(self, run: Run, *, device: Device) -> None:
        """device: where candidates and incumbents are run."""
        self._run, self._device = run, device
        self._results = run.folder / "work" / "exams"
        self.first_refused_step = -1

    def judge(self, node: str, candidate: Expert, corpus: Corpus) -> Verdict:
        """Examine a candidate for a node against the node's served version, or, for its first, against the nearest served ancestor's."""
        settings = self._run.settings
        exam = self._exam(node, corpus)
        scorecard, circles = sit(candidate, exam, settings=settings)
        incumbent = self.incumbent(node)
        served = self._examine_served(incumbent[0], incumbent[1], exam) if incumbent else None
        earlier, floor = self._mastered(node, incumbent), settings.loop.level_floor
        decision = decide(scorecard, served, settings=settings.promote, seed=settings.run.seed, level_floor=floor, mastered=earlier,
                          interim=self._is_early(node, incumbent), chance_bits_per_byte=None if served else chance_bits_per_byte(candidate.tokenizer, exam))
        if decision.promote and incumbent is not None and incumbent[0] == node and node not in corpus.of_records:
            lost = self._lost_level(node, candidate, incumbent, asked=scorecard, circles=circles, words=decision.reason.removeprefix("promoted: "))
            decision = lost or decision
        dearer = served is not None and scorecard.mean_bits_per_byte > (1 + settings.promote.bits_tolerance) * served.mean_bits_per_byte
        mastered = earlier.union(*(mastered_levels(card, floor=floor) for card in (scorecard, served) if card is not None))
        return Verdict(decision, scorecard, circles, against="/".join(incumbent) if incumbent else None, dearer=dearer, mastered=tuple(sorted(mastered)))

    def prefers(self, one: Verdict, other: Verdict) -> bool:
        """Whether the first of two candidates for a node, both examined, takes the other's place by the rules that promote."""
        settings = self._run.settings
        return decide(one.scorecard, other.scorecard, settings=settings.promote, seed=settings.run.seed, level_floor=settings.loop.level_floor,
                      mastered=other.mastered).promote

    def judge_first(self, root: str, candidate: Expert, corpus: Corpus, *, step: int) -> Verdict:
        """A short look at the root's early version: it must only beat guessing. A refusal waits until twice the steps."""
        settings = self._run.settings
        exam = Exam.of(corpus, self._run.tree.node(root).domains, tasks=FIRST_TASKS, bits_rows=FIRST_BITS_ROWS)
        short = settings.exam.model_copy(update={"max_new_tokens": min(FIRST_NEW_TOKENS, settings.exam.max_new_tokens)})
        circles = goes_in_circles(candidate, exam, settings=short)
        scorecard = examine(candidate, exam, settings=short, decoding=settings.decoding, circles=circles)
        decision = decide(scorecard, None, settings=settings.promote, seed=settings.run.seed,
                          chance_bits_per_byte=chance_bits_per_byte(candidate.tokenizer, exam))
        if not decision.promote:
            self.first_refused_step = 2 * step
        return Verdict(decision, scorecard, circles, against=None)

    def level_scores(self, domain: str, version: Path, *, level: int) -> list[float]:
        """Scores of an expert's version on held-out tasks of one level of the curriculum, such as exams don't ask (training/levels.py)."""
        exam = self._level_exam(domain, (level,))
        return [] if exam is None else self._examine_served(domain, version.name, exam).level_scores(domain).get(level, [])

    def _level_exam(self, domain: str, levels: Sequence[int]) -> Exam | None:
        """LEVEL_TASKS held-out tasks of each of these levels of the curriculum but those that cleaning leaves out; None where none is left."""
        records = curriculum.make_exam(domain, count=LEVEL_TASKS * len(levels), levels=levels) if levels else []
        rows = clean(records, settings=self._run.settings.data, loosely=False).examples
        return Exam({domain: rows}, {domain: rows[:1]}) if rows else None  # nobody asks for its bits per byte

    def _lost_level(self, domain: str, candidate: Expert, incumbent: tuple[str, str], *, asked: Scorecard, circles: bool, words: str) -> Decision | None:
        """The refusal of a candidate that clearly loses a level which its domain was raised from, of those that its exam (asked) has too little of, as of
        level 4; None where it loses none. words: what the exam came to."""
        settings, asked_scores = self._run.settings, asked.level_scores(domain)
        passed = {int(event.facts["level"]) - 1 for event in self._run.journal.events(kind="level_raised", node=domain)}
        levels = sorted(level for level in passed if len(asked_scores.get(level, ())) < FEWEST_TASKS)
        exam = self._level_exam(domain, levels)
        if exam is None:
            return None
        card = examine(candidate, exam, settings=settings.exam, decoding=settings.decoding, circles=circles)
        return level_gate(card, self._examine_served(*incumbent, exam), settings=settings.promote, floor=settings.loop.level_floor, seed=settings.run.seed,
                          mastered={f"{domain}/{level}" for level in levels}, words=words)

    def held_out_cost(self, node: str, candidate: Expert, corpus: Corpus) -> Callable[[], float]:
        """A function: what held-out rows cost the candidate as it stands, bits per byte in the mean over the node's domains (left_over says which rows)."""
        bits_rows = self._run.settings.exam.bits_rows
        held_out = left_over(self._exam(node, corpus), corpus, bits_rows=bits_rows)
        return lambda: sum(bits_per_byte(candidate, rows, settings=self._run.settings.exam) for rows in held_out.values()) / len(held_out)

    def _exam(self, node: str, corpus: Corpus) -> Exam:
        settings, place = self._run.settings.exam, self._run.tree.node(node)
        return Exam.of(corpus, place.domains, tasks=settings.tasks if place.kind == "expert" else settings.root_tasks, bits_rows=settings.bits_rows)

    def forget(self, versions: Iterable[tuple[str, str]]) -> None:
        """Remove what is remembered of versions, (node, version) each, that were pruned."""
        for node, version in versions:
            for file in self._results.glob(f"{node}-{version}-*.json"):
                file.unlink(missing_ok=True)

    def _is_early(self, node: str, incumbent: tuple[str, str] | None) -> bool:
        """Whether the incumbent is this node's own early version, put up in the middle of its first training (judge_first)."""
        return incumbent is not None and incumbent[0] == node and "step" in (self._run.registry.card(*incumbent).get("training") or {})

    def incumbent(self, node: str) -> tuple[str, str] | None:
        """The node and version whose model answers for this node's domains now."""
        place = self._run.tree.answering(node, self._run.registry.pointer().nodes)
        folder = self._run.registry.served(place) if place is not None else None
        return (place, folder.name) if place is not None and folder is not None else None

    def _mastered(self, node: str, incumbent: tuple[str, str] | None) -> set[str]:
        """Levels that the card of a node's served version says it or one before it mastered; an older card says so of its own exam alone. Not those
        of a parent's card: its exam asks few tasks a level, and what it masters of the node's own exam is in its scorecard there."""
        if incumbent is None or incumbent[0] != node:
            return set()
        card = self._run.registry.card(*incumbent)
        if "mastered" in card:
            return set(card["mastered"])
        return mastered_levels(Scorecard.from_json(card["scorecard"]), floor=self._run.settings.loop.level_floor)

    def _examine_served(self, node: str, version: str, exam: Exam) -> Scorecard:
        card = self._run.registry.card(node, version)
        sitting = exam.sitting(self._run.settings.exam, self._run.settings.decoding)
        kept = Scorecard.of_card(card, sitting=sitting)
        if kept is not None:
            return kept
        file = self._results / f"{node}-{version}-{sitting}.json"
        remembered = _remembered(file)
        if remembered is not None:
            return remembered
        log.info("examining %s %s: the exam is another than its card's", node, version)
        expert = Expert.load(Path(self._run.registry.path(node, version)), device=self._device)
        scorecard = examine(expert, exam, settings=self._run.settings.exam, decoding=self._run.settings.decoding, circles=card.get("circles", False))
        self._results.mkdir(parents=True, exist_ok=True)
        write_json(file, scorecard.to_json())
        return scorecard


def _remembered(file: Path) -> Scorecard | None:
    """Results that were kept. A file that is damaged is removed: the version sits the exam again."""
    if not file.exists():
        return None
    try:
        return Scorecard.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged (%s: %s), and removed", file, type(error).__name__, error)
        file.unlink()
        return None


def sit(candidate: Examinee, exam: Exam, *, settings: Settings) -> tuple[Scorecard, bool]:
    """A candidate's scorecard, and whether it goes in circles, by its plain answers to held-out prompts (exam.goes_in_circles).

    Those are few, and often easier than the exam's. Where the exam itself shows more loops than promote.loop_rate_max lets through (and
    more than one), the candidate sits it again under DRY, and goes in circles where that loops less: what is judged is how the gateway would write.
    """
    def under(*, circles: bool) -> Scorecard:
        return examine(candidate, exam, settings=settings.exam, decoding=settings.decoding, circles=circles)

    circles = goes_in_circles(candidate, exam, settings=settings.exam)
    scorecard = under(circles=circles)
    loops = habitual([outcome.looped for outcome in scorecard.outcomes], ceiling=settings.promote.loop_rate_max)
    if circles or settings.decoding.dry != "auto" or not loops:
        return scorecard, circles
    again = under(circles=True)
    return (again, True) if again.loop_rate < scorecard.loop_rate else (scorecard, False)


def left_over(exam: Exam, source: ExamSource, *, bits_rows: int) -> Mapping[str, list[Example]]:
    """Held-out rows of an exam's domains that the exam doesn't use, at most bits_rows a domain: who chooses by them may be judged by the exam.

    The exam's own held-out rows where some domain has fewer than LEFT_ROWS others; bits per byte of what was chosen by those come out a little too good.
    """
    used = {row.key for rows in exam.held_out.values() for row in rows}
    others = {domain: [row for row in source.examples(domain, "validation") if row.key not in used] for domain in exam.held_out}
    if any(len(rows) < LEFT_ROWS for rows in others.values()):
        return exam.held_out
    return {domain: stratified(rows, count=bits_rows) for domain, rows in others.items()}
