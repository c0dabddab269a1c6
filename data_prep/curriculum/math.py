"""Arithmetic: the four operations, comparisons, fractions and percent, word problems, equations, units; worked steps first.

Graded by the number after "####". Every operation has one instance key, whatever story is told around it, so that an
operation of the exam never occurs in training under another wording, nor as a step of a longer problem.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

from data_prep.curriculum.answer_match import LEAD_IN
from data_prep.curriculum.arithmetic import CARRIES, answer, instance, steps_of
from data_prep.curriculum.math_wording import ASK, COMPARE, EQUATIONS, FRACTIONS, PERCENTS, STEP_STORIES, STORIES, UNIT_QUESTIONS, UNITS
from data_prep.curriculum.names import NAMES
from data_prep.curriculum.tasks import Curriculum, Item, Task
from data_prep.curriculum.wording import THINGS, as_typed, fill, pick, sample


def grade(facts: Mapping[str, Any], text: str) -> bool:
    """Whether the number after the last "####" equals facts["answer"]."""
    got = final_number(text, percent=False)  # none of these tasks asks for a percentage
    return got is not None and got == float(facts["answer"])


_NUMBER = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_LEAD = rf"[\s*_]{{0,4}}(?:{LEAD_IN}\s*)?(?:[\s*_$(\\]{{0,6}}(?:\b[A-Za-z]\s*)?=)?"  # "The answer is", "x =", "="
_MARKS = r"[-+$\u20ac\u00a3\s*_`(\[\\]*"
_UNIT_POWER = r"(?<=\bm)[23]|(?<=\b[ckm]m)[23]|(?<=\bm\^)[23]|(?<=[a-z][a-z]\^)[23]"  # m2, cm3, cm^2, ft^2
_FINAL = re.compile(rf"{_LEAD}({_MARKS})({_NUMBER})(?:\s*/\s*({_NUMBER}))?((?:\D|{_UNIT_POWER})*)")
_UNKNOWN = re.compile(r"\s*[xyznkXYZK]{1,3}\b")  # 42x is not 42, nor 42k; 42m and 42 N are
_PERCENT = re.compile(r"[\s*_`)\]\\]*(?:%|per ?cent\b|pct\b)", re.IGNORECASE)


def final_number(text: str, *, percent: bool = True) -> float | None:
    """The one number in the line after the last "####": signs of money, marks, thousands commas, "The answer is" or "x =" before it and words behind
    it dropped, a fraction as its value. percent: whether "42%" is 42, too.

    None where there is none or more than one ("3 or 4", "50-60"), or a multiple of an unknown ("42x").
    """
    _, mark, last = text.rstrip("# \t\r\n").rpartition("####")
    found = _FINAL.fullmatch(last.strip().partition("\n")[0]) if mark else None
    if found is None or _UNKNOWN.match(found[4]) or (not percent and _PERCENT.match(found[4])):
        return None
    over, under = (float((part or "1").replace(",", "")) for part in found.group(2, 3))
    return (-over if "-" in found[1] else over) / under if under else None


def operands(rng: Random, sign: str, level: int) -> tuple[int, int]:
    """Operands of a level whose result is a natural number; / is exact."""
    digits = {1: (2, 1), 2: (2, 2), 3: (3, 3), 4: (4, 4)}.get(level, (5, 5))
    if sign in "+-":
        # Differences of level 1 start at 20: below that they are the drill's, which is trained on whole.
        first = rng.randint(20 if sign == "-" else 10, 99) if level == 1 else _with_digits(rng, digits[0])
        second = _with_digits(rng, digits[1])
        return (second, first) if (sign == "-" and second > first) or (sign == "+" and rng.random() < 0.3) else (first, second)
    digit = rng.randint(2, 9)
    if sign == "*":
        return _with_digits(rng, 2 if level <= 3 else level - 1), digit
    result = rng.randint(11, 24 if level <= 2 else 99 if level == 3 else 999)
    return result * digit, digit


def _with_digits(rng: Random, digits: int) -> int:
    return rng.randint(10 ** (digits - 1), 10 ** digits - 1)


def _item(prompt: str, expression: str, steps: list[str], result: int, *, key: str, shown: tuple[str, ...] = ()) -> Item:
    return Item(prompt, answer(expression, steps, result), key, {"answer": str(result)}, shown=shown, drill=key in CARRIES)


def _operation(sign: str) -> Any:
    def make(rng: Random, level: int) -> Item:
        first, second = operands(rng, sign, level)
        steps, result = steps_of(first, sign, second)
        prompt = as_typed(rng, fill(rng, ASK[sign], a=first, b=second))
        return _item(prompt, f"{first}{sign}{second}", steps, result, key=instance(first, sign, second))
    return make


def _drill(rng: Random, _level: int) -> Item:
    """Single-digit facts that longer sums are made of."""
    sign = pick(rng, "+-*/")
    first, second = rng.randint(1, 9), rng.randint(1, 9)
    if sign == "-":
        first += second
    elif sign == "/":
        first *= second
    result = {"+": first + second, "-": first - second, "*": first * second, "/": first // second}[sign]
    prompt = as_typed(rng, fill(rng, ASK[sign], a=first, b=second))
    return _item(prompt, f"{first}{sign}{second}={result}", [], result, key=instance(first, sign, second))


def _compare(rng: Random, level: int) -> Item:
    digits = level + 1
    first = _with_digits(rng, digits)
    second = first
    while second == first:
        second = _with_digits(rng, digits) if rng.random() < 0.7 else first // 10 * 10 + rng.randint(0, 9)
    larger = rng.random() < 0.5
    steps = []
    for a, b in zip(str(first), str(second), strict=True):
        steps.append(f"{a}{'=' if a == b else '>' if a > b else '<'}{b}")
        if a != b:
            break
    result = max(first, second) if larger else min(first, second)
    prompt = as_typed(rng, fill(rng, COMPARE["larger" if larger else "smaller"], a=first, b=second))
    low, high = sorted((first, second))
    return _item(prompt, f"{'max' if larger else 'min'} {first} {second}", steps, result, key=f"compare {low} {high}")


def _story(rng: Random, level: int) -> Item:
    sign = pick(rng, "+-" if level == 1 else "+-*/")
    first, second = operands(rng, sign, level)
    while 1 in (first, second):  # "1 apples"
        first, second = operands(rng, sign, level)
    if sign == "+" and first < second:
        first, second = second, first
    name, other = sample(rng, NAMES, 2)
    prompt = as_typed(rng, fill(rng, STORIES[sign], a=first, b=second, name=name, other=other, things=pick(rng, THINGS)))
    steps, result = steps_of(first, sign, second)
    return _item(prompt, f"{first}{sign}{second}", steps, result, key=instance(first, sign, second))


def _steps_story(rng: Random, level: int) -> Item:
    """Two operations one after the other, from level 4 on also three; each one's result starts the next. A factor comes last."""
    signs = pick(rng, [signs for signs in STEP_STORIES if len(signs) == 2 or level >= 4])
    first = rng.randint(10, 60 if level <= 3 else 500)
    value, expression, steps, numbers, shown = first, str(first), list[str](), [first], list[str]()
    for sign in signs:
        number = rng.randint(2, 9) if sign in "*/" else rng.randint(2, 9 if sign == "-" or level <= 3 else 99)
        if sign == "-":
            number = min(number, value - 1)
        more, result = steps_of(value, sign, number)
        steps += [f"{value}{sign}{number}", *more, f"={result}"]
        numbers.append(number)
        shown += [instance(value, sign, number), _steps_key(signs, numbers)]
        value, expression = result, f"{f'({expression})' if sign in '*/' else expression}{sign}{number}"
    name, other = sample(rng, NAMES, 2)
    places = dict(zip("abcd", numbers, strict=False))
    prompt = as_typed(rng, fill(rng, STEP_STORIES[signs], **places, name=name, other=other, things=pick(rng, THINGS)))
    return _item(prompt, expression, steps, value, key=_steps_key(signs, numbers), shown=tuple(shown))


