"""A prompt as somebody else would have typed it: a typo, another case, no marks, a please, blanks, a question mark.

Every change keeps what is asked. Draws only from the given random source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType

_WORD = re.compile(r"[A-Za-z]{4,}")
_MARKS = re.compile(r"[.,!?;:'\"]")
_NEIGHBOURS = dict(zip("abcdefghijklmnopqrstuvwxyz", ("qs", "vn", "xv", "sf", "wr", "dg", "fh", "gj", "uo", "hk", "jl", "k", "n", "bm", "ip", "o", "wa",
                                                      "et", "ad", "ry", "yi", "cb", "qe", "zc", "tu", "x"), strict=True))
_POLITE = ("Please {}", "please {}", "{} please", "{}, please.", "Could you please help: {}", "Hi, {}", "{} Thanks!")


def typo(prompt: str, rng: Random) -> str:
    """One letter of one longer word swapped, dropped, doubled or hit beside."""
    words = list(_WORD.finditer(prompt))
    if not words:
        return prompt
    word = words[int(rng.random() * len(words))]
    place = word.start() + 1 + int(rng.random() * (word.end() - word.start() - 2))
    letter = prompt[place]
    neighbours = _NEIGHBOURS[letter.lower()]
    changed = (prompt[place + 1] + letter, "", letter * 2, neighbours[int(rng.random() * len(neighbours))])
    kind = int(rng.random() * len(changed))
    if kind == 0 and prompt[place + 1] == letter:  # two alike: swapping them would be no typo
        kind = 1
    return prompt[:place] + changed[kind] + prompt[place + (2 if kind == 0 else 1):]


def _case(prompt: str, rng: Random) -> str:
    return prompt.lower() if rng.random() < 0.6 else prompt.upper()


def _without_marks(prompt: str, _rng: Random) -> str:
    return _MARKS.sub("", prompt)


def _politely(prompt: str, rng: Random) -> str:
    return _POLITE[int(rng.random() * len(_POLITE))].format(prompt.strip())


def _blanks(prompt: str, rng: Random) -> str:
    return prompt + " " * rng.randint(1, 4) + ("\n" if rng.random() < 0.3 else "")


def _question_mark(prompt: str, _rng: Random) -> str:
    bare = prompt.rstrip()
    return bare[:-1] if bare.endswith("?") else bare.rstrip(".! ") + "?"


PERTURBATIONS: Mapping[str, Callable[[str, Random], str]] = MappingProxyType({
    "typo": typo, "case": _case, "no marks": _without_marks, "please": _politely, "blanks": _blanks, "question mark": _question_mark})


def perturbed(prompt: str, rng: Random) -> str:
    """Prompt after one perturbation, mostly a typo or no marks: the others hardly change what the router reads."""
    luck = rng.random()
    if luck < 0.3:
        return typo(prompt, rng)
    if luck < 0.8:
        return _without_marks(prompt, rng)
    kinds = list(PERTURBATIONS.values())
    return kinds[int(rng.random() * len(kinds))](prompt, rng)
