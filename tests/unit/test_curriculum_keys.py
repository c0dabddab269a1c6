"""No question of an exam is trained in another order or in other words, nor, but for counts and single claims, on the way of a longer one: read from texts."""

import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from random import Random

import pytest

from data_prep import curriculum
from data_prep.curriculum import math, reasoning
from data_prep.curriculum import reasoning_wording as say
from data_prep.curriculum.code_operations import KINDS as KINDS_OF_CODE
from data_prep.curriculum.conversation_wording import SLOTS
from data_prep.curriculum.names import NAMES
from data_prep.curriculum.reasoning_wording import CLASSES, KINDS, OBJECTS, PLACES, PROPERTIES
from data_prep.records import Record, split_turns

COUNT = 30_000
UP, DOWN = "taller|older|faster|richer|stronger|louder", "shorter|younger|slower|poorer|weaker|quieter"
NOUNS = re.compile(rf"\b(?:({'|'.join((*KINDS, *CLASSES, *PROPERTIES))})s?|(no|not|never|some|at least one|there are))\b")
NAMED = re.compile(rf"\b({'|'.join(NAMES)})\b", re.IGNORECASE)


@cache
def trained(domain: str) -> list[Record]:
    return list(curriculum.make_records(domain, count=COUNT, levels=(1, 2, 3), seed=7))


def of_task(records: list[Record], *tasks: str) -> list[Record]:
    found = [record for record in records if record.meta["task"] in tasks]
    assert found
    return found


def boolean(record: Record) -> object:
    *told, claim = [part for part in re.split(r"(?<=[.:?]) ", record.prompt.lower()) if re.search(r"\bthe \w+ is ", part)]
    states, claims = re.findall(r"\bthe (\w+) is (\w+)", " ".join(told)), re.findall(r"\bthe (\w+) is (\w+)", claim)
    return sorted(states), sorted(claims), len(claims) > 1 and " or the " in claim


def ordering(record: Record) -> object:
    """All pairs told, whatever the scale."""
    return sorted((first, second) if re.fullmatch(UP, word) else (second, first)
                  for first, word, second in re.findall(rf"(\w+) is ({UP}|{DOWN}) than (\w+)", record.prompt.lower()))


def shared(record: Record) -> object:
    return sorted(sorted(re.findall(r"an? (\w+)", text)) for text in re.findall(r"(?:an? \w+, )*an? \w+ and an? \w+", record.prompt)[:2])


def membership(record: Record) -> object:
    """The things told of with their places, those of a move last, and the thing asked for."""
    text = record.prompt.lower()
    if record.meta["answer"] in ("yes", "no"):
        things = re.findall(rf"\ban? ({'|'.join(OBJECTS)})\b", text)
        return sorted(things[:-1]), things[-1]
    pairs = re.findall(rf"the ({'|'.join(OBJECTS)})\b(?: is)? (?:in|to) the ({'|'.join(PLACES)})", text)
    return sorted(pairs[:2]), pairs[2:], re.findall(rf"the ({'|'.join(OBJECTS)})\b", text)[-1]


def family(record: Record) -> object:
    forms = (r"(?P<x>\w+) is the (?P<r>\w+) of (?P<y>\w+)", r"(?P<x>\w+) is (?P<y>\w+)'s (?P<r>\w+)", r"(?P<y>\w+) has a (?P<r>\w+) called (?P<x>\w+)",
             r"(?P<y>\w+)'s (?P<r>\w+) is (?P<x>\w+)", r"the (?P<r>\w+) of (?P<y>\w+) is (?P<x>\w+)")
    told = [found.group("x", "r", "y") for form in forms for found in re.finditer(rf"\b{form}\.", record.prompt.lower())]
    assert len(told) == (1 if record.meta["level"] == 1 else 2), record.prompt
    return sorted(told)


def kinds(record: Record) -> object:
    """Of each sentence its kinds, properties and quantities, whoever it is about."""
    text = NAMED.sub("", re.sub(r"Answer yes, no or unknown\W*|or not\b", "", record.prompt)).lower()
    *told, asked = [[kind or mark for kind, mark in NOUNS.findall(sentence)] for sentence in re.split(r"[.?:] ", text)]
    return sorted(told), asked, record.meta["answer"]


