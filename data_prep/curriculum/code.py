"""Small Python functions composed of list, string, number and dict operations, asked for in words, judged by running tests.

The composition (the order of operations) is the instance: one that an exam asks for is never trained, nor as the last lines of a longer program. The
programs run in data_prep.sandbox, never here; what the tests want comes from code_meanings.py.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import combinations
from random import Random
from typing import Any

from data_prep import sandbox
from data_prep.curriculum.code_everyday import EVERYDAY, FORMS, THIRD_PERSON, third_person
from data_prep.curriculum.code_meanings import MEANINGS, Meaning
from data_prep.curriculum.code_operations import KINDS, Kind, Operation
from data_prep.curriculum.code_wording import ASK, JOIN, NAMES, OPENERS
from data_prep.curriculum.tasks import Curriculum, Item, Task, fits
from data_prep.curriculum.wording import as_typed, fill, pick

_FENCE = re.compile(r"```([^\n`]*)\n(.*?)(?:```|\Z)", re.DOTALL)  # an answer that was cut doesn't close its last one
_FUTURE = re.compile(r"^from __future__ import (?:\([^)]*\)|.*)$", re.MULTILINE)
_DEFINES = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
TESTS = 4
TRIES = 30  # inputs looked at for the tests of a task
Program = list[tuple[Meaning, int]]


def grade(facts: Mapping[str, Any], text: str) -> bool:
    """Whether the function in text passes facts["tests"] in the sandbox."""
    return sandbox.run(program_with_tests(text, facts["tests"])).outcome == "passed"


def program_with_tests(text: str, tests: list[str], *, setup: str = "") -> str:
    """The code in an answer followed by its tests: of its fences without a tag or tagged Python the first that defines what the tests call, or anything
    at all, tagged ones before others, with those of its sort that hold what it or the tests miss; without fences all of it. Imports from __future__
    come first."""
    known = "\n".join([setup, *tests])
    fences = [(_defines(code, known), "def " in code, bool(tag.strip()), code)
              for tag, code in _FENCE.findall(text) if not tag.strip() or tag.strip().lower().startswith("py")]
    if fences:
        chosen = max(fences, key=lambda fence: fence[:3])
        alike = [fence for fence in fences if fence[2] is chosen[2]]
        text = _joined([code for *_, code in alike], main=alike.index(chosen), known=known)
    program = "\n".join([setup, text, *tests, ""])
    return "\n".join([*(found[0] for found in _FUTURE.finditer(program)), _FUTURE.sub("", program)])


def _defines(code: str, known: str) -> bool:
    """Whether code defines, at its top, a name that the known code uses."""
    tree, beside = _parsed(code), _parsed(known)
    if tree is None or beside is None:
        return False
    used = {node.id for node in ast.walk(beside) if isinstance(node, ast.Name)}
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name in used for node in tree.body)


def _joined(fences: list[str], *, main: int, known: str) -> str:
    """A fence with those around it that do nothing but import and define, as long as one holds a name that is used and nowhere bound. known: the code
    that the fences stand beside. Of several that define the same the main one counts, then the first."""
    trees = [_parsed(code) for code in fences]
    beside, taken = _parsed(known), [main]
    while (first := trees[main]) is not None:
        nodes = [node for tree in (first, beside, *(trees[place] for place in taken[1:])) if tree is not None for node in ast.walk(tree)]
        bound = {name for node in nodes for name in _bound(node)}
        missing = {node.id for node in nodes if isinstance(node, ast.Name)} - bound - set(dir(builtins))
        found = next((place for place, tree in enumerate(trees) if place not in taken and tree is not None and _helps(tree, missing, bound)), None)
        if found is None:
            break
        taken.append(found)
    return "\n".join(fences[place] for place in sorted(taken))


def _parsed(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _bound(node: ast.AST) -> list[str]:
    """Names that one node of a program binds, anywhere in it."""
    if isinstance(node, ast.Name):
        return [node.id] if isinstance(node.ctx, ast.Store) else []
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(name.asname or name.name).partition(".")[0] for name in node.names]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler):
        return [node.name] if node.name else []
    return [node.arg] if isinstance(node, ast.arg) else []


def _helps(tree: ast.Module, missing: set[str], bound: set[str]) -> bool:
    """Whether code imports and defines alone, something that is missed and nothing that is there."""
    if not all(isinstance(statement, _DEFINES) or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)) for statement in tree.body):
        return False
    defined = {name for statement in tree.body if not isinstance(statement, ast.Import | ast.ImportFrom) for name in _of_statement(statement)}
    imported = {name for statement in tree.body if isinstance(statement, ast.Import | ast.ImportFrom) for name in _bound(statement)}
    return bool((defined | imported) & missing) and not defined & bound


def _of_statement(statement: ast.stmt) -> list[str]:
    """Names that a statement binds at the top of a program."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target] if isinstance(statement, ast.AnnAssign) else []
    return [*_bound(statement), *(name for target in targets for node in ast.walk(target) for name in _bound(node))]


def _compose(kind: Kind, *, changes: int) -> Callable[[Random, int], Item]:
    def make(rng: Random, _level: int) -> Item:
        # One change returned as it stands is the drill's, which is trained on whole.
        results = [result for result in kind.results if changes > 1 or result is not kind.plain]
        while True:
            item = _item(rng, kind, [pick(rng, kind.changes) for _ in range(changes)], pick(rng, results))
            if item is not None and not _constant(item):
                return item
    return make


def _constant(item: Item) -> bool:
    """Whether all tests want the same, as after keeping the positive and then the negative numbers."""
    return len({test.partition(" == ")[2] for test in item.facts["tests"]}) == 1


