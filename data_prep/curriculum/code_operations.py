"""The operations that code tasks compose: each changes a value into one of the same kind, or makes the result of it.

Expressions and wordings only; {k} is a number of the operation. Composing, asking and testing are code.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)  # each is itself alone, and quick to hash
class Operation:
    """One operation: its expression over the kind's variable and its wordings; low and high bound {k}, both 0 without one."""

    name: str
    expression: str
    wordings: tuple[str, ...]
    low: int = 0
    high: int = 0

    def number(self, rng: Random) -> int:
        """A number for {k}."""
        return rng.randint(self.low, self.high) if self.high else 0


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """A kind of value: what a function of it takes, the operations, an operation that returns the value as it is, and how inputs are drawn."""

    name: str
    variable: str
    takes: tuple[str, ...]
    changes: tuple[Operation, ...]
    results: tuple[Operation, ...]
    plain: Operation
    draw: Callable[[Random], Any]


def _numbers(rng: Random) -> list[int]:
    return [rng.randint(-9, 30) for _ in range(rng.randint(3, 8))]


def _text(rng: Random) -> str:
    """Some words, now and then the same backwards, or but for their case."""
    letters = "abcdeilmnorstABE"
    words = " ".join("".join(letters[int(rng.random() * len(letters))] for _ in range(rng.randint(2, 6))) for _ in range(rng.randint(1, 4)))
    luck = rng.random()
    return words + (words[::-1] if luck < 0.2 else words[::-1].swapcase() if luck < 0.35 else "")


def _dict(rng: Random) -> dict[str, int]:
    return {key: rng.randint(-9, 20) for key in rng.sample("abcdefgh", rng.randint(2, 5))}


