"""Requests that wait for one of a model's threads: first come, first served, and whoever leaves or waits too long goes at once.

For engines that give each request a thread. Does not count who may come in (the model does) and decodes nothing.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from serving.engines.interface import Stream, Work


class Waiter(Protocol):
    """What a line looks at. submitted: time.monotonic()."""

    work: Work
    stream: Stream
    submitted: float


WaiterT = TypeVar("WaiterT", bound=Waiter)


class WaitingLine(Generic[WaiterT]):
    """threads: requests under way at once; wait_s: longest wait. run: answers a request, in a thread of the line; leave: called in place
    of it for a request that gave up (cancelled) or whose time is over, by whichever thread saw it."""

    def __init__(self, *, name: str, threads: int, wait_s: float, run: Callable[[WaiterT], None], leave: Callable[[WaiterT, bool], None]) -> None:
        self._wait_s, self._run, self._leave = wait_s, run, leave
        self._changed = threading.Condition()  # guards the rest
        self._waiting: dict[WaiterT, float] = {}  # oldest first, and until when
        self._calls = 0  # of _next that no thread has begun: never more than were once waiting, however many gave up
        self._wake = math.inf
        self._closed = False
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._sweeper = threading.Thread(target=self._sweep, name=f"{name}-waiting", daemon=True)

    def add(self, request: WaiterT) -> None:
        """Let it wait, for nothing where a thread is free. Raises RuntimeError after close()."""
        until = request.submitted + self._wait_s
        if request.work.deadline is not None:
            until = min(until, request.work.deadline)
        request.stream.when_cancelled(functools.partial(self._give_up, request))  # before a thread can set its own
        with self._changed:
            if self._calls <= len(self._waiting):
                self._workers.submit(self._next)
                self._calls += 1
            self._waiting[request] = until
            if self._sweeper.ident is None:
                self._sweeper.start()
            if until < self._wake:
                self._changed.notify()

    def close(self, *, wait: bool) -> None:
        """Begin nothing more; wait: until what runs has ended. Calling it twice is harmless."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._workers.shutdown(wait=wait, cancel_futures=True)

    def _next(self) -> None:
        with self._changed:
            self._calls -= 1
            request = next(iter(self._waiting), None)
            if request is None:
                return
            del self._waiting[request]
        self._run(request)

    def _give_up(self, request: WaiterT) -> None:
        with self._changed:
            if self._waiting.pop(request, None) is None:
                return
        self._leave(request, True)

    def _sweep(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now, self._wake = time.monotonic(), min(self._waiting.values(), default=math.inf)
                if self._wake > now:
                    self._changed.wait(None if self._wake == math.inf else self._wake - now)
                    continue
                over = [request for request, until in self._waiting.items() if until <= now]
                for request in over:
                    del self._waiting[request]
            for request in over:
                self._leave(request, False)
