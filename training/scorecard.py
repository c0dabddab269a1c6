"""What an examination found: outcomes a task, and the figures a promotion and a table are made of.

Pure data and arithmetic. Does not run models (exam.py) and does not decide (promote.py).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answered task. level: of a task of the curriculum, None for others. score: 0..1, None where nobody grades free text. looped: repeated
    itself, or never ended though longer than the true response. correct: whether the answer counts as right (for short answers an exact match, and F1
    is the score); None for free text, and where an older card doesn't say. never_ended: cut at exam.max_new_tokens; None where an older card doesn't
    say."""

    key: str
    domain: str
    task: str
    level: int | None
    score: float | None
    looped: bool
    correct: bool | None = None
    never_ended: bool | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with the answer given, for people to read."""

    domain: str
    prompt: str
    expected: str
    answer: str
    score: float | None


@dataclass(frozen=True, slots=True)
class Scorecard:
    """Exam results of one model. bits_per_byte, distinct_2 and mean_words (an answer; empty on older cards) are by domain, seconds_per_answer is one
    number over all; exam says which rows, answer length and graders (Exam.sitting)."""

    exam: str
    outcomes: tuple[Outcome, ...]
    bits_per_byte: Mapping[str, float]
    distinct_2: Mapping[str, float]
    seconds_per_answer: float
    samples: tuple[Sample, ...] = ()
    mean_words: Mapping[str, float] = field(default_factory=dict)

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains examined, in order."""
        return tuple(self.bits_per_byte)

    @property
    def accuracy(self) -> float | None:
        """Mean over domains of the mean score of graded tasks; None when no task has a grader."""
        return self.accuracy_of(at_least=1)

    def accuracy_of(self, *, at_least: int) -> float | None:
        """The same over the domains with so many graded tasks; None when there is no such domain."""
        graded = Counter(outcome.domain for outcome in self.outcomes if outcome.score is not None)
        means = [value for domain in self.domains if graded[domain] >= at_least and (value := self.accuracy_in(domain)) is not None]
        return sum(means) / len(means) if means else None

    @property
    def loop_rate(self) -> float:
        """Share of answers that looped, over all tasks."""
        return sum(outcome.looped for outcome in self.outcomes) / len(self.outcomes) if self.outcomes else 0.0

    @property
    def never_ended(self) -> float | None:
        """Share of answers that were cut at the longest length, over all tasks that say so; None where none does, as on older cards."""
        known = [outcome.never_ended for outcome in self.outcomes if outcome.never_ended is not None]
        return sum(known) / len(known) if known else None

    @property
    def per_level(self) -> dict[str, float]:
        """Mean score a level of the curriculum ("domain/level"), without records, which have no levels."""
        return replace(self, outcomes=tuple(outcome for outcome in self.outcomes if outcome.level is not None)).by(
            lambda outcome: f"{outcome.domain}/{outcome.level}")

    @property
    def mean_bits_per_byte(self) -> float:
        """Mean over domains."""
        return sum(self.bits_per_byte.values()) / len(self.bits_per_byte)

    @property
    def exact_match(self) -> dict[str, float]:
        """Share of right answers a task ("domain/task"), where that isn't its mean score: short answers score F1, which counts words in part."""
        groups: dict[str, list[tuple[bool, float]]] = defaultdict(list)
        for outcome in self.outcomes:
            if outcome.score is not None and outcome.correct is not None:
                groups[f"{outcome.domain}/{outcome.task}"].append((outcome.correct, outcome.score))
        return {name: sum(correct for correct, _ in graded) / len(graded) for name, graded in sorted(groups.items())
                if any(correct != score for correct, score in graded)}

    def accuracy_in(self, domain: str) -> float | None:
        """Mean score of the graded tasks of one domain; None without any."""
        scores = [outcome.score for outcome in self.outcomes if outcome.domain == domain and outcome.score is not None]
        return sum(scores) / len(scores) if scores else None

    def level_scores(self, domain: str) -> dict[int, list[float]]:
        """Scores of the graded tasks a level of one domain's curriculum, lowest level first."""
        scores: dict[int, list[float]] = defaultdict(list)
        for outcome in self.outcomes:
            if outcome.domain == domain and outcome.level is not None and outcome.score is not None:
                scores[outcome.level].append(outcome.score)
        return dict(sorted(scores.items()))

    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the accuracy, None without graded tasks: of one domain Wilson's (Wilson 1927, JASA 22:209); of several, the domains'
        Wilson intervals put together for the mean over domains (MOVER: Zou & Donner 2008, Statistics in Medicine 27:1693), the accuracy within it."""
        scores: dict[str, list[float]] = defaultdict(list)
        for outcome in self.outcomes:
            if outcome.score is not None:
                scores[outcome.domain].append(outcome.score)
        if not scores:
            return None
        parts = [(sum(found) / len(found), wilson(sum(found), n=len(found))) for found in scores.values()]
        if len(parts) == 1:
            return parts[0][1]
        mean = sum(share for share, _ in parts) / len(parts)
        below = math.sqrt(sum((share - low) ** 2 for share, (low, _) in parts)) / len(parts)
        above = math.sqrt(sum((high - share) ** 2 for share, (_, high) in parts)) / len(parts)
        return mean - below, mean + above

    def by(self, group: Callable[[Outcome], str]) -> dict[str, float]:
        """Mean score of graded tasks a group, groups sorted by name."""
        groups: dict[str, list[float]] = defaultdict(list)
        for outcome in self.outcomes:
            if outcome.score is not None:
                groups[group(outcome)].append(outcome.score)
        return {name: sum(scores) / len(scores) for name, scores in sorted(groups.items())}

    def to_json(self) -> dict[str, Any]:
        """Plain data for card.json: the summary first, then every outcome."""
        interval = self.interval()
        return {"exam": self.exam, "accuracy": self.accuracy, "interval_95": list(interval) if interval else None,
                "loop_rate": self.loop_rate, "never_ended": self.never_ended, "mean_bits_per_byte": self.mean_bits_per_byte,
                "bits_per_byte": dict(self.bits_per_byte), "distinct_2": dict(self.distinct_2),
                "mean_words": dict(self.mean_words), "seconds_per_answer": self.seconds_per_answer,
                "per_domain": self.by(lambda outcome: outcome.domain),
                "per_level": self.per_level,
                "per_task": self.by(lambda outcome: f"{outcome.domain}/{outcome.task}"),
                "exact_match": self.exact_match,
                "samples": [asdict(sample) for sample in self.samples],
                "outcomes": [[o.key, o.domain, o.task, o.level, o.score, o.looped, o.correct, o.never_ended] for o in self.outcomes]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scorecard:
        """The inverse of to_json."""
        return cls(exam=data["exam"], outcomes=tuple(Outcome(*row) for row in data["outcomes"]), bits_per_byte=dict(data["bits_per_byte"]),
                   distinct_2=dict(data["distinct_2"]), seconds_per_answer=data["seconds_per_answer"],
                   samples=tuple(Sample(**sample) for sample in data["samples"]), mean_words=dict(data.get("mean_words", {})))

    @classmethod
    def of_card(cls, card: Mapping[str, Any], *, sitting: str) -> Scorecard | None:
        """The results that a version's card keeps, where they are of this sitting (Exam.sitting); else None."""
        return cls.from_json(card["scorecard"]) if card["scorecard"]["exam"] == sitting else None


