"""Short prompts as people type them, drawn from the phrase files: they tell the router what a domain sounds like in daily use.

phrases/<domain>.toml has templates whose {places} are filled from its own or the shared lists. A domain without a file has no
everyday prompts. Draws only from the given seed; knows no data set.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

from routing.rows import Row

PHRASES = Path(__file__).resolve().parent / "phrases"
SOURCE = "everyday"
_SHARED = "shared"
_PLACE = re.compile(r"\{([a-z_0-9]+)\}")
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Phrases:
    """Templates of one kind of prompt and the lists that fill their places."""

    templates: tuple[str, ...]
    lists: Mapping[str, tuple[str, ...]]

    def draw(self, rng: Random) -> str:
        """One prompt."""
        return self._fill(_pick(rng, self.templates), rng)

    def _fill(self, text: str, rng: Random) -> str:
        return _PLACE.sub(lambda place: self._fill(self._word(place.group(1), rng), rng), text)

    def _word(self, name: str, rng: Random) -> str:
        if name == "n":
            return str(rng.randint(2, 30))
        if name == "m":
            return str(rng.randint(31, 2000))
        return _pick(rng, self.lists[name])


def everyday_rows(domains: Collection[str], *, count: int, seed: int) -> list[Row]:
    """Up to count different prompts for each of the domains that have a phrase file."""
    return [Row(prompt, domain, f"{SOURCE}/{domain}") for domain in domains if (PHRASES / f"{domain}.toml").exists()
            for prompt in draw_prompts(read_phrases(domain), count=count, rng=Random(f"{SOURCE}/{domain}/{seed}"))]


def draw_prompts(phrases: Phrases, *, count: int, rng: Random) -> list[str]:
    """count different prompts, or fewer when the phrases don't give more."""
    drawn: dict[str, None] = {}
    for _ in range(count * _TRIES):
        if len(drawn) >= count:
            break
        drawn[phrases.draw(rng)] = None
    return list(drawn)


@lru_cache(maxsize=64)
def read_phrases(name: str) -> Phrases:
    """The phrase file of that name together with the shared lists."""
    tables = tomllib.loads((PHRASES / f"{name}.toml").read_text(encoding="utf-8"))
    shared = tomllib.loads((PHRASES / f"{_SHARED}.toml").read_text(encoding="utf-8"))
    lists = {**shared["lists"], **tables.get("lists", {})}
    return Phrases(tuple(tables["templates"]), {key: tuple(words) for key, words in lists.items()})


def _pick(rng: Random, options: Sequence[str]) -> str:
    return options[int(rng.random() * len(options))]
