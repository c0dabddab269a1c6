"""One running answer: reads the engine's stream for an HTTP thread, notices a client that left, a deadline, the end.

Holds the version in memory until close(). Does not know which bytes go out (api.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from routing.router import Route
from serving.engines.interface import End, Event, Failed, Piece, Stream, merged
from serving.errors import ApiError
from serving.pool import Resident

_LOOK_S = 0.1  # how often a waiting thread looks whether its client is still there


class ClientGone(Exception):
    """Nobody reads this answer any more."""


@dataclass(slots=True)
class Timing:
    """arrived: time.monotonic() of the request; route_s: seconds of routing."""

    arrived: float
    route_s: float
    first: float | None = None
    ended: float | None = None

    def milliseconds(self, queue_s: float) -> dict[str, float]:
        """timing_ms of the answer."""
        ended = self.ended or time.monotonic()
        first = self.first or ended
        return {"queue": round(queue_s * 1e3, 3), "route": round(self.route_s * 1e3, 3),
                "first_token": round((first - self.arrived) * 1e3, 3), "total": round((ended - self.arrived) * 1e3, 3)}


class Answer:
    """Text of one request as it comes. Read by one thread; cut() may come from another.

    ending: how it ended, for the log and the figures: a finish reason, "broken" (the node), "cut" (by the end of the gateway), or
    "cancelled" as long as nothing else is known, which is when its reader left.
    """

    def __init__(self, route: Route, resident: Resident, stream: Stream, timing: Timing, *, client_gone: Callable[[], bool]) -> None:
        """client_gone: whether nobody waits any more. on_close, set by whoever has to know, is called once, by close()."""
        self.route = route
        self.node = resident.name
        self.version = resident.version
        self.timing = timing
        self.end: End | None = None
        self.ending = "cancelled"
        self.on_close: Callable[[], object] = lambda: None
        self._resident = resident
        self._stream = stream
        self._client_gone = client_gone
        self._cut = threading.Event()
        self._first: Event | None = None
        self._closing = threading.Lock()
        self._closed = False

    def wait_first(self) -> Event:
        """The first event, also the first that pieces() gives. Raises ApiError or ClientGone."""
        self._first = self._next()
        self.timing.first = time.monotonic()
        return self._first

    def pieces(self) -> Iterator[Piece]:
        """Text until the end; what is there already comes as one piece. Sets end. Raises ApiError when the answer breaks."""
        while self.end is None:
            event, self._first = self._first or self._next(), None
            ready = [event] if not isinstance(event, Piece) else [event, *self._stream.ready()]
            pieces = [one for one in ready if isinstance(one, Piece)]
            last = ready[-1]
            if isinstance(last, End):
                self.end, self.ending = last, last.finish_reason
                self.timing.ended = time.monotonic()
            if pieces:
                yield merged(pieces)
            if isinstance(last, Failed):
                self.ending = "broken"
                raise ApiError(500, "the node broke while it answered; ask again", code="node_failed")

    def _next(self) -> Event:
        while True:
            if self._cut.is_set():
                self.ending = "cut"
                raise ApiError(503, "the gateway shut down before the answer was ready", code="draining", retry_after_s=5)
            if self._client_gone():
                raise ClientGone
            event = self._stream.next(timeout_s=_LOOK_S)
            if event is not None:
                return event

    def cut(self) -> None:
        """End it with an error at its next look."""
        self._cut.set()

    def close(self) -> None:
        """Free the slot if it still runs, and let the version go. Calling it twice is harmless."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        if self.end is None:
            self._stream.cancel()
        self._resident.release()
        self.on_close()