def wilson(successes: float, *, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion, bounds in 0..1. n must be positive."""
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def loops(token_ids: Sequence[int], *, repeats: int = 4, shortest: int = 4, longest: int = 48) -> bool:
    """Whether some run of 4 to 48 tokens stands four times in a row ("is is is ..." does: its 4-grams repeat). 48 is the longest that can in 192 tokens,
    exam.max_new_tokens."""
    for period in range(shortest, min(longest, len(token_ids) // repeats) + 1):
        same = 0
        for here, before in zip(token_ids[period:], token_ids, strict=False):
            same = same + 1 if here == before else 0
            if same >= period * (repeats - 1):
                return True
    return False


def habitual(looped: Sequence[bool], *, ceiling: float) -> bool:
    """Whether a greater share than that of the answers looped, and more than one: of few answers one may be chance, whatever its share."""
    return sum(looped) > 1 and sum(looped) / len(looped) > ceiling


def mean_words(texts: Sequence[str]) -> float:
    """Words a text, parted by blanks; 0 when there are none."""
    return sum(len(text.split()) for text in texts) / len(texts) if texts else 0.0


def distinct_n(texts: Sequence[str], *, n: int = 2) -> float:
    """Distinct word n-grams over all word n-grams (Li et al. 2016, arXiv 1510.03055); 0 when there are none."""
    grams = [tuple(words[i:i + n]) for text in texts for words in [text.split()] for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
