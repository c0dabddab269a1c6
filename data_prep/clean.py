"""Records become examples: NFC, no control characters, length bounds, each content once; everything left out is counted.

Pure. Does not read files (sources.py) and does not look for near-duplicates (overlap.py).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from data_prep.records import Example, Record, content_key
from data_prep.sources import Rejection
from settings import DataSettings

# C0 and C1 controls but tab and line feed, the byte-order mark, and the two non-characters at the end of the plane.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_LINE_END = re.compile("\r\n?|\u2028|\u2029")
# What may differ between two tellings of the same thing. Not operators (3 + 1 and 3 - 1 are two sums, != is no mark of
# surprise), and neither the point nor the comma inside a number.
_PUNCTUATION = re.compile(r"""[;:?'"\u2018\u2019\u201c\u201d\u2026]|!(?!=)|[.,](?!\d)|(?<!\d)[.,]""")


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Examples in the order of the records, where each was found (by key), and the records left out with their reasons."""

    examples: list[Example]
    rejections: list[Rejection]
    places: dict[str, str]


def clean(records: Iterable[Record], *, settings: DataSettings, loosely: bool = True) -> Cleaned:
    """Clean all records of a domain (or of several).

    loosely: contents that differ in case, spacing and sentence marks only count as one; else equal ones alone do. Of records
    with the same content the exam_only one stays, else the first. A record whose prompt an exam_only record of its domain asks
    too is left out, whatever it answers.
    """
    numbered = list(enumerate(records))
    kept: list[tuple[int, Example]] = []
    rejections: list[Rejection] = []
    places: dict[str, str] = {}
    seen: dict[bytes, str] = {}
    asked: dict[bytes, str] = {}
    for index, record in sorted(numbered, key=lambda item: (not item[1].exam_only, item[0])):
        prompt, response = clean_text(record.prompt), clean_text(record.response)
        key = content_key(record.domain, prompt, response)
        question, content = _digest(record.domain, prompt), _digest(record.domain, prompt, response) if loosely else bytes.fromhex(key)
        rejection = _fault(prompt, response, where=record.where, settings=settings)
        if rejection is None and content in seen:
            rejection = Rejection(record.where, "duplicate", f"same content as {seen[content]}")
        elif rejection is None and not record.exam_only and question in asked:
            rejection = Rejection(record.where, "same prompt as a held-out row", f"{asked[question]} asks it")
        if rejection is not None:
            rejections.append(rejection)
            continue
        seen[content] = record.where
        if record.exam_only:
            asked[question] = record.where
        places[key] = record.where
        kept.append((index, Example(record.domain, prompt, response, record.source, key, record.meta, record.exam_only)))
    return Cleaned([example for _, example in sorted(kept, key=lambda item: item[0])], rejections, places)


def _digest(domain: str, *texts: str) -> bytes:
    return hashlib.blake2b("\0".join([domain, *map(normalised, texts)]).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def clean_text(text: str) -> str:
    """Text as it is kept: NFC, line feeds as line ends, no control characters but tab and line feed, no outer blanks."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return _CONTROL.sub("", _LINE_END.sub("\n", text)).strip()


def normalised(text: str) -> str:
    """What two texts share that differ in case, spacing and sentence marks only."""
    return " ".join(_PUNCTUATION.sub(" ", text).casefold().split())


def _fault(prompt: str, response: str, *, where: str, settings: DataSettings) -> Rejection | None:
    for name, text, most in (("prompt", prompt, settings.max_prompt_chars), ("response", response, settings.max_response_chars)):
        if not text:
            return Rejection(where, "empty", f"nothing is left of the {name} without blanks and control characters")
        if len(text) < settings.min_chars:
            return Rejection(where, "too short", f"{name} of {len(text)} characters; data.min_chars = {settings.min_chars}")
        if len(text) > most:
            return Rejection(where, "over length", f"{name} of {len(text):,} characters; data.max_{name}_chars = {most}")
    return None

