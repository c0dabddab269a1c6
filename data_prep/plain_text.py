"""Prose as (prompt, response): the first sentence of a paragraph, and what follows it.

A record needs a prompt, and running text has none, so a passage is honest about what it teaches: to go on. Paragraphs are
separated by blank lines. One with nothing after its first sentence (a heading, a single sentence) opens the next one; one too
long is cut at sentence ends. Does not read files (sources.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_PASSAGE_CHARS = 2000  # about 500 tokens; longer paragraphs become several passages
_SENTENCE_END = re.compile(r"""[.!?]["')\]\u2019\u201d]*\s+|\n""")


@dataclass(frozen=True, slots=True)
class Passage:
    """line: where it begins. response is empty for a last sentence that nothing follows."""

    line: int
    prompt: str
    response: str


def passages(lines: Sequence[tuple[int, str]]) -> Iterator[Passage]:
    """Passages of numbered lines."""
    opening, opening_line = "", 0
    for line, paragraph in _paragraphs(lines):
        for piece in _pieces(paragraph):
            if opening:
                yield Passage(opening_line, opening, piece)
                opening = ""
                continue
            head, rest = _after_first_sentence(piece)
            if rest:
                yield Passage(line, head, rest)
            else:
                opening, opening_line = head, line
    if opening:
        yield Passage(opening_line, opening, "")


def _paragraphs(lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    block: list[str] = []
    begin = 0
    for number, line in lines:
        if line.strip():
            begin = begin if block else number
            block.append(line.rstrip())
        elif block:
            yield begin, "\n".join(block)
            block = []
    if block:
        yield begin, "\n".join(block)


def _pieces(paragraph: str) -> Iterator[str]:
    """The paragraph in pieces of at most MAX_PASSAGE_CHARS, cut after sentences where there are any."""
    while len(paragraph) > MAX_PASSAGE_CHARS:
        ends = [match.end() for match in _SENTENCE_END.finditer(paragraph, 0, MAX_PASSAGE_CHARS)]
        cut = ends[-1] if ends else MAX_PASSAGE_CHARS
        yield paragraph[:cut].strip()
        paragraph = paragraph[cut:]
    if paragraph.strip():
        yield paragraph.strip()


def _after_first_sentence(piece: str) -> tuple[str, str]:
    end = _SENTENCE_END.search(piece)
    return (piece[:end.end()].strip(), piece[end.end():].strip()) if end else (piece, "")
