"""Token ids to text that may be sent: whole characters only, held back while it may become a stop string, loops noticed.

Pure bookkeeping of one stream. Does not sample and does not know who reads.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol

_REPLACEMENT = "\ufffd"
_MAX_HELD_TOKENS = 8  # a UTF-8 character has at most 4 bytes; after this many tokens the bytes are simply not text


class Speller(Protocol):
    """Turns ids into text one after the other."""

    def push(self, token: int) -> str:
        """Text that became certain with this id, often empty."""

    def rest(self) -> str:
        """The rest of the text once no more ids come; a broken character at the end is shown as U+FFFD."""


class ByteSpeller:
    """For tokenizers whose every token is a fixed run of bytes. table: the bytes of every id."""

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Whole characters; an id beyond the table has no text."""
        return self._decoder.decode(self._table[token]) if token < len(self._table) else ""

    def rest(self) -> str:
        """What a cut character leaves."""
        return self._decoder.decode(b"", final=True)


class ContextSpeller:
    """For any tokenizer. decode: ids -> text, special tokens left out; called with a little context to the left."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context = 0   # ids from here are decoded together, so that a tokenizer that looks left decodes as in one go
        self._read = 0      # ids before this one have been turned into text

    def push(self, token: int) -> str:
        """Text that no later id changes."""
        self._ids.append(token)
        before = self._decode(self._ids[self._context:self._read])
        now = self._decode(self._ids[self._context:])
        if now.endswith(_REPLACEMENT) and len(self._ids) - self._read < _MAX_HELD_TOKENS:
            return ""
        self._context, self._read = self._read, len(self._ids)
        return now[len(before):]

    def rest(self) -> str:
        """What was held back."""
        before = self._decode(self._ids[self._context:self._read])
        return self._decode(self._ids[self._context:])[len(before):]


class TextStream:
    """Text of a growing list of ids, held back while it may become a stop string."""

    def __init__(self, speller: Speller, *, stop: tuple[str, ...] = ()) -> None:
        self._speller = speller
        self._stop = stop
        self._pending = ""  # text that is whole but may be the beginning of a stop string
        self.stopped = False

    def push(self, token: int) -> str:
        """Add an id; returns the text that became final, often empty. Sets stopped when a stop string was completed."""
        return self._release(self._speller.push(token))

    def finish(self) -> str:
        """The rest of the text once no more ids come."""
        if self.stopped:
            return ""
        rest = self._release(self._speller.rest())
        if self.stopped:
            return rest
        rest, self._pending = rest + self._pending, ""
        return rest

    def _release(self, fresh: str) -> str:
        if not self._stop:
            return fresh
        text = self._pending + fresh
        hits = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if hits:
            self.stopped, self._pending = True, ""
            return text[:min(hits)]
        keep = held_back(text, self._stop)
        self._pending = text[len(text) - keep:]
        return text[:len(text) - keep]


def held_back(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of text that begins one of the stop strings."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest


class LoopGuard:
    """Notices a text that goes in a circle: the last ids repeat with one period, often enough and for long enough."""

    def __init__(self, *, repeats: int, min_tokens: int = 32, max_period: int = 32) -> None:
        self._repeats = repeats
        self._min_tokens = min_tokens
        self._ids: list[int] = []
        self._runs = [0] * (max_period + 1)  # runs[p]: how many ids in a row equal the id p places before

    def push(self, token: int) -> bool:
        """Add an id; True when the end of the text is one piece repeated."""
        ids, runs, looped = self._ids, self._runs, False
        for period in range(1, min(len(ids), len(runs) - 1) + 1):
            if ids[-period] != token:
                runs[period] = 0
                continue
            runs[period] += 1
            covered = runs[period] + period
            looped = looped or (covered >= period * self._repeats and covered >= self._min_tokens)
        ids.append(token)
        return looped