def _steps_key(signs: str, numbers: list[int]) -> str:
    """One key for all orders in which the same is added and taken away; a factor stays last."""
    terms = [f"{sign}{number}" for sign, number in zip(f"+{signs}", numbers, strict=False)]
    return f"steps {' '.join(sorted(terms, key=lambda term: (term[0] in '*/', term)))}"


def _equation(rng: Random, level: int) -> Item:
    """x+a=b, x-a=b, a+x=b; from level 3 on also ax=b."""
    form = pick(rng, ("x+a", "x-a", "a+x") if level <= 2 else ("x+a", "x-a", "a+x", "ax"))
    letter = pick(rng, "xynmk")
    if form == "x-a":
        first, second = operands(rng, "+", min(level, 2))
        equation, sign = f"{letter} - {second} = {first}", "+"
    elif form == "ax":
        first, second = operands(rng, "/", min(level, 3))
        equation, sign = f"{second}{letter} = {first}", "/"
    else:
        first, second = operands(rng, "-", min(level, 2))
        if first == second:
            first += 1
        equation, sign = (f"{letter} + {second} = {first}" if form == "x+a" else f"{second} + {letter} = {first}"), "-"
    steps, result = steps_of(first, sign, second)
    prompt = as_typed(rng, fill(rng, EQUATIONS, equation=equation, x=letter))
    return _item(prompt, f"{letter}={first}{sign}{second}", steps, result, key=instance(first, sign, second))