@pytest.mark.parametrize(("tasks", "facts"), [
    (("boolean",), boolean), (("ordering",), ordering), (("shared",), shared), (("membership",), membership), (("family",), family),
    (("rules", "individual", "syllogism"), kinds)], ids=lambda value: getattr(value, "__name__", ""))
def test_facts_of_the_exam_are_never_told_in_another_order(tasks: tuple[str, ...], facts: Callable[[Record], object]) -> None:
    asked = {repr(facts(record)) for record in of_task(curriculum.make_exam("reasoning"), *tasks)}
    assert len(asked) > 5
    assert not asked & {repr(facts(record)) for record in of_task(trained("reasoning"), *tasks)}


@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize("facts", [boolean, ordering, shared, membership, family], ids=lambda facts: facts.__name__)
def test_same_facts_in_any_order_have_one_key(facts: Callable[[Record], object], level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn from few words, so that the same is told many times."""
    monkeypatch.setattr(reasoning, "NAMES", NAMES[:4])
    monkeypatch.setattr(say, "OBJECTS", OBJECTS[:5])
    monkeypatch.setattr(say, "PLACES", PLACES[:3])
    monkeypatch.setattr(say, "STATES", dict(list(say.STATES.items())[:4]))
    make = next(task.make for task in reasoning.CURRICULUM.tasks if task.name == facts.__name__)
    rng, keys, drawn = Random(level), defaultdict(set), 2000
    for _ in range(drawn):
        item = make(rng, level)
        keys[repr(facts(Record("reasoning", item.prompt, item.response, "test", {"level": level, **item.facts})))].add(item.instance)
    assert len(keys) < drawn / 2
    assert {told: found for told, found in keys.items() if len(found) > 1} == {}


@pytest.mark.parametrize(("task", "longer"), [("ordering", ["ordering"]), ("individual", ["individual", "rules"]), ("rules", ["rules"])])
def test_answers_of_the_exam_are_no_part_of_a_longer_one(task: str, longer: list[str]) -> None:
    """As "Ann > Ben" stands in the answer about three people."""
    def worked(record: Record) -> str:
        line = record.response.split("\n")[-2]
        return line if task == "ordering" else re.sub(r"^\w+ > ", "> " if task == "individual" else "", line)  # whoever it is about

    def parts(text: str) -> set[str]:
        pieces = text.split(" > ")
        return {" > ".join(pieces[start:end]) for start in range(len(pieces)) for end in range(start + 1, len(pieces) + 1)}

    asked = of_task(curriculum.make_exam("reasoning"), task)
    exam = {worked(record) for record in asked if task == "rules" or record.meta["answer"] not in ("no", "unknown")}
    shown = {part for line in {worked(record) for record in of_task(trained("reasoning"), *longer)} for part in parts(line)}
    assert not exam & shown


def test_programs_of_the_exam_are_no_ending_of_a_longer_one() -> None:
    """Read from the texts, numbers and all: "xs = sorted(xs)" and "return xs[0]" would end a program that doubles first."""
    exam = {(record.response.partition("(")[2].partition("\n")[::2]) for record in curriculum.make_exam("code")}
    shown, longer = set[tuple[str, str]](), 0
    for record in curriculum.make_records("code", count=12_000, levels=(1, 2, 3), seed=7):
        taken, _, body = record.response.partition("(")[2].partition("\n")
        if record.meta["task"] not in ("drill", "everyday"):
            endings = [body.split("\n", start)[start] for start in range(1, body.count("\n"))]
            longer += len(endings) > 0
            shown |= {(taken, ending) for ending in endings}
    assert longer > 6000
    assert not exam & shown


def test_fact_that_the_exam_tells_alone_is_asked_for_beside_no_other_in_training() -> None:
    def asked(record: Record) -> tuple[str, str]:
        return record.meta["any_of"][0], split_turns(record.prompt)[-1]["content"].rpartition(". ")[2]

    def beside(record: Record) -> bool:
        return "none_of" in record.meta

    exam = {asked(record) for record in of_task(curriculum.make_exam("conversation"), "recall") if not beside(record)}
    longer = [record for record in of_task(trained("conversation"), "recall") if beside(record)]
    assert len(exam) > 15
    assert len(longer) > 4000
    assert not exam & {asked(record) for record in longer}


def test_training_has_every_operation_at_every_place_and_every_fact_to_recall() -> None:
    """What is held out of longer ones leaves none of their parts untrained."""
    places, told = set[tuple[str, int, int, str]](), set[tuple[str, str]]()
    for record in curriculum.make_records("code", count=12_000, levels=(2, 3), seed=7):
        if record.meta["task"] != "everyday":
            kind, _, names = record.meta["instance"].partition(": ")
            places |= {(kind, record.meta["level"], place, name) for place, name in enumerate(names.split())}
    wanted = {(kind.name, level, place, operation.name) for kind in KINDS_OF_CODE.values() for level in (2, 3) for place in range(level)
              for operation in kind.changes} | {(kind.name, level, level, operation.name) for kind in KINDS_OF_CODE.values() for level in (2, 3)
                                                for operation in kind.results}
    assert wanted - places == set()
    for record in of_task(trained("conversation"), "recall"):
        told.add((record.meta["slot"], record.meta["any_of"][0]))
    assert {(slot, value) for slot, words in SLOTS.items() if slot != "name" for value in words.values} <= told


def test_training_counts_far_from_every_day_and_month_and_claims_both_ways_about_everything() -> None:
    """What the exam holds out are single counts and claims: were training to stop before them, it would never count far from some starts."""
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for record in of_task(trained("reasoning"), "calendar"):
        start, _, steps = record.response.split("\n")[0].partition(": ")
        towards = (start, steps.split(", ")[0].split()[1])
        counted[towards] = max(counted[towards], steps.count(",") + 1)
    assert len(counted) == 2 * (len(say.DAYS) + len(say.MONTHS))
    assert min(counted.values()) >= 7
    said = [line for record in of_task(trained("reasoning"), "boolean") for line in record.response.split("\n") if ":" in line]
    judged = {(line.split(":")[0], line.rpartition(", ")[2]) for line in said}
    assert judged >= {(thing, truth) for thing in say.STATES for truth in ("true", "false")}


def test_longer_orders_show_the_shorter_ones_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasoning, "NAMES", NAMES[:5])
    make = next(task.make for task in reasoning.CURRICULUM.tasks if task.name == "ordering")
    rng = Random(0)
    short = {item.response.split("\n")[-2]: item.instance for level in (1, 2) for item in (make(rng, level) for _ in range(400))}
    for item in (make(rng, 3) for _ in range(100)):
        line = item.response.split("\n")[-2]
        inside = {key for order, key in short.items() if order in line}
        assert len(inside) >= 3
        assert inside <= set(item.shown)


def told_steps(response: str) -> tuple[list[str], list[str]]:
    """What the first line adds and takes away, in its order, and its factors."""
    terms = re.findall(r"[-+*/]\d+", "+" + re.sub("[()]", "", response.split("\n")[0]))
    return [term for term in terms if term[0] in "+-"], [term for term in terms if term[0] in "*/"]


def test_steps_in_any_order_have_one_key_and_longer_ones_show_those_they_begin_with() -> None:
    make = next(task.make for task in math.CURRICULUM.tasks if task.name == "steps")
    rng, keys = Random(0), defaultdict[str, set[str]](set)
    for item in (make(rng, 3) for _ in range(20_000)):
        sums, factors = told_steps(item.response)
        keys[repr((sorted(sums), factors))].add(item.instance)
    assert len(keys) > 3000
    assert {told: found for told, found in keys.items() if len(found) > 1} == {}
    begun = [(keys[repr((sorted(sums[:3]), []))], item.shown) for item in (make(rng, 4) for _ in range(5000)) if len(sums := told_steps(item.response)[0]) > 3]
    known = [(found, shown) for found, shown in begun if found]
    assert len(known) > 50
    assert all(found <= set(shown) for found, shown in known)
