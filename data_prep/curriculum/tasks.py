"""How a curriculum is built: tasks that draw items, the side an instance lies on, and the drawing of records and exams.

Knows no domain. An instance (operands, entities, rule set, composition, fact x phrasing) lies on one of three sides, training,
validation or exam, by the hash of its key, so no two share one. Seeded by text, so the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from data_prep.records import Record

EXAM_LEVELS = (1, 2, 3)
EXAM_SHARE = 10
VALIDATION_SHARE = 18  # of what the exam leaves
_TRIES = 2000
_NEW_TRIES = 300  # of an exam, for an instance that it hasn't asked

Side = Literal["train", "validation", "exam"]


@dataclass(frozen=True, slots=True)
class Item:
    """One drawn question. instance: what makes it this question, whatever its wording. facts: what the grader needs.

    shown: instances of other questions that it tells or works out on its way; training shows none of the other sides. A task of few instances
    names none, or its training would stop before the first that is held out.
    drill: a question that others are made of, too small to be held out: training only.
    """

    prompt: str
    response: str
    instance: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    drill: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of question. levels: level -> weight in that level. drill: too few instances to hold any out, so training only."""

    name: str
    levels: Mapping[int, float]
    make: Callable[[Random, int], Item]
    drill: bool = False


@dataclass(frozen=True, slots=True)
class Curriculum:
    """The tasks of a domain and the grader of its answers: grade(facts, text)."""

    domain: str
    tasks: tuple[Task, ...]
    grade: Callable[[Mapping[str, Any], str], bool]

    def levels(self) -> tuple[int, ...]:
        """Levels that have a task, lowest first."""
        return tuple(sorted({level for task in self.tasks for level in task.levels}))


def side_of(instance: str) -> Side:
    """Whom an instance belongs to, by the SHA-256 of its key: one in ten to exams, one in twenty to validation."""
    rest, exam = divmod(int.from_bytes(hashlib.sha256(instance.encode()).digest()[:8], "big"), EXAM_SHARE)
    if exam == 0:
        return "exam"
    return "validation" if rest % VALIDATION_SHARE == 0 else "train"


def fits(instance: str, shown: Iterable[str]) -> bool:
    """Whether some side may have an instance that shows these: training only where all of them are its own."""
    return side_of(instance) != "train" or all(side_of(other) == "train" for other in shown)


def draw_records(curriculum: Curriculum, *, count: int, levels: Sequence[int], seed: int, side: Literal["train", "validation"]) -> Iterator[Record]:
    """count records of a side, the levels in turn; drills are for training alone. Raises ValueError for a level without a task or a negative count."""
    _check_levels(curriculum, levels)
    if count < 0:
        raise ValueError(f"count = {count}; give the number of records wanted, 0 or more")
    rng = Random(f"{curriculum.domain}/{seed}")
    wanted = sorted(set(levels))
    choices = {level: [task for task in curriculum.tasks if level in task.levels and (side == "train" or not task.drill)] for level in wanted}
    for number in range(count):
        level = wanted[number % len(wanted)]
        task = rng.choices(choices[level], weights=[task.levels[level] for task in choices[level]])[0]
        item = _draw(task, rng, level, side=side)
        yield _record(curriculum, task, item, level=level, where=f"curriculum/{curriculum.domain}:{seed}:{number + 1}", exam=False)


def draw_exam(curriculum: Curriculum, *, count: int, levels: Sequence[int] = EXAM_LEVELS) -> list[Record]:
    """count exam records, the levels in turn and within a level its tasks in turn by weight; no prompt twice. Always the same.

    A task that has asked all its instances asks them again, in other words.
    """
    _check_levels(curriculum, levels)
    rng = Random(f"{curriculum.domain}/exam")
    turns = {level: _turns(curriculum, level) for level in levels}
    records: list[Record] = []
    prompts, asked, rounds = set[str](), Counter[str](), Counter[tuple[str, int]]()
    while len(records) < count:
        level = levels[len(records) % len(levels)]
        task = next(turns[level])
        often = {instance for instance, times in asked.items() if times > rounds[task.name, level]}
        item = _find(task, rng, level, side="exam", tries=_NEW_TRIES, prompts=prompts, instances=often)
        if item is None:
            rounds[task.name, level] += 1
            item = _draw(task, rng, level, side="exam", prompts=prompts)
        prompts.add(item.prompt)
        asked[item.instance] += 1
        records.append(_record(curriculum, task, item, level=level, where=f"curriculum/{curriculum.domain}:exam:{len(records) + 1}", exam=True))
    return records


def _turns(curriculum: Curriculum, level: int) -> Iterator[Task]:
    """Tasks of a level for ever, each as often as its weight says, spread evenly."""
    tasks = [task for task in curriculum.tasks if level in task.levels and not task.drill]
    due = [0.0] * len(tasks)
    while True:
        due = [have + task.levels[level] for have, task in zip(due, tasks, strict=True)]
        first = max(range(len(tasks)), key=due.__getitem__)
        due[first] -= sum(task.levels[level] for task in tasks)
        yield tasks[first]


def _draw(task: Task, rng: Random, level: int, *, side: Side, prompts: Collection[str] = ()) -> Item:
    item = _find(task, rng, level, side=side, tries=_TRIES, prompts=prompts)
    if item is not None:
        return item
    raise RuntimeError(f"task {task.name!r} gave no new {side} item at level {level} in {_TRIES} draws; give it more instances or wordings, or ask for fewer")


def _find(task: Task, rng: Random, level: int, *, side: Side, tries: int, prompts: Collection[str] = (), instances: Collection[str] = ()) -> Item | None:
    """An item of a side with none of these prompts and instances, or None where so many tries drew none."""
    for _ in range(tries):
        item = task.make(rng, level)
        if _belongs(item, side, drill=task.drill) and item.prompt not in prompts and item.instance not in instances:
            return item
    return None


def _belongs(item: Item, side: Side, *, drill: bool) -> bool:
    if drill or item.drill:
        return side == "train"
    return side_of(item.instance) == side and fits(item.instance, item.shown)


def _record(curriculum: Curriculum, task: Task, item: Item, *, level: int, where: str, exam: bool) -> Record:
    meta = {"task": task.name, "level": level, "instance": item.instance, **item.facts}
    return Record(domain=curriculum.domain, prompt=item.prompt, response=item.response, source=f"curriculum/{curriculum.domain}",
                  meta=meta, where=where, exam_only=exam)


def _check_levels(curriculum: Curriculum, levels: Sequence[int]) -> None:
    known = curriculum.levels()
    missing = [level for level in levels if level not in known]
    if missing or not levels:
        raise ValueError(f"curriculum {curriculum.domain!r} has no level {missing or 'given'}; give some of {list(known)}")
