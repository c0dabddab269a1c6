"""True facts under many wordings, some held out for the exam, and questions on a short passage, answers copied from it.

The instance of a fact is the pair of fact and wording: the fact is trained on, the pair in the exam is not. Graded by exact
match after SQuAD's normalisation, any of the aliases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from random import Random
from typing import Any

from data_prep.curriculum import knowledge_passages as passages
from data_prep.curriculum.answer_match import exact_match
from data_prep.curriculum.knowledge_facts import TABLES, Table
from data_prep.curriculum.knowledge_wording import FILLERS, WORDINGS
from data_prep.curriculum.tasks import Curriculum, Item, Task
from data_prep.curriculum.wording import an, as_typed, capital, pick

_SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen",
          "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def grade(facts: Mapping[str, Any], text: str) -> bool:
    """Whether text is one of facts["answers"], case, articles and marks aside."""
    return exact_match(text, facts["answers"])


def _fact(level: int) -> Callable[[Random, int], Item]:
    """A question about a fact of this level or, in part, of a lower one (what was learnt is asked again)."""
    def make(rng: Random, asked_level: int) -> Item:
        subject, relation, answers = pick(rng, facts_of(min(level, asked_level)))
        number = int(rng.random() * len(WORDINGS[relation]))
        named = an(subject)
        question = WORDINGS[relation][number].format(x=subject, an_x=named, An_x=capital(named))
        opening = pick(rng, FILLERS) if rng.random() < 0.25 else ""
        if opening.endswith((", ", ": ")) and not WORDINGS[relation][number].startswith("{x}"):
            question = question[:1].lower() + question[1:]
        return Item(as_typed(rng, opening + question), answers[0], f"{relation}|{subject}|{number}", {"answers": list(answers)})
    return make


@cache
def facts_of(level: int) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """(subject, relation, answers) of every fact of a level."""
    found: list[tuple[str, str, tuple[str, ...]]] = []
    for table in TABLES:
        found += _of_table(table, level)
    return tuple(found)


def _of_table(table: Table, level: int) -> list[tuple[str, str, tuple[str, ...]]]:
    rows = [row.split("|") for row in table.rows.strip().splitlines()]
    found = []
    for number, row in enumerate(rows):
        cells = dict(zip(table.columns, row, strict=True))
        for relation in table.relations:
            if relation.level(number) == level and cells[relation.answer] and cells[relation.subject]:
                found.append((cells[relation.subject].split("/")[0], relation.name,
                              _as_said(relation.name, cells[relation.answer].split("/"))))
    return found


def _as_said(relation: str, answers: list[str]) -> tuple[str, ...]:
    """Answers and what else they are called: numbers but years in words, currencies in the plural."""
    if relation == "currency_of":
        return (*answers, *(f"{answer}s" for answer in answers))
    if relation == "year_of":
        return tuple(answers)
    return (*answers, *(words for answer in answers if answer.isdecimal() for words in _in_words(int(answer))))


def _in_words(number: int) -> tuple[str, ...]:
    """How a number below 20,000 may be written in words: 360 is "three hundred sixty" and "three hundred and sixty", 100 also "hundred"."""
    if number < 20:
        return (_SMALL[number],)
    if number < 100:
        tens, ones = _TENS[number // 10 - 2], number % 10
        return (f"{tens}-{_SMALL[ones]}", f"{tens} {_SMALL[ones]}") if ones else (tens,)
    name, unit = ("thousand", 1000) if number >= 1000 else ("hundred", 100)
    count, rest = divmod(number, unit)
    whole = f"{_SMALL[count]} {name}"
    if rest:
        return tuple(f"{whole} {link}{words}" for link in ("", "and ") for words in _in_words(rest))
    return (whole, name) if count == 1 else (whole,)


def _passage(rng: Random, level: int) -> Item:
    passage, question, answer, key = passages.draw(rng, level)
    asked = f"{passage}\n{question}" if rng.random() < 0.6 else f"{passage} {question}"
    return Item(asked, answer, key, {"answers": [answer]})


CURRICULUM = Curriculum("knowledge", (
    *(Task(f"fact_{level}", {level: 2.0, **({level + 1: 0.5} if level < 5 else {})}, _fact(level)) for level in (1, 2, 3, 4, 5)),
    Task("passage", {1: 1.5, 2: 3.0, 3: 3.0, 4: 2.0, 5: 2.0}, _passage),
), grade)