def _small_equation(rng: Random, _level: int) -> Item:
    """x + a = b, x - a = b or a + x = b below 20; training only, as the small sums and differences are."""
    form = pick(rng, ("x+a", "x-a", "a+x"))
    letter, added, value = pick(rng, "xynmk"), rng.randint(1, 9), rng.randint(1, 10)
    first, sign = (value - added, "+") if form == "x-a" and value > added else (value + added, "-")
    left = {"x+a": f"{letter} + {added}", "x-a": f"{letter} - {added}", "a+x": f"{added} + {letter}"}[form if sign == "+" or form != "x-a" else "x+a"]
    steps, result = steps_of(first, sign, added)
    prompt = as_typed(rng, fill(rng, EQUATIONS, equation=f"{left} = {first}", x=letter))
    return _item(prompt, f"{letter}={first}{sign}{added}", steps, result, key=instance(first, sign, added))


_PERCENTS = (("50%", 2), ("25%", 4), ("20%", 5))
_FRACTIONS = (("half", 2), ("a third", 3), ("a quarter", 4), ("a fifth", 5), ("1/2", 2), ("1/3", 3), ("1/4", 4), ("1/6", 6))


def _part(rng: Random, level: int) -> Item:
    """A fraction or percent of a number, as a division."""
    percent = rng.random() < 0.5
    word, digit = pick(rng, _PERCENTS if percent else _FRACTIONS)
    whole = rng.randint(11, 40 if level <= 3 else 250) * digit
    steps, result = steps_of(whole, "/", digit)
    asked = fill(rng, PERCENTS if percent else FRACTIONS, part=word, whole=whole, things=pick(rng, THINGS), name=pick(rng, NAMES))
    return _item(as_typed(rng, asked), f"{whole}/{digit}", steps, result, key=instance(whole, "/", digit))


def _unit(rng: Random, _level: int) -> Item:
    """So many small units in a number of large ones; a factor of 60 or 100 is a digit's product with zeros put behind."""
    large, small, digit, zeros = pick(rng, UNITS)
    number = rng.randint(2, 99)
    key = instance(number, "*", digit if digit > 1 else 10 ** zeros)
    steps, product = steps_of(number, "*", digit) if digit > 1 else (list[str](), number)
    result = product * 10 ** zeros
    asked = as_typed(rng, fill(rng, UNIT_QUESTIONS, n=number, small=small, large=large))
    item = _item(asked, f"{number}*{digit * 10 ** zeros}", steps, result, key=key)
    return replace(item, drill=True) if digit > 1 and number < 10 else item  # of the times table, which training shows whole


CURRICULUM = Curriculum("math", (
    Task("add", {1: 2, 2: 2, 3: 2, 4: 1, 5: 1}, _operation("+")),
    Task("subtract", {1: 2, 2: 2, 3: 2, 4: 1, 5: 1}, _operation("-")),
    Task("multiply", {2: 2, 3: 1, 4: 1, 5: 1}, _operation("*")),
    Task("divide", {3: 1, 4: 1, 5: 1}, _operation("/")),
    Task("drill", {1: 1}, _drill, drill=True),
    Task("compare", {1: 1, 2: 1, 3: 0.5, 4: 0.5}, _compare),
    Task("story", {1: 2, 2: 2, 3: 1, 4: 1, 5: 1}, _story),
    Task("steps", {3: 1, 4: 2, 5: 2}, _steps_story),
    Task("equation", {2: 1, 3: 1, 4: 1}, _equation),
    Task("small_equation", {2: 0.4, 3: 0.3, 4: 0.2}, _small_equation, drill=True),
    Task("part", {3: 1, 4: 1, 5: 1}, _part),
    Task("unit", {3: 1, 4: 1}, _unit),
), grade)
