"""Rows of all models whose forwards have one shape: who waits, who reads its prompt, who decodes, one pass for all of them.

Runs on the engine's decode thread; only waiting lists are shared with others, under the engine's lock. The arithmetic is
the forwards', the choice of a token sampling.py's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from serving.engines.interface import EngineLimits, FinishReason
from serving.engines.passes import Forward, Rows
from serving.engines.rows import Row
from serving.engines.sampling import choose

log = logging.getLogger(__name__)


class Member:
    """A model's share of a batch: its forward, its requests that wait, how many are under way."""

    def __init__(self, forward: Forward, *, name: str) -> None:
        self.name = name
        self.forward = forward
        self.waiting: deque[Row] = deque()  # under the engine's lock
        self.running = 0                    # this and the next are the decode thread's
        self.alone_s = 0.0                  # seconds in steps of one row

    def has_work(self) -> bool:
        """True while a turn would do something."""
        return bool(self.waiting or self.running)


class Batch:
    """Rows 0..n of the slots decode; at most one row behind them is in the middle of its prompt."""

    def __init__(self, *, lock: threading.Condition, limits: EngineLimits) -> None:
        self.members: list[Member] = []
        self._lock = lock
        self._limits = limits
        self._rows: list[Row] = []
        self._owners: dict[Row, Member] = {}
        self._partial: Row | None = None
        self._slots: Any = None
        self._joint: tuple[list[Forward], Forward] | None = None
        self._next = 0

    def join(self, member: Member) -> None:
        """Take a model's rows from now on. Raises what an allocation raises, and is then as it was."""
        needed = (len(self.members) + 1) * self._limits.slots
        if self._slots is None:
            self._slots = member.forward.new_slots(needed)
        elif self._slots.slots < needed:  # never fewer again: a swap would copy twice for nothing
            rows = [*self._rows, *([self._partial] if self._partial else [])]
            self._slots = self._slots.grown(needed, [row.filled for row in rows])
        self.members.append(member)

    def leave(self, member: Member, reason: str) -> None:
        """Drop a model; its requests get Failed. Called under the engine's lock."""
        self.fail(member, reason)
        self.members.remove(member)
        self._joint = None  # it holds weights

    def fail(self, member: Member, reason: str) -> None:
        """End every request of a model with Failed. Called under the engine's lock."""
        for row in [row for row in self._rows if self._owners[row] is member]:
            row.fail(reason)
            self._remove(row)
        if self._partial is not None and self._owners[self._partial] is member:
            self._partial.fail(reason)
            self._drop_partial()
        for row in member.waiting:
            row.fail(reason)
        member.waiting.clear()

    def has_work(self) -> bool:
        """True while a turn would do something."""
        return any(member.has_work() for member in self.members)

    def turn(self) -> None:
        """Some prefill, then one token for every decoding row."""
        self._drop_waiting()
        self._sweep()
        self._prefill()
        if self._rows:
            rows = list(self._rows)
            self._pass(rows, 0, [[row.state.ids[-1]] for row in rows])

    def _drop_waiting(self) -> None:
        now = time.monotonic()
        with self._lock:
            for member in self.members:
                kept: deque[Row] = deque()
                for row in member.waiting:
                    if row.stream.cancelled:
                        row.end("cancelled")
                    elif now - row.submitted > self._limits.queue_wait_s or row.over(now):
                        row.fail(f"no slot of {member.name} came free in {now - row.submitted:.1f} s", queue=True)
                    else:
                        kept.append(row)
                member.waiting = kept

    def _sweep(self) -> None:
        """Take out rows whose reader left or whose time is over."""
        now = time.monotonic()
        for row in list(self._rows):
            over = row.over(now)
            if over:
                self._end(row, over)
        over = self._partial.over(now) if self._partial else None
        if self._partial and over:
            self._partial.end(over)
            self._drop_partial()

    def _prefill(self) -> None:
        if self._partial is None:
            group = self._next_group()
            if not group:
                return
            start = len(self._rows)
            whole = self._owners[group[0]].forward.whole_prompts or len(group[0].work.prompt_ids) <= self._limits.prefill_tokens
            if len(group) > 1 or whole:
                self._rows += group
                self._pass(group, start, [row.work.prompt_ids for row in group])
                return
            self._partial = group[0]
        row = self._partial
        self._pass([row], len(self._rows), [row.work.prompt_ids[row.filled:row.filled + self._limits.prefill_tokens]])

    def _next_group(self) -> list[Row]:
        """Waiting rows that read their prompts together, models in turn: as many as prefill_tokens when padded to the longest."""
        group: list[Row] = []
        width = 0
        with self._lock:
            ready = deque(self.members[self._next:] + self.members[:self._next])
            self._next = (self._next + 1) % max(1, len(self.members))
            while ready:
                member = ready.popleft()
                if not member.waiting or member.running >= self._limits.slots:
                    continue
                width = max(width, len(member.waiting[0].work.prompt_ids))
                if group and (member.forward.whole_prompts or width * (len(group) + 1) > self._limits.prefill_tokens):
                    break
                row = member.waiting.popleft()
                self._owners[row] = member
                member.running += 1
                group.append(row)
                ready.append(member)
        for row in group:
            row.started = time.monotonic()
        return group

    def _pass(self, rows: Sequence[Row], start: int, ids: Sequence[Sequence[int]]) -> None:
        """One pass over neighbouring rows, and the next token of those that have read their prompt."""
        width = max(map(len, ids))
        padded = [[*one, *[0] * (width - len(one))] for one in ids]
        last, offsets = [len(one) - 1 for one in ids], [row.filled for row in rows]
        began = time.perf_counter()
        try:
            logits_BV = self._forward_of(rows).logits(Rows(start, padded, offsets, last), self._slots)
        except Exception:  # whatever breaks one model's pass must not end the streams of the others
            log.exception("a pass for %s broke", ", ".join(sorted({self._owners[row].name for row in rows})))
            self._pass_alone(rows, start, ids)
            return
        if len(rows) == 1 and width == 1:
            self._owners[rows[0]].alone_s += time.perf_counter() - began
        for row, one in zip(rows, ids, strict=True):
            row.filled += len(one)
        self._advance(rows, logits_BV)

    def _pass_alone(self, rows: Sequence[Row], start: int, ids: Sequence[Sequence[int]]) -> None:
        """The same for each row by itself, after a pass broke: only the requests of the model that broke end."""
        broken: list[Member] = []
        through: list[tuple[Row, Tensor]] = []
        for index, row in enumerate(rows):
            member = self._owners[row]
            try:
                if member not in broken:
                    alone = Rows(start + index, [ids[index]], [row.filled], [len(ids[index]) - 1])
                    through.append((row, member.forward.logits(alone, self._slots)))
                    row.filled += len(ids[index])  # before rows move: with all their columns
            except Exception:
                log.exception("decoding with %s broke; its requests end with an error, the other nodes go on", member.name)
                broken.append(member)
        with self._lock:
            for member in broken:
                self.fail(member, "the decode step raised")
        for row, logits_BV in through:
            if row in self._owners:
                self._advance([row], logits_BV)

    def _forward_of(self, rows: Sequence[Row]) -> Forward:
        forwards = [self._owners[row].forward for row in rows]
        if self._joint is None or self._joint[0] != forwards:
            self._joint = forwards, forwards[0].joined(forwards)
        return self._joint[1]

    def _advance(self, rows: Sequence[Row], logits_BV: Tensor) -> None:
        """Choose the next token of each row that has read its prompt, send its text, take out the rows that ended."""
        if self._partial is not None and rows[0] is self._partial:
            if self._partial.filled < len(self._partial.work.prompt_ids):
                return
            self._rows.append(self._partial)
            self._partial = None
        raw = {index: logits_BV[index].log_softmax(-1) for index, row in enumerate(rows) if row.work.logprobs is not None}
        for index, (row, token) in enumerate(zip(rows, self._chosen(rows, logits_BV), strict=True)):
            try:
                reason = None if token is None else row.take(token, raw.get(index))
            except Exception:
                log.exception("a token of %s couldn't be taken; its request ends with an error, the others go on", self._owners[row].name)
                token = reason = None
            if token is None:
                self._give_up(row)
            elif reason:
                self._end(row, reason)

    def _chosen(self, rows: Sequence[Row], logits_BV: Tensor) -> list[int | None]:
        """The next token of each row, None where none can be chosen. When choosing breaks it is done row by row, so that only the row at
        fault ends; a neighbour's penalties may then count twice for this one token."""
        try:
            tokens = choose(logits_BV, [row.state for row in rows])
        except Exception:
            log.exception("choosing a token for %s broke", ", ".join(sorted({self._owners[row].name for row in rows})))
            if len(rows) == 1:
                return [None]
            return [token for index, row in enumerate(rows) for token in self._chosen([row], logits_BV[index:index + 1])]
        if None in tokens:
            log.error("logits of %s aren't numbers; these requests end with an error, the others go on",
                      ", ".join(sorted({self._owners[row].name for row, token in zip(rows, tokens, strict=True) if token is None})))
        return tokens

    def _end(self, row: Row, reason: FinishReason) -> None:
        row.end(reason)
        self._remove(row)

    def _give_up(self, row: Row) -> None:
        """End one row with Failed; its columns may hold what isn't a number."""
        row.fail("no token could be chosen")
        self._slots.wipe(self._rows.index(row))
        self._remove(row)
        self._slots.wipe(len(self._rows) + (self._partial is not None))  # what moved away from there may be the next to be given up

    def _remove(self, row: Row) -> None:
        """Close the gap that a row leaves: the last decoding row moves into it, the row in prefill moves up by one."""
        place, last = self._rows.index(row), len(self._rows) - 1
        self._slots.move(last, place, self._rows[last].filled)
        self._rows[place] = self._rows[last]
        self._rows.pop()
        if self._partial is not None:
            self._slots.move(last + 1, last, self._partial.filled)
        self._owners.pop(row).running -= 1

    def _drop_partial(self) -> None:
        assert self._partial is not None
        self._owners.pop(self._partial).running -= 1
        self._partial = None
