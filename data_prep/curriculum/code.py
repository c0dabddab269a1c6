"""Small Python functions composed of list, string, number and dict operations, asked for in words, judged by running tests.

The composition (the order of operations) is the instance: one that an exam asks for was never part of training. The programs
run in data_prep.sandbox, never here; what the tests want comes from code_meanings.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from data_prep import sandbox
from data_prep.curriculum.code_everyday import EVERYDAY, FORMS, THIRD_PERSON, third_person
from data_prep.curriculum.code_meanings import MEANINGS
from data_prep.curriculum.code_operations import KINDS, Kind, Operation
from data_prep.curriculum.code_wording import ASK, JOIN, NAMES, OPENERS
from data_prep.curriculum.tasks import Curriculum, Item, Task
from data_prep.curriculum.wording import as_typed, fill, pick

_FENCE = re.compile(r"```(?:python|py)?\n(.*?)```", re.DOTALL)
TESTS = 4


def grade(facts: Mapping[str, Any], text: str) -> bool:
    """Whether the function in text passes facts["tests"] in the sandbox."""
    return sandbox.run(program_with_tests(text, facts["tests"])).outcome == "passed"


def program_with_tests(text: str, tests: list[str], *, setup: str = "") -> str:
    """The code in an answer (fenced or bare) followed by its tests."""
    fenced = _FENCE.search(text)
    return "\n".join([setup, fenced.group(1) if fenced else text, *tests, ""])



def _compose(kind: Kind, *, changes: int) -> Callable[[Random, int], Item]:
    def make(rng: Random, _level: int) -> Item:
        # One change returned as it stands is the drill's, which is trained on whole.
        results = [result for result in kind.results if changes > 1 or result is not kind.plain]
        while True:
            item = _item(rng, kind, [pick(rng, kind.changes) for _ in range(changes)], pick(rng, results))
            if not _constant(item):
                return item
    return make


def _constant(item: Item) -> bool:
    """Whether all tests want the same, as after keeping the positive and then the negative numbers."""
    return len({test.partition(" == ")[2] for test in item.facts["tests"]}) == 1


def _drill(rng: Random, _level: int) -> Item:
    """One operation alone."""
    kind = pick(rng, tuple(KINDS.values()))
    return _item(rng, kind, [], pick(rng, kind.results)) if rng.random() < 0.5 else _item(rng, kind, [pick(rng, kind.changes)], kind.plain)


def _everyday(rng: Random, _level: int) -> Item:
    """A function asked for in a few words."""
    wanted = pick(rng, EVERYDAY)
    ask = pick(rng, wanted.ask)
    prompt = fill(rng, THIRD_PERSON, asks=third_person(ask)) if rng.random() < 0.4 else fill(rng, FORMS, ask=ask)
    return Item(as_typed(rng, prompt), wanted.code, f"everyday {ask}", {"tests": [f"assert {wanted.check}"]})


def _item(rng: Random, kind: Kind, changes: list[Operation], result: Operation) -> Item:
    steps = [(operation, operation.number(rng)) for operation in (*changes, result)]
    wordings = [fill(rng, operation.wordings, k=number) for operation, number in steps]
    expressions = [operation.expression.replace("{k}", str(number)) for operation, number in steps]
    name, variable = pick(rng, NAMES), kind.variable
    asked = fill(rng, ASK if changes else OPENERS, name=name, takes=pick(rng, kind.takes), steps=pick(rng, JOIN).join(wordings[:-1]), result=wordings[-1])
    body = [f"    {variable} = {expression}" for expression in expressions[:-1]]
    response = "\n".join([f"def {name}({variable}):", *body, f"    return {expressions[-1]}"])
    key = f"{kind.name}: {' '.join(operation.name for operation, _ in steps)}"
    return Item(as_typed(rng, asked), response, key, {"tests": _tests(rng, kind, name, steps)})


def _tests(rng: Random, kind: Kind, name: str, steps: list[tuple[Operation, int]]) -> list[str]:
    """Assertions on drawn inputs that want different results where that can be had, so that a constant doesn't pass."""
    cases: list[tuple[Any, Any]] = []
    for _ in range(5 * TESTS):
        value = given = kind.draw(rng)
        for operation, number in steps:
            value = MEANINGS[kind.name][operation.name](value, number)
        if len(cases) < TESTS - 1 or any(wanted != value for _, wanted in cases):
            cases.append((given, value))
        if len(cases) == TESTS:
            break
    return [f"assert {name}({given!r}) == {wanted!r}" for given, wanted in cases]


_TASKS = tuple(Task(f"{kind.name}_{changes + 1}", {changes: weight}, _compose(kind, changes=changes))
               for changes in (1, 2, 3, 4, 5) for kind, weight in zip(KINDS.values(), (3.0, 2.0, 1.0, 1.0), strict=True))

CURRICULUM = Curriculum("code", (*_TASKS, Task("drill", {1: 2.0}, _drill, drill=True),
                                 Task("everyday", {1: 2.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}, _everyday, drill=True)), grade)
