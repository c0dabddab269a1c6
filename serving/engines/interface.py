"""What every engine offers: load a version, submit tokens and options, read a stream of text pieces, cancel, close.

Holds the shared shapes only. Does not know HTTP, routes or how any engine decodes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from experts.tokenizer import Message
from settings import DecodingSettings

FinishReason = Literal["stop", "length", "loop", "deadline", "cancelled"]
GREEDY_BELOW = 1e-5  # vLLM's line; logits divided by 1e-38 and less are infinite in float32


class EngineFull(Exception):
    """No slot and no place in the queue. retry_after_s: when asking again may help."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineClosed(Exception):
    """The model or its engine no longer takes work."""


class LoadFailed(Exception):
    """A version can't be served: the message names the folder and the reason."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Sizes of the engine. slots, queue: requests a model; prefill_tokens: prompt tokens a turn, so that a long prompt
    doesn't stall the streams; queue_wait_s: longest wait for a slot; loop_repeats: None switches the loop guard off;
    coalesce_s: shortest time between two pieces of a stream."""

    slots: int = 32
    queue: int = 64
    prefill_tokens: int = 256
    queue_wait_s: float = 30.0
    loop_repeats: int | None = 8
    coalesce_s: float = 0.02


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; a temperature below GREEDY_BELOW is greedy. dry: see experts/repetition.py. The defaults switch every
    filter off."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window_tokens: int = 64
    seed: int = 0
    dry: DecodingSettings | None = None

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken each time."""
        return self.temperature < GREEDY_BELOW


@dataclass(frozen=True, slots=True)
class Work:
    """One prompt to continue. deadline: time.monotonic() after which decoding stops; logprobs: None, or how many
    alternatives to report beside the chosen token. ignore_end: go on after the end token. messages: for engines that take text."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    deadline: float | None = None
    logprobs: int | None = None
    loop_guard: bool = True
    ignore_end: bool = False
    messages: Sequence[Message] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of one chosen token, and the best alternatives, most probable first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that became final: whole characters only, never a part of a stop string."""

    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """The last event of a stream that went well. queue_s: seconds between submit and the first work on it."""

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    queue_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event of a stream that broke. reason is for logs, and for clients where kind is "refused": another server that answers for
    the node won't take the request as it stands. kind "queue": no slot came free in time."""

    reason: str
    kind: Literal["broken", "queue", "refused"] = "broken"


Event = Piece | End | Failed


def merged(pieces: Sequence[Piece]) -> Piece:
    """Neighbouring pieces as one."""
    if len(pieces) == 1:
        return pieces[0]
    return Piece("".join(one.text for one in pieces), sum(one.tokens for one in pieces), tuple(each for one in pieces for each in one.logprobs))


class Stream:
    """Events of one request, written by the engine and read by one HTTP thread. Never blocks the engine: the number of
    events is bounded by max_new_tokens, so a slow reader costs memory for its own text only.

    coalesce_s: after the first piece, text is handed over at most this often, because waking a reader costs more than a token
    of a small model. What is held back goes with the next piece or the end.
    """

    def __init__(self, *, coalesce_s: float = 0.0) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._on_cancel: Callable[[], None] | None = None
        self._coalesce_s = coalesce_s
        self._writing = threading.Lock()  # the engine's thread, and whoever unloads a model
        self._held: list[Piece] = []
        self._handed = 0.0

    def put(self, event: Event) -> None:
        """Engine side: append an event."""
        with self._writing:
            now = time.monotonic()
            if isinstance(event, Piece):
                self._held.append(event)
                if now - self._handed < self._coalesce_s:
                    return
            if self._held:
                self._events.put(merged(self._held))
                self._held, self._handed = [], now
            if not isinstance(event, Piece):
                self._events.put(event)

    def next(self, *, timeout_s: float) -> Event | None:
        """The next event, or None when none came in time."""
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def ready(self) -> Iterator[Event]:
        """Events that are there already, without waiting."""
        while True:
            try:
                yield self._events.get_nowait()
            except queue.Empty:
                return

    def cancel(self) -> None:
        """Reader side: nobody waits for this text any more; the engine frees the slot at its next step."""
        with self._writing:
            self._cancelled.set()
            act = self._on_cancel
        if act is not None:
            act()

    def when_cancelled(self, act: Callable[[], None]) -> None:
        """Engine side: what wakes a thread that waits elsewhere, called when the reader gives up, or now when it has."""
        with self._writing:
            self._on_cancel = act
        if self.cancelled:
            act()

    @property
    def cancelled(self) -> bool:
        """True once the reader gave up."""
        return self._cancelled.is_set()


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a model holds at this moment. memory_bytes: weights and cache."""

    slots: int
    busy: int
    waiting: int
    memory_bytes: int


class Model(Protocol):
    """One loaded version. unsupported: which options of a request (gateway.Ask.options) it can't honour; they are refused."""

    context_tokens: int
    unsupported: frozenset[str]

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Prompt ids of a conversation, ending where the answer begins."""

    def submit(self, work: Work) -> Stream:
        """Reserve a slot or a place in the queue and start; raises EngineFull or EngineClosed."""

    def capacity(self) -> Capacity:
        """Slots, load and memory now."""

    def close(self) -> None:
        """Free the memory; streams still running get Failed. Calling it twice is harmless."""


class Engine(Protocol):
    """Loads versions and decodes for all of them."""

    name: str

    def load(self, folder: Path, *, name: str) -> Model:
        """Load a version folder, run a warm-up generation and a sanity check; raises LoadFailed."""

    def close(self) -> None:
        """Stop every thread and free every model. Calling it twice is harmless."""