def _drill(rng: Random, _level: int) -> Item:
    """One operation alone."""
    while True:
        kind = pick(rng, tuple(KINDS.values()))
        item = _item(rng, kind, [], pick(rng, kind.results)) if rng.random() < 0.5 else _item(rng, kind, [pick(rng, kind.changes)], kind.plain)
        if item is not None:
            return item


def _everyday(rng: Random, _level: int) -> Item:
    """A function asked for in a few words."""
    wanted = pick(rng, EVERYDAY)
    ask = pick(rng, wanted.ask)
    prompt = fill(rng, THIRD_PERSON, asks=third_person(ask)) if rng.random() < 0.4 else fill(rng, FORMS, ask=ask)
    return Item(as_typed(rng, prompt), wanted.code, f"everyday {ask}", {"tests": [f"assert {wanted.check}"]})


def _item(rng: Random, kind: Kind, changes: list[Operation], result: Operation) -> Item | None:
    """The task that asks for these operations, or None where no tests were found that need them all, or no side may have it."""
    operations = (*changes, result)
    key, endings = _key(kind, operations), _endings(kind, operations)
    if not fits(key, endings):
        return None
    # Looked up for two and three in a row, which finds most that can't be told before inputs are tried.
    if not all(_tells(kind, operations[start:start + length]) for length in (2, 3) for start in range(len(operations) - length + 1)):
        return None
    steps = [(operation, operation.number(rng)) for operation in operations]
    name, variable = pick(rng, NAMES), kind.variable
    tests = _tests(rng, kind, name, steps)
    if not tests:
        return None
    wordings = [fill(rng, operation.wordings, k=number) for operation, number in steps]
    expressions = [operation.expression.replace("{k}", str(number)) for operation, number in steps]
    asked = fill(rng, ASK if changes else OPENERS, name=name, takes=pick(rng, kind.takes), steps=pick(rng, JOIN).join(wordings[:-1]), result=wordings[-1])
    body = [f"    {variable} = {expression}" for expression in expressions[:-1]]
    response = "\n".join([f"def {name}({variable}):", *body, f"    return {expressions[-1]}"])
    return Item(as_typed(rng, asked), response, key, {"tests": tests}, shown=endings)


def _key(kind: Kind, operations: Sequence[Operation]) -> str:
    return f"{kind.name}: {' '.join(operation.name for operation in operations)}"


def _endings(kind: Kind, operations: Sequence[Operation]) -> tuple[str, ...]:
    """Keys of the shorter programs that a program's last lines are, but for one change returned as it stands, which is the drill's."""
    endings = (operations[start:] for start in range(1, len(operations) - 1))
    return tuple(_key(kind, ending) for ending in endings if len(ending) > 2 or ending[-1] is not kind.plain)


@cache
def _tells(kind: Kind, operations: tuple[Operation, ...]) -> bool:
    """Whether tests were found, for one draw of their numbers in five, that need all of these operations: there are none for the sum of what was sorted."""
    rng = Random(f"{kind.name}: {' '.join(operation.name for operation in operations)}")
    return any(_tests(rng, kind, "f", [(operation, operation.number(rng)) for operation in operations]) for _ in range(5))


def _tests(rng: Random, kind: Kind, name: str, steps: list[tuple[Operation, int]]) -> list[str]:
    """Assertions that nothing passes which leaves out a step, or several in a row; [] where none were found. They want different results where
    that can be had, so that a constant doesn't pass."""
    program = [(MEANINGS[kind.name][operation.name], number) for operation, number in steps if operation is not kind.plain]
    untold = [(start, program[stop:]) for start, stop in combinations(range(len(program) + 1), 2)]
    # == of dicts is blind to their order, so where an order is asked for and a dict returned, as by all changes, its items are compared.
    ordered = kind.name == "dict" and steps[-1][0] in (kind.plain, *kind.changes) and any(operation.name == "sort" for operation, _ in steps)
    cases: list[tuple[Any, Any]] = []
    for _ in range(TRIES):
        given = pick(rng, _inputs(kind))
        values = [given]  # before the first step, and after each
        for meaning, number in program:
            values.append(meaning(values[-1], number))
        wanted = _result(values[-1], [], ordered=ordered)
        same = [(start, rest) for start, rest in untold if _result(values[start], rest, ordered=ordered) == wanted]
        if len(cases) < TESTS - 1 or len(same) < len(untold) or (not untold and any(wanted != other for _, other in cases)):
            cases.append((given, wanted))
            untold = same
            if len(cases) >= TESTS and not untold:
                break
    call = f"list({name}({{!r}}).items())" if ordered else f"{name}({{!r}})"
    return [] if untold else [f"assert {call.format(given)} == {wanted!r}" for given, wanted in cases]


def _result(value: Any, program: Program, *, ordered: bool) -> Any:
    for meaning, number in program:
        value = meaning(value, number)
    return list(value.items()) if ordered else value


@cache
def _inputs(kind: Kind) -> list[Any]:
    """What functions of a kind are tested on, drawn once: drawing takes longer than working out results."""
    rng = Random(kind.name)
    return [kind.draw(rng) for _ in range(1000)]


_TASKS = tuple(Task(f"{kind.name}_{changes + 1}", {changes: weight}, _compose(kind, changes=changes))
               for changes in (1, 2, 3, 4, 5) for kind, weight in zip(KINDS.values(), (3.0, 2.0, 1.0, 1.0), strict=True))

CURRICULUM = Curriculum("code", (*_TASKS, Task("drill", {1: 2.0}, _drill, drill=True),
                                 Task("everyday", {1: 2.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}, _everyday, drill=True)), grade)
