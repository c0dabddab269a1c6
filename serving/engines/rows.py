"""One request inside the torch engine: its options, its place in the cache, its text so far, and when it is over.

Pure bookkeeping of one row. Does not decode and does not know the rows beside it (batch.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from serving.engines.interface import End, EngineLimits, Failed, FinishReason, Piece, Stream, TokenLogprob, Work
from serving.engines.sampling import RowState
from serving.engines.text_stream import ByteSpeller, ContextSpeller, LoopGuard, TextStream


@dataclass(frozen=True, slots=True)
class Speech:
    """What a row needs of its model to turn ids into text and to end. decode: ids -> text, special tokens left out; table: the
    bytes of every id where they are all that decides."""

    decode: Callable[[Sequence[int]], str]
    table: tuple[bytes, ...] | None
    end_id: int
    context_tokens: int


class Row:
    """filled: columns in the cache; count: tokens answered so far."""

    def __init__(self, work: Work, speech: Speech, *, limits: EngineLimits) -> None:
        self.work = work
        self.stream = Stream(coalesce_s=limits.coalesce_s)
        self.state = RowState(work.sampling, list(work.prompt_ids))
        self.submitted = time.monotonic()
        self.started = 0.0
        self.filled = 0
        self._count = 0
        self._speech = speech
        self._text = TextStream(ContextSpeller(speech.decode) if speech.table is None else ByteSpeller(speech.table), stop=work.stop)
        self._guard = LoopGuard(repeats=limits.loop_repeats) if limits.loop_repeats and work.loop_guard else None
        self._unsent = 0
        self._logprobs: list[TokenLogprob] = []

    def take(self, token: int, logprobs_V: Tensor | None) -> FinishReason | None:
        """Add the next token and send what text became final; why the answer is over, or None."""
        if token == self._speech.end_id and not self.work.ignore_end:
            return "stop"
        self.state.push(token)
        self._count += 1
        self._unsent += 1
        if logprobs_V is not None:
            self._logprobs.append(self._logprob(token, logprobs_V, self.work.logprobs or 0))
        text = self._text.push(token)
        if text:
            self.stream.put(Piece(text, self._unsent, tuple(self._logprobs)))
            self._unsent, self._logprobs = 0, []
        if self._text.stopped:
            return "stop"
        if self._guard is not None and self._guard.push(token):
            return "loop"
        return "length" if self._count >= self.work.max_new_tokens or self.filled >= self._speech.context_tokens else None

    def over(self, now: float) -> FinishReason | None:
        """Whether its reader left or its time is over."""
        if self.stream.cancelled:
            return "cancelled"
        return "deadline" if self.work.deadline is not None and now > self.work.deadline else None

    def end(self, reason: FinishReason) -> None:
        """Send the rest of the text and the last event."""
        text = self._text.finish()
        if text or self._logprobs:
            self.stream.put(Piece(text, self._unsent, tuple(self._logprobs)))
        self.stream.put(End(reason, len(self.work.prompt_ids), self._count, (self.started or time.monotonic()) - self.submitted))

    def fail(self, reason: str, *, queue: bool = False) -> None:
        """Say that it broke."""
        self.stream.put(Failed(reason, kind="queue" if queue else "broken"))

    def _logprob(self, token: int, logprobs_V: Tensor, alternatives: int) -> TokenLogprob:
        best = logprobs_V.topk(alternatives) if alternatives else None
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True) if best else ()
        top = tuple((self._speech.decode([other]), value) for value, other in pairs)
        return TokenLogprob(self._speech.decode([token]), float(logprobs_V[token]), top)
