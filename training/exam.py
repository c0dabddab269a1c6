"""Examine a model by letting it answer: greedy answers to held-out tasks, graded, plus bits per byte on held-out rows.

Chooses the rows deterministically and stratified over level and source. Does not decide about promotion (promote.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

from data_prep.records import Example, Message, Split
from experts.expert import Answer, LogLikelihood
from experts.repetition import rule_for
from experts.tokenizer import Tokenizer, answer_ids
from settings import DecodingSettings, ExamSettings
from training.graders import EDITION, Grade, grade
from training.scorecard import Outcome, Sample, Scorecard, distinct_n, habitual, loops, mean_words

SAMPLES_A_DOMAIN = 3
CIRCLE_ROWS = 40  # held-out prompts that are answered to see whether a model goes in circles
CIRCLES_MAX = 0.025  # share of them: two of 40 are a habit


class ExamSource(Protocol):
    """Where exam and validation rows come from; data_prep.corpus.Corpus is one."""

    def examples(self, domain: str, split: Split) -> list[Example]:
        """Rows of one domain and split."""
        ...


class Examinee(Protocol):
    """What can be examined; experts.expert.Expert is one."""

    def generate(self, conversations: Sequence[Sequence[Message]], *, max_new_tokens: int, batch_rows: int,
                 repetition: DecodingSettings | None) -> list[Answer]:
        """Greedy answers."""
        ...

    def log_likelihood(self, pairs: Sequence[tuple[Sequence[Message], str]], *, batch_rows: int) -> list[LogLikelihood]:
        """Cost of given answers."""
        ...


class Exam:
    """Fixed rows of some domains. Two exams with the same fingerprint ask the same questions in the same order, and grade the answers by the same."""

    def __init__(self, tasks: Mapping[str, Sequence[Example]], held_out: Mapping[str, Sequence[Example]]) -> None:
        """tasks: questions to answer, held_out: rows for bits per byte, both a domain. Raises ValueError for a domain without rows."""
        for domain in held_out:
            if not tasks.get(domain) or not held_out[domain]:
                raise ValueError(f"exam of {domain!r}: {len(tasks.get(domain, ()))} tasks and {len(held_out[domain])} held-out rows; "
                                 "give the domain more records, or raise data.exam_share and data.validation_share")
        self.tasks = {domain: list(rows) for domain, rows in tasks.items()}
        self.held_out = {domain: list(rows) for domain, rows in held_out.items()}
        # An answer is graded by source and meta; a held-out row's cost depends on what its key is made of alone.
        asked = [[domain, [[row.key, row.source, dict(row.meta)] for row in rows]] for domain, rows in self.tasks.items()]
        read = [[domain, [row.key for row in rows]] for domain, rows in self.held_out.items()]
        self.fingerprint = hashlib.sha256(json.dumps([asked, read], sort_keys=True, default=str).encode()).hexdigest()[:16]

    @classmethod
    def of(cls, source: ExamSource, domains: Sequence[str], *, tasks: int, bits_rows: int) -> Exam:
        """The first rows of a domain in an order fixed by content; at most `tasks` questions and `bits_rows` rows a domain."""
        return cls({domain: stratified(source.examples(domain, "exam"), count=tasks) for domain in domains},
                   {domain: stratified(source.examples(domain, "validation"), count=bits_rows) for domain in domains})

    def sitting(self, settings: ExamSettings, decoding: DecodingSettings) -> str:
        """What a scorecard of this exam is comparable by: its rows and what grades them, the longest answer, how answers are written, the graders' edition."""
        return "-".join([self.fingerprint, str(settings.max_new_tokens), *map(str, decoding.model_dump().values()), str(EDITION)])

    def restricted(self, domain: str) -> Exam:
        """The part of this exam that asks one domain."""
        return Exam({domain: self.tasks[domain]}, {domain: self.held_out[domain]})


def stratified(rows: Sequence[Example], *, count: int) -> list[Example]:
    """At most count rows, taken in turn from every (source, level), within each by content key."""
    groups: dict[tuple[str, int], list[Example]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.key):
        groups[row.source, level_of(row) or 0].append(row)
    taken: list[Example] = []
    depth = 0
    ordered = [groups[name] for name in sorted(groups)]
    while len(taken) < count and any(len(group) > depth for group in ordered):
        taken += [group[depth] for group in ordered if len(group) > depth]
        depth += 1
    return taken[:count]


