"""Prompts that belong to none of the domains: other languages, gibberish, scraps, and tasks that no expert is for.

The router learns from them what "none of these" looks like. Draws only from the given seed.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from random import Random

from experts.tree import OUT_OF_DOMAIN
from routing.everyday import draw_prompts, read_phrases
from routing.rows import Row

SOURCE = "none"
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxz", "aeiouy"
_SCRAPS = ("{}", "ref {}", "{} {}", "id={}", "re: {}", "fwd: {}", "#{}", "{}.pdf", "img_{}.jpg", "www.{}.com", "{}@mail.com")
_KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def none_rows(count: int, *, seed: int) -> list[Row]:
    """About count rows labelled "ood": two in five in other languages, two in five other tasks, the rest gibberish and scraps."""
    rng = Random(f"{SOURCE}/{seed}")
    rows = [(text, "languages") for text in draw_prompts(read_phrases("none_languages"), count=count * 2 // 5, rng=rng)]
    rows += [(text, "tasks") for text in draw_prompts(read_phrases("none_tasks"), count=count * 2 // 5, rng=rng)]
    makers: tuple[Callable[[Random], str], ...] = (_letters, _syllables, _keys, _signs, _repeated, _scrap)
    rows += [(makers[number % len(makers)](rng), "gibberish") for number in range(count // 5)]
    return [Row(text, OUT_OF_DOMAIN, f"{SOURCE}/{kind}") for text, kind in dict(rows).items()]


def _letters(rng: Random) -> str:
    return " ".join("".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 11))) for _ in range(rng.randint(1, 8)))


def _syllables(rng: Random) -> str:
    return " ".join("".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(2, 9)))


def _keys(rng: Random) -> str:
    row = rng.choice(_KEY_ROWS)
    return " ".join("".join(rng.choices(row, k=rng.randint(4, 12))) for _ in range(rng.randint(1, 4)))


def _signs(rng: Random) -> str:
    return "".join(rng.choices(string.punctuation + "  0123456789", k=rng.randint(1, 25)))


def _repeated(rng: Random) -> str:
    return rng.choice(string.ascii_lowercase) * rng.randint(2, 40) if rng.random() < 0.5 else " ".join([_syllables(rng).split()[0]] * rng.randint(2, 12))


def _scrap(rng: Random) -> str:
    """A word or code without a request: an order number, a half address, a stray token."""
    code = "".join(rng.choices(string.ascii_uppercase + string.digits, k=rng.randint(4, 14)))
    return rng.choice(_SCRAPS).format(code, code[::-1])
