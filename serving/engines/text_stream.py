"""Token ids to text that may be sent: whole characters only, held back while it may become a stop string, loops noticed.

Pure bookkeeping of one stream. Does not sample and does not know who reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
_MAX_HELD_TOKENS = 8  # a UTF-8 character has at most 4 bytes; after this many tokens the bytes are simply not text


class TextStream:
    """Text of a growing list of ids. decode: ids -> text, special tokens left out."""

    def __init__(self, decode: Callable[[Sequence[int]], str], *, stop: tuple[str, ...] = ()) -> None:
        self._decode = decode
        self._stop = stop
        self._ids: list[int] = []
        self._context = 0   # ids from here are decoded together, so that a tokenizer that looks left decodes as in one go
        self._read = 0      # ids before this one have been turned into text
        self._pending = ""  # text that is whole but may be the beginning of a stop string
        self.stopped = False

    def push(self, token: int) -> str:
        """Add an id; returns the text that became final, often empty. Sets stopped when a stop string was completed."""
        self._ids.append(token)
        before = self._decode(self._ids[self._context:self._read])
        now = self._decode(self._ids[self._context:])
        if now.endswith(_REPLACEMENT) and len(self._ids) - self._read < _MAX_HELD_TOKENS:
            return ""
        fresh = now[len(before):]
        self._context, self._read = self._read, len(self._ids)
        return self._release(fresh)

    def finish(self) -> str:
        """The rest of the text once no more ids come; a broken character at the end is shown as U+FFFD."""
        if self.stopped:
            return ""
        before = self._decode(self._ids[self._context:self._read])
        rest = self._release(self._decode(self._ids[self._context:])[len(before):])
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
