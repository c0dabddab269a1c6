"""A node answered by another server that speaks OpenAI's chat completions: vLLM, llama.cpp, or another gateway of ours.

Time limits, one retry before the first text, a circuit breaker, a cap on what is under way. Loads and decodes nothing.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from experts.tokenizer import Message
from serving.engines.interface import Capacity, End, EngineClosed, EngineFull, EngineLimits, Failed, FinishReason, Piece, Stream, Work
from serving.engines.waiting import WaitingLine

log = logging.getLogger(__name__)
KEY_VARIABLE = "BRANCHWISE_UPSTREAM_KEY"
_CONNECT_S, _READ_S = 5.0, 30.0
_MOST_ERROR_BYTES = 65_536
_UNKNOWN_CONTEXT = 2**31  # the other server checks lengths


class UpstreamFault(Exception):
    """The other server refused, broke or fell silent. again: whether another try may help; refused: the fault is the request's, and the
    message is the other server's word on it."""

    def __init__(self, message: str, *, again: bool, refused: bool = False) -> None:
        super().__init__(message)
        self.again = again
        self.refused = refused


class Breaker:
    """Stops asking a server that keeps failing: open after so many failures in a row, then one try every open_s."""

    def __init__(self, *, failures: int = 3, open_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._open_s, self._clock = failures, open_s, clock
        self._failures = 0
        self._next_try = 0.0
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Whether to ask now. While open, one caller in open_s is let through."""
        with self._lock:
            if self._failures < self._limit:
                return True
            if self._clock() < self._next_try:
                return False
            self._next_try = self._clock() + self._open_s
            return True

    def note(self, *, worked: bool) -> None:
        """Say how it went."""
        with self._lock:
            self._failures = 0 if worked else self._failures + 1
            if self._failures >= self._limit:
                self._next_try = self._clock() + self._open_s


class _Call:
    """One request while the other server answers it. sent: pieces of text handed on."""

    def __init__(self, work: Work, stream: Stream) -> None:
        self.work, self.stream = work, stream
        self.sent = 0
        self.submitted = self.began = time.monotonic()

    @property
    def queue_s(self) -> float:
        """Seconds that it waited for a place."""
        return self.began - self.submitted

    def over(self) -> FinishReason | None:
        """Whether its reader left or its time is over."""
        if self.stream.cancelled:
            return "cancelled"
        return "deadline" if self.work.deadline is not None and time.monotonic() > self.work.deadline else None

    def patience_s(self) -> float:
        """Longest wait for the other server: until the deadline at most. In seconds, more than 0."""
        left = _READ_S if self.work.deadline is None else self.work.deadline - time.monotonic()
        return min(_READ_S, max(0.001, left))

    def end(self, reason: FinishReason, used: Mapping[str, int] | None = None) -> End:
        """The last event. used: the other server's count of tokens, where it said one."""
        used = used or {}
        return End(reason, used.get("prompt_tokens", 0), used.get("completion_tokens", self.sent), self.queue_s)

    def relay(self, events: Iterator[dict[str, Any]]) -> End:
        """Hand the texts on; the last event. Raises UpstreamFault when the stream ends too early."""
        reason: FinishReason | None = None
        used: dict[str, int] = {}
        for event in events:
            if "error" in event:
                raise UpstreamFault(f"error event: {str(event['error'])[:300]}", again=True)
            used = event.get("usage") or used
            for choice in event.get("choices") or ():
                if text := (choice.get("delta") or {}).get("content"):
                    self.sent += 1
                    self.stream.put(Piece(text, 1))
                if choice.get("finish_reason"):
                    reason = "stop" if choice["finish_reason"] == "stop" else "length"
            if over := self.over():
                return self.end(over, used)
        if reason is None:
            raise UpstreamFault("the stream ended without a finish_reason", again=True)
        return self.end(reason, used)


class UpstreamModel:
    """One node behind a URL. url: base of the API, as in http://host:8000/v1; #name names the model there."""

    # Beyond OpenAI's API servers have other words for these, and ignore those that they don't know; probabilities aren't read.
    unsupported = frozenset({"logprobs", "top_k", "min_p", "repetition_penalty", "dry_multiplier", "ignore_end"})

    def __init__(self, url: str, *, name: str, limits: EngineLimits, breaker: Breaker | None = None) -> None:
        self.name = name
        self.context_tokens = _UNKNOWN_CONTEXT
        self._address = urlsplit(url)
        self._model = self._address.fragment or name
        self._limits = limits
        self._breaker = breaker or Breaker()
        self._line: WaitingLine[_Call] = WaitingLine(name=f"upstream-{name}", threads=limits.slots, wait_s=limits.queue_wait_s,
                                                     run=self._run, leave=self._leave)
        self._lock = threading.Lock()
        self._held = 0
        self._closed = False

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:  # noqa: ARG002
        """Nothing: the other server has the tokenizer."""
        return ()

    def submit(self, work: Work) -> Stream:
        """Reserve a place and ask; raises EngineFull or EngineClosed. With the breaker open the stream fails at once."""
        stream = Stream(coalesce_s=self._limits.coalesce_s)
        with self._lock:
            if self._closed:
                raise EngineClosed(f"{self.name} was unloaded")
            if self._held >= self._limits.slots + self._limits.queue:
                raise EngineFull(f"{self.name} has {self._held} requests under way upstream", retry_after_s=1.0)
            if not self._breaker.allows():
                stream.put(Failed(f"{self._address.netloc} failed too often; it is asked again in a while"))
                return stream
            self._held += 1
            self._line.add(_Call(work, stream))
        return stream

    def capacity(self) -> Capacity:
        """What is under way; no memory is ours."""
        with self._lock:
            return Capacity(self._limits.slots, min(self._held, self._limits.slots), max(0, self._held - self._limits.slots), 0)

    def close(self) -> None:
        """Take no more work."""
        with self._lock:
            self._closed = True
        self._line.close(wait=False)

    def _leave(self, call: _Call, cancelled: bool) -> None:
        with self._lock:
            self._held -= 1
        waited_s = time.monotonic() - call.submitted
        call.stream.put(End("cancelled", 0, 0, waited_s) if cancelled else Failed(f"no slot of {self.name} came free in {waited_s:.1f} s", kind="queue"))

    def _run(self, call: _Call) -> None:
        try:
            call.stream.put(self._last_event(call))
        except Exception as error:  # whatever comes from there, whoever reads this stream must learn that it is over
            log.exception("%s: asking %s broke", self.name, self._address.netloc)
            self._breaker.note(worked=False)
            call.stream.put(Failed(f"asking {self._address.netloc} broke: {type(error).__name__}"))
        finally:
            with self._lock:
                self._held -= 1

    def _last_event(self, call: _Call) -> End | Failed:
        """Ask, once more if that may help before there is any text, and say how it ended."""
        call.began = time.monotonic()
        if call.queue_s > self._limits.queue_wait_s:
            return Failed(f"no slot of {self.name} came free in {call.queue_s:.1f} s", kind="queue")
        for attempt in (1, 2):
            if over := call.over():
                return call.end(over)
            try:
                end = self._ask(call)
            except (UpstreamFault, OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:
                if over := call.over():  # it was we who hung up
                    return call.end(over)
                log.warning("%s: try %d at %s: %s", self.name, attempt, self._address.netloc, error)
                again = not isinstance(error, UpstreamFault) or error.again
                if not again or call.sent or attempt == 2:  # a second answer after some text would be another text
                    self._breaker.note(worked=not again)
                    return Failed(str(error), kind="refused" if isinstance(error, UpstreamFault) and error.refused else "broken")
            else:
                self._breaker.note(worked=True)
                return end
        raise AssertionError("the second try returns")

    def _ask(self, call: _Call) -> End:
        connection = self._connect()
        try:
            connection.connect()
            sock = connection.sock
            call.stream.when_cancelled(functools.partial(_hang_up, sock))
            sock.settimeout(call.patience_s())
            connection.request("POST", f"{self._address.path.rstrip('/')}/chat/completions", json.dumps(self._body(call.work)), _headers())
            response = connection.getresponse()
            if response.status != 200:
                raise _fault_of(response.status, response.read(_MOST_ERROR_BYTES))
            return call.relay(_events(response, before_each=lambda: sock.settimeout(call.patience_s())))
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._address.scheme == "https" else http.client.HTTPConnection
        return kind(str(self._address.hostname), self._address.port, timeout=_CONNECT_S)

    def _body(self, work: Work) -> dict[str, Any]:
        sampling = work.sampling
        body: dict[str, Any] = {"model": self._model, "messages": list(work.messages), "max_tokens": work.max_new_tokens, "stream": True,
                                "stream_options": {"include_usage": True}, "temperature": sampling.temperature, "top_p": sampling.top_p,
                                "seed": sampling.seed % 2**31}
        return {**body, "stop": list(work.stop)} if work.stop else body


def _fault_of(status: int, body: bytes) -> UpstreamFault:
    """What a status other than 200 means. Few are about the request; the others are about our key, account or address, or its state."""
    if status in (400, 413, 415, 422):
        return UpstreamFault(_message_in(body) or f"status {status}", again=False, refused=True)
    return UpstreamFault(f"status {status}: {body[:300]!r}", again=status in (408, 429) or status >= 500)


def _message_in(body: bytes) -> str:
    """The message of an error body, whichever of the usual shapes it has; else its beginning."""
    text = body.decode("utf-8", "replace").strip()
    try:
        found = json.loads(text)
    except ValueError:
        return text[:300]
    for name in ("error", "message", "detail"):
        found = found.get(name, found) if isinstance(found, dict) else found
    return (found if isinstance(found, str) else json.dumps(found))[:300]


def _hang_up(sock: socket.socket) -> None:
    """Wake the thread that reads from it: it sees the end of the stream."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _headers() -> dict[str, str]:
    key = os.environ.get(KEY_VARIABLE)
    return {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}


def _events(response: http.client.HTTPResponse, *, before_each: Callable[[], None]) -> Iterator[dict[str, Any]]:
    before_each()
    while line := response.readline():
        if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
            yield json.loads(data)
        before_each()