def goes_in_circles(expert: Examinee, exam: Exam, *, settings: ExamSettings) -> bool:
    """Whether a model's plain answers to held-out prompts, none of them a task, hold loops more often than a user should see."""
    share = -(-CIRCLE_ROWS // len(exam.held_out))
    rows = [row for held_out in exam.held_out.values() for row in held_out[:share]]
    answers = expert.generate([row.messages for row in rows], max_new_tokens=settings.max_new_tokens, batch_rows=settings.batch_rows, repetition=None)
    return habitual([loops(answer.token_ids) for answer in answers], ceiling=CIRCLES_MAX)


def examine(expert: Examinee, exam: Exam, *, settings: ExamSettings, decoding: DecodingSettings, circles: bool) -> Scorecard:
    """Let a model sit an exam, writing as the gateway would. circles: see goes_in_circles and the version's card.

    Greedy, so the same model gives the same scorecard (but for seconds)."""
    rows = [(domain, row) for domain, domain_rows in exam.tasks.items() for row in domain_rows]
    started = time.perf_counter()
    answers = expert.generate([row.messages for _, row in rows], max_new_tokens=settings.max_new_tokens, batch_rows=settings.batch_rows,
                              repetition=rule_for(decoding, circles=circles))
    seconds = (time.perf_counter() - started) / len(rows)
    outcomes = tuple(_outcome(domain, row, answer) for (domain, row), answer in zip(rows, answers, strict=True))
    texts: dict[str, list[str]] = defaultdict(list)
    for (domain, _), answer in zip(rows, answers, strict=True):
        texts[domain].append(answer.text)
    return Scorecard(
        exam=exam.sitting(settings, decoding), outcomes=outcomes, seconds_per_answer=seconds,
        bits_per_byte={domain: bits_per_byte(expert, held_out, settings=settings) for domain, held_out in exam.held_out.items()},
        distinct_2={domain: distinct_n(texts[domain]) for domain in exam.tasks},
        mean_words={domain: mean_words(texts[domain]) for domain in exam.tasks},
        samples=tuple(_samples([(row, answer, outcome) for (_, row), answer, outcome in zip(rows, answers, outcomes, strict=True)])))


def bits_per_byte(expert: Examinee, rows: Sequence[Example], *, settings: ExamSettings) -> float:
    """Cost of the true responses, end token included, in bits a UTF-8 byte of response: comparable across tokenizers."""
    costs = expert.log_likelihood([(row.messages, row.response) for row in rows], batch_rows=min(32, settings.batch_rows))
    return sum(cost.nats for cost in costs) / math.log(2) / sum(cost.bytes for cost in costs)


def chance_bits_per_byte(tokenizer: Tokenizer, exam: Exam) -> float:
    """Bits per byte of a model that gives every token of the vocabulary the same probability, mean over domains."""
    shares = []
    for rows in exam.held_out.values():
        answers = sum(len(answer_ids(tokenizer, row.response)) for row in rows)
        shares.append(answers * math.log2(len(tokenizer)) / sum(len(row.response.encode()) for row in rows))
    return sum(shares) / len(shares)


def task_of(row: Example) -> str:
    """Name of the task that a row asks: its meta's, the curriculum's or a user's, where that is a name that can be written down; else the row's source."""
    task = row.meta.get("task")
    return task if isinstance(task, str) and task.strip() and task.encode(errors="ignore").decode() == task else row.source


def level_of(row: Example) -> int | None:
    """Level of a row's task; None without one, and for a user's that is no whole number."""
    level = row.meta.get("level")
    return level if isinstance(level, int) and not isinstance(level, bool) else None


def _outcome(domain: str, row: Example, answer: Answer) -> Outcome:
    """An answer that was cut never ended, unless the true response isn't shorter: then it may just not have come to its end.

    In a conversation a reply that loops or never ends is wrong, whatever it holds; elsewhere the result counts, and loops are counted beside it.
    """
    cut = answer.finish_reason == "length"
    endless = cut and len(row.response.encode()) < len(answer.text.encode())
    looped = endless or loops(answer.token_ids)
    graded = grade(row, answer.text)
    if graded is not None and looped and row.source == "curriculum/conversation":
        graded = Grade(0.0, correct=False)
    level = level_of(row) if row.source.startswith("curriculum/") else None  # elsewhere a user's own, a year maybe
    return Outcome(key=row.key[:16], domain=domain, task=task_of(row), level=level, score=None if graded is None else float(graded.score),
                   looped=looped, correct=None if graded is None else graded.correct, never_ended=cut)


def _samples(answered: Sequence[tuple[Example, Answer, Outcome]]) -> list[Sample]:
    by_domain: dict[str, list[Sample]] = defaultdict(list)
    for row, answer, outcome in answered:
        by_domain[outcome.domain].append(Sample(outcome.domain, row.prompt, row.response, answer.text, outcome.score))
    return [sample for samples in by_domain.values() for sample in _one_wrong_if_any(samples)]


def _one_wrong_if_any(samples: Sequence[Sample]) -> list[Sample]:
    """The first of a domain, right ones or ungraded, and the first wrong one; more wrong ones where there are too few others."""
    wrong = [sample for sample in samples if sample.score is not None and sample.score < 1]
    others = [sample for sample in samples if sample.score is None or sample.score >= 1]
    return [*others[:SAMPLES_A_DOMAIN - len(wrong[:1])], *wrong][:SAMPLES_A_DOMAIN]
