"""Words that several domains share and how people type: a stray lower case, a missing mark, a please.

Draws only from the given random source. Knows no task.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import TypeVar

Choice = TypeVar("Choice")

THINGS = ("apples", "books", "pens", "coins", "cards", "stamps", "shells", "cookies", "marbles", "stickers", "eggs", "balls", "keys", "cups",
          "plums", "pears", "toys", "beads", "hats", "roses")


def pick(rng: Random, options: Sequence[Choice]) -> Choice:
    """One of the options."""
    return options[int(rng.random() * len(options))]


def sample(rng: Random, options: Sequence[Choice], count: int) -> list[Choice]:
    """count different options in random order."""
    return rng.sample(options, count)


def fill(rng: Random, templates: Sequence[str], **values: object) -> str:
    """One template with its {places} filled."""
    return pick(rng, templates).format(**values)


def an(noun: str) -> str:
    """A noun with its indefinite article, by its first letter."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def capital(sentence: str) -> str:
    """A sentence with a capital at its start."""
    return sentence[:1].upper() + sentence[1:]


_LAST_MARK = re.compile(r"[.?!]$")


def as_typed(rng: Random, text: str) -> str:
    """Text as somebody may type it: mostly as it stands, now and then without the last mark or the first capital."""
    luck = rng.random()
    if luck < 0.06 or luck > 0.96:
        text = _LAST_MARK.sub("", text).rstrip()
    if 0.06 < luck < 0.12 or luck > 0.96:
        text = text[:1].lower() + text[1:]
    return text
