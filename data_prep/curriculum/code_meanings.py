"""What each operation of code_operations.py does, as functions of (value, k): the results that tests want come from here.

Written apart from the expressions, so that running the one against the other (the sandbox does) finds a mistake in either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Meaning = Callable[[Any, int], Any]


def _keeping(condition: Callable[[int, int], bool]) -> Meaning:
    return lambda values, k: list(filter(lambda value: condition(value, k), values))


def _each(change: Callable[[int, int], Any]) -> Meaning:
    return lambda values, k: list(map(change, values, [k] * len(values)))


def _entries(condition: Callable[[int, int], bool]) -> Meaning:
    return lambda entries, k: dict(filter(lambda entry: condition(entry[1], k), entries.items()))


def _values(change: Callable[[int, int], int]) -> Meaning:
    return lambda entries, k: dict(zip(entries, [change(value, k) for value in entries.values()], strict=True))


def _distinct(values: Iterable[int]) -> list[int]:
    seen: list[int] = []
    for value in values:
        if value not in seen:
            seen.append(value)
    return seen


def _without(letters: str) -> Meaning:
    return lambda text, _k: text.translate({ord(letter): None for letter in letters})


_LIST: Mapping[str, Meaning] = {
    "even": _keeping(lambda x, _k: not x & 1), "odd": _keeping(lambda x, _k: bool(x & 1)), "positive": _keeping(lambda x, _k: x >= 1),
    "negative": _keeping(lambda x, _k: x <= -1), "above": _keeping(lambda x, k: x >= k + 1), "below": _keeping(lambda x, k: x <= k - 1),
    "divisible": _keeping(lambda x, k: x // k * k == x), "without": _keeping(lambda x, k: x != k), "add": _each(lambda x, k: x + k),
    "minus": _each(lambda x, k: x - k), "times": _each(lambda x, k: x * k), "double": _each(lambda x, _k: x + x), "square": _each(lambda x, _k: x ** 2),
    "negate": _each(lambda x, _k: 0 - x), "absolute": _each(lambda x, _k: max(x, -x)), "sort": lambda xs, _k: sorted(xs),
    "sort_down": lambda xs, _k: sorted(xs)[::-1], "reverse": lambda xs, _k: list(reversed(xs)), "first": lambda xs, k: [x for i, x in enumerate(xs) if i < k],
    "last": lambda xs, k: [x for i, x in enumerate(xs) if i >= len(xs) - k], "skip": lambda xs, k: [x for i, x in enumerate(xs) if i >= k],
    "second": lambda xs, _k: [x for i, x in enumerate(xs) if i % 2 == 0], "unique": lambda xs, _k: _distinct(xs), "sum": lambda xs, _k: sum(xs),
    "count": lambda xs, _k: len(xs), "max": lambda xs, _k: sorted(xs)[-1] if xs else 0, "min": lambda xs, _k: sorted(xs)[0] if xs else 0,
    "any": lambda xs, _k: bool(xs), "strings": _each(lambda x, _k: f"{x}"), "joined": lambda xs, _k: ",".join(map(str, xs)),
    "head": lambda xs, _k: next(iter(xs), None), "list": lambda xs, _k: xs,
}
_TEXT: Mapping[str, Meaning] = {
    "upper": lambda s, _k: s.upper(), "lower": lambda s, _k: s.lower(), "reverse": lambda s, _k: "".join(reversed(s)), "no_spaces": _without(" "),
    "dashes": lambda s, _k: "-".join(s.split(" ")), "a_to_o": lambda s, _k: "o".join(s.split("a")), "no_e": _without("e"),
    "first": lambda s, k: "".join(list(s)[:k]), "last": lambda s, k: s[max(0, len(s) - k):], "skip": lambda s, k: "".join(list(s)[k:]),
    "repeat": lambda s, k: "".join([s] * k), "exclaim": lambda s, _k: f"{s}!", "title": lambda s, _k: s.title(), "swap": lambda s, _k: s.swapcase(),
    "no_vowels": _without("aeiouAEIOU"), "text": lambda s, _k: s, "length": lambda s, _k: len(s), "words": lambda s, _k: s.split(),
    "word_count": lambda s, _k: len(s.split()), "count_a": lambda s, _k: sum(letter == "a" for letter in s),
    "palindrome": lambda s, _k: all(a == b for a, b in zip(s, reversed(s), strict=True)), "letters": lambda s, _k: list(s),
    "distinct": lambda s, _k: len(set(s)),
}
_NUMBER: Mapping[str, Meaning] = {
    "add": lambda n, k: n + k, "minus": lambda n, k: n - k, "times": lambda n, k: n * k, "double": lambda n, _k: n + n, "square": lambda n, _k: n ** 2,
    "half": lambda n, _k: n >> 1, "absolute": lambda n, _k: max(n, -n), "negate": lambda n, _k: 0 - n, "rest": lambda n, k: n - n // k * k,
    "at_most": lambda n, k: k if n > k else n, "at_least": lambda n, k: k if n < k else n, "number": lambda n, _k: n, "even": lambda n, _k: not n & 1,
    "odd": lambda n, _k: bool(n & 1), "positive": lambda n, _k: n >= 1, "string": lambda n, _k: f"{n}",
    "digits": lambda n, _k: sum(c.isdigit() for c in str(n)), "list": lambda n, _k: [n],
}
_DICT: Mapping[str, Meaning] = {
    "above": _entries(lambda v, k: v >= k + 1), "below": _entries(lambda v, k: v <= k - 1), "even": _entries(lambda v, _k: not v & 1),
    "positive": _entries(lambda v, _k: v >= 1), "double": _values(lambda v, _k: v + v), "add": _values(lambda v, k: v + k),
    "square": _values(lambda v, _k: v ** 2), "negate": _values(lambda v, _k: 0 - v),
    "upper": lambda d, _k: dict(zip([key.upper() for key in d], d.values(), strict=True)), "sort": lambda d, _k: {key: d[key] for key in sorted(d)},
    "dict": lambda d, _k: d, "keys": lambda d, _k: list(d.keys()), "values": lambda d, _k: [d[key] for key in d], "count": lambda d, _k: len(d),
    "sum": lambda d, _k: sum(d.values()), "max": lambda d, _k: sorted(d.values())[-1] if d else 0, "pairs": lambda d, _k: [(key, d[key]) for key in d],
}
MEANINGS: Mapping[str, Mapping[str, Meaning]] = {"list": _LIST, "text": _TEXT, "number": _NUMBER, "dict": _DICT}