LIST_CHANGES = (
    Operation("even", "[x for x in xs if x % 2 == 0]", ("keep the even numbers", "keep only even numbers", "drop the odd numbers", "pick the even ones")),
    Operation("odd", "[x for x in xs if x % 2 == 1]", ("keep the odd numbers", "keep only odd numbers", "drop the even numbers", "pick the odd ones")),
    Operation("positive", "[x for x in xs if x > 0]", ("keep the positive numbers", "keep only positive numbers", "pick the numbers above zero")),
    Operation("negative", "[x for x in xs if x < 0]", ("keep the negative numbers", "keep only negative numbers", "pick the numbers below zero")),
    Operation("above", "[x for x in xs if x > {k}]", ("keep the numbers greater than {k}", "keep numbers above {k}", "keep everything over {k}",
                                                      "pick the numbers larger than {k}"), 1, 9),
    Operation("below", "[x for x in xs if x < {k}]", ("keep the numbers less than {k}", "keep numbers below {k}", "keep everything under {k}",
                                                      "pick the numbers smaller than {k}"), 1, 9),
    Operation("divisible", "[x for x in xs if x % {k} == 0]", ("keep the multiples of {k}", "keep numbers divisible by {k}",
                                                               "pick the numbers that {k} divides"), 3, 9),
    Operation("without", "[x for x in xs if x != {k}]", ("remove every {k}", "drop all {k}s", "take out each {k}"), 1, 9),
    Operation("add", "[x + {k} for x in xs]", ("add {k} to each number", "increase every number by {k}", "add {k} to all of them"), 1, 9),
    Operation("minus", "[x - {k} for x in xs]", ("subtract {k} from each number", "decrease every number by {k}", "take {k} off each number"), 1, 9),
    Operation("times", "[x * {k} for x in xs]", ("multiply each number by {k}", "scale every number by {k}", "multiply all of them by {k}"), 3, 9),
    Operation("double", "[x * 2 for x in xs]", ("double each number", "double every number", "double all of them")),
    Operation("square", "[x * x for x in xs]", ("square each number", "square every number", "square all of them")),
    Operation("negate", "[-x for x in xs]", ("negate each number", "flip the sign of every number", "change the sign of all of them")),
    Operation("absolute", "[abs(x) for x in xs]", ("take the absolute value of each number", "make every number positive", "drop the minus signs")),
    Operation("sort", "sorted(xs)", ("sort them", "sort the list", "sort in ascending order", "put them in order")),
    Operation("sort_down", "sorted(xs, reverse=True)", ("sort in descending order", "sort from high to low", "sort from largest to smallest")),
    Operation("reverse", "xs[::-1]", ("reverse the list", "turn the list around", "put them in reverse order")),
    Operation("first", "xs[:{k}]", ("take the first {k}", "keep the first {k} items", "cut the list to {k} items"), 2, 5),
    Operation("last", "xs[-{k}:]", ("take the last {k}", "keep the last {k} items"), 2, 5),
    Operation("skip", "xs[{k}:]", ("skip the first {k}", "drop the first {k} items"), 2, 5),
    Operation("second", "xs[::2]", ("take every second one, starting with the first", "keep every other item from the first on")),
    Operation("unique", "list(dict.fromkeys(xs))", ("remove duplicates", "drop repeats of a number", "keep each number once")),
)
LIST_RESULTS = (
    Operation("sum", "sum(xs)", ("the sum", "their sum", "the total", "the sum of the list")),
    Operation("count", "len(xs)", ("how many there are", "the count", "the length", "the number of items")),
    Operation("max", "max(xs, default=0)", ("the largest (0 if empty)", "the maximum (0 if empty)", "the biggest one (0 if empty)")),
    Operation("min", "min(xs, default=0)", ("the smallest (0 if empty)", "the minimum (0 if empty)", "the lowest one (0 if empty)")),
    Operation("any", "len(xs) > 0", ("whether any are left", "True if any remain", "True if there are any")),
    Operation("strings", "[str(x) for x in xs]", ("them as strings", "a list of strings", "each as a string")),
    Operation("joined", "\",\".join(str(x) for x in xs)", ("them joined by ','", "a string of them joined by ','", "one string with ',' between them")),
    Operation("head", "xs[0] if xs else None", ("the first one or None", "the first item (None if empty)")),
)
TEXT_CHANGES = (
    Operation("upper", "s.upper()", ("make it upper case", "convert it to upper case", "turn it into capitals", "uppercase it")),
    Operation("lower", "s.lower()", ("make it lower case", "convert it to lower case", "lowercase it")),
    Operation("reverse", "s[::-1]", ("reverse it", "turn it around", "put it in reverse")),
    Operation("no_spaces", "s.replace(\" \", \"\")", ("remove the spaces", "drop all spaces", "take out the spaces")),
    Operation("dashes", "s.replace(\" \", \"-\")", ("replace spaces with dashes", "turn spaces into dashes", "use dashes for spaces")),
    Operation("a_to_o", "s.replace(\"a\", \"o\")", ("replace a with o", "turn every a into o", "change a to o")),
    Operation("no_e", "s.replace(\"e\", \"\")", ("remove every e", "drop each e", "take out all e")),
    Operation("first", "s[:{k}]", ("take the first {k} characters", "cut it to {k} characters", "keep {k} characters from the start"), 2, 6),
    Operation("last", "s[-{k}:]", ("take the last {k} characters", "keep {k} characters from the end"), 2, 6),
    Operation("skip", "s[{k}:]", ("drop the first {k} characters", "skip {k} characters"), 2, 5),
    Operation("repeat", "s * {k}", ("repeat it {k} times", "write it {k} times"), 2, 4),
    Operation("exclaim", "s + \"!\"", ("add an exclamation mark", "put ! at the end", "append !")),
    Operation("title", "s.title()", ("turn it into title case", "put it in title case", "make it title case")),
    Operation("swap", "s.swapcase()", ("swap the case", "flip upper and lower case")),
    Operation("no_vowels", "\"\".join(c for c in s if c not in \"aeiouAEIOU\")", ("remove the vowels", "drop all vowels", "take out the vowels")),
)
TEXT_RESULTS = (
    Operation("text", "s", ("it", "the result", "the string", "the text")),
    Operation("length", "len(s)", ("the length", "how long it is", "the number of characters")),
    Operation("words", "s.split()", ("the words", "a list of words", "the list of its words")),
    Operation("word_count", "len(s.split())", ("the number of words", "how many words it has", "the word count")),
    Operation("count_a", "s.count(\"a\")", ("how often a occurs", "the number of a's", "the count of a")),
    Operation("palindrome", "s == s[::-1]", ("whether it is a palindrome", "True if it is a palindrome", "whether it reads the same backwards")),
    Operation("letters", "list(s)", ("a list of its characters", "the characters as a list")),
    Operation("distinct", "len(set(s))", ("how many different characters it has", "the number of distinct characters")),
)
NUMBER_CHANGES = (
    Operation("add", "n + {k}", ("add {k}", "increase it by {k}", "add {k} to it"), 1, 20),
    Operation("minus", "n - {k}", ("subtract {k}", "decrease it by {k}", "take {k} away"), 1, 20),
    Operation("times", "n * {k}", ("multiply it by {k}", "scale it by {k}", "multiply by {k}"), 3, 9),
    Operation("double", "n * 2", ("double it", "take twice the number")),
    Operation("square", "n * n", ("square it", "multiply it by itself")),
    Operation("half", "n // 2", ("halve it and round down", "take half of it rounded down")),
    Operation("absolute", "abs(n)", ("take the absolute value", "drop the sign")),
    Operation("negate", "-n", ("negate it", "flip the sign")),
    Operation("rest", "n % {k}", ("take the remainder when divided by {k}", "take it modulo {k}"), 3, 9),
    Operation("at_most", "min(n, {k})", ("cap it at {k}", "limit it to at most {k}"), 10, 40),
    Operation("at_least", "max(n, {k})", ("raise it to at least {k}", "make it at least {k}"), 1, 9),
)
NUMBER_RESULTS = (
    Operation("number", "n", ("it", "the result", "the number")),
    Operation("even", "n % 2 == 0", ("whether it is even", "True if it is even", "True for an even one")),
    Operation("odd", "n % 2 == 1", ("whether it is odd", "True if it is odd", "True for an odd one")),
    Operation("positive", "n > 0", ("whether it is positive", "True if it is above zero", "True if it is positive")),
    Operation("string", "str(n)", ("it as a string", "its text", "the number as a string")),
    Operation("digits", "len(str(abs(n)))", ("how many digits it has", "the number of digits")),
    Operation("list", "[n]", ("it in a list", "a list with it")),
)
DICT_CHANGES = (
    Operation("above", "{key: v for key, v in d.items() if v > {k}}",
              ("keep values greater than {k}", "keep entries above {k}", "keep the entries with values over {k}"), 1, 9),
    Operation("below", "{key: v for key, v in d.items() if v < {k}}",
              ("keep values less than {k}", "keep entries below {k}", "keep the entries with values under {k}"), 1, 9),
    Operation("even", "{key: v for key, v in d.items() if v % 2 == 0}", ("keep even values", "keep the entries with even values", "drop odd values")),
    Operation("positive", "{key: v for key, v in d.items() if v > 0}", ("keep positive values", "keep the entries with positive values")),
    Operation("double", "{key: v * 2 for key, v in d.items()}", ("double each value", "double all values", "double the values")),
    Operation("add", "{key: v + {k} for key, v in d.items()}", ("add {k} to each value", "increase all values by {k}", "raise the values by {k}"), 1, 9),
    Operation("square", "{key: v * v for key, v in d.items()}", ("square each value", "square all values", "square the values")),
    Operation("negate", "{key: -v for key, v in d.items()}", ("negate each value", "flip the sign of the values")),
    Operation("upper", "{key.upper(): v for key, v in d.items()}", ("make the keys upper case", "uppercase the keys")),
    Operation("sort", "dict(sorted(d.items()))", ("sort it by key", "order the entries by key")),
)
DICT_RESULTS = (
    Operation("dict", "d", ("it", "the dict", "the result")),
    Operation("keys", "list(d)", ("the list of the keys", "a list of the keys", "its keys as a list")),
    Operation("values", "list(d.values())", ("the list of the values", "a list of the values", "its values as a list")),
    Operation("count", "len(d)", ("the number of entries", "how many entries there are", "its size")),
    Operation("sum", "sum(d.values())", ("the sum of the values", "the total of the values")),
    Operation("max", "max(d.values(), default=0)", ("the largest value (0 if empty)", "the maximum value (0 if empty)")),
    Operation("pairs", "list(d.items())", ("a list of its (key, value) pairs", "a list of its items")),
)

KINDS = {kind.name: kind for kind in (
    Kind("list", "xs", ("a list of numbers", "a list of integers", "a list xs", "a list of ints", "a list"), LIST_CHANGES, LIST_RESULTS,
         Operation("list", "xs", ("the list", "them", "the result")), _numbers),
    Kind("text", "s", ("a string", "a text", "a string s", "some text"), TEXT_CHANGES, TEXT_RESULTS, TEXT_RESULTS[0], _text),
    Kind("number", "n", ("a number", "an integer", "a number n", "an int"), NUMBER_CHANGES, NUMBER_RESULTS, NUMBER_RESULTS[0],
         lambda rng: rng.randint(-20, 60)),
    Kind("dict", "d", ("a dict", "a dict of numbers", "a dictionary", "a dict d"), DICT_CHANGES, DICT_RESULTS, DICT_RESULTS[0], _dict),
)}
