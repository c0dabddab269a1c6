"""Continuous batching with torch: one decode thread a device serves every loaded model, requests join and leave at any step.

Schedules rows into slots; the arithmetic is forward.py's, the choice of a token sampling.py's, the text text_stream.py's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from experts import tokenizer as tokens
from experts.device import Device
from experts.expert import Expert
from experts.tokenizer import Message, Tokenizer
from serving.engines.forward import Forward, Rows, make_forward
from serving.engines.interface import Capacity, End, EngineClosed, EngineFull, EngineLimits, Failed, FinishReason, LoadFailed, Piece, Stream, TokenLogprob, Work
from serving.engines.sampling import RowState, choose
from serving.engines.text_stream import LoopGuard, TextStream

log = logging.getLogger(__name__)
_WARM_UP_TOKENS = 8


@dataclass(slots=True)
class _Row:
    """One request in the engine. filled: its columns in the cache; count: tokens answered so far."""

    work: Work
    stream: Stream
    text: TextStream
    guard: LoopGuard | None
    submitted: float
    state: RowState = field(init=False)
    started: float = 0.0
    filled: int = 0
    count: int = 0
    unsent: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = RowState(self.work.sampling, list(self.work.prompt_ids))

    def end(self, reason: FinishReason) -> None:
        text = self.text.finish()
        if text or self.logprobs:
            self.stream.put(Piece(text, self.unsent, tuple(self.logprobs)))
        queue_s = (self.started or time.monotonic()) - self.submitted
        self.stream.put(End(reason, len(self.work.prompt_ids), self.count, queue_s))


class TorchModel:
    """One loaded version: its weights, slots and rows. Rows 0..n decode; at most one row behind them is being prefilled."""

    def __init__(self, engine: TorchEngine, forward: Forward, tokenizer: Tokenizer, *, name: str, context_tokens: int, limits: EngineLimits) -> None:
        self.name = name
        self.context_tokens = context_tokens
        self._engine = engine
        self._forward = forward
        self._tokenizer = tokenizer
        self._end_id = tokens.end_id(tokenizer)
        self._limits = limits
        self._slots = forward.new_slots(limits.slots)
        self._waiting: deque[_Row] = deque()  # under the engine's lock; everything below belongs to the decode thread
        self._rows: list[_Row] = []
        self._partial: _Row | None = None
        self._closed = False

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Prompt ids of a conversation, ending where the answer begins."""
        return tuple(tokens.prompt_ids(self._tokenizer, messages))

    def submit(self, work: Work) -> Stream:
        """Reserve a slot or a place in the queue and start; raises EngineFull or EngineClosed."""
        assert 0 < len(work.prompt_ids) < self.context_tokens, "the gateway checks lengths"
        stream = Stream()
        text = TextStream(lambda ids: tokens.decode(self._tokenizer, ids), stop=work.stop)
        repeats = self._limits.loop_repeats if work.loop_guard else None
        row = _Row(work, stream, text, LoopGuard(repeats=repeats) if repeats else None, time.monotonic())
        with self._engine.lock:
            if self._closed:
                raise EngineClosed(f"{self.name} was unloaded")
            held = len(self._waiting) + self._busy()
            if held >= self._limits.slots + self._limits.queue:
                raise EngineFull(f"{self.name} holds {held} requests: {self._limits.slots} slots and {self._limits.queue} waiting", retry_after_s=1.0)
            self._waiting.append(row)
            self._engine.lock.notify()
        return stream

    def capacity(self) -> Capacity:
        """Slots, load and memory now."""
        with self._engine.lock:
            return Capacity(self._limits.slots, self._busy(), len(self._waiting), self._forward.weight_bytes + self._slots.memory_bytes)

    def close(self) -> None:
        """Free the memory; streams still running get Failed."""
        self._engine.unload(self)

    def has_work(self) -> bool:
        """True while a turn would do something."""
        return bool(self._waiting or self._rows or self._partial)

    def fail_all(self, reason: str) -> None:
        """End every request with Failed; the slots are free afterwards."""
        rows = [*self._rows, *([self._partial] if self._partial else []), *self._waiting]
        self._rows, self._partial = [], None
        self._waiting.clear()
        for row in rows:
            row.stream.put(Failed(reason))

    def shut(self) -> None:
        """No more work is taken. Called under the engine's lock."""
        self._closed = True

    def turn(self) -> None:
        """Some prefill, then one token for every decoding row."""
        self._drop_waiting()
        self._sweep()
        self._prefill()
        self._step()

    def warm_up(self) -> None:
        """Generate a little without a request; raises LoadFailed when the numbers aren't finite."""
        ids = list(self.encode([{"role": "user", "content": "1 + 1 = ?"}]))[-self.context_tokens // 2:]
        logits_BV = self._forward.logits(Rows(0, [ids], [0], [len(ids) - 1]), self._slots)
        for offset in range(len(ids), min(len(ids) + _WARM_UP_TOKENS, self.context_tokens)):
            if not bool(torch.isfinite(logits_BV).all()):
                raise LoadFailed(f"{self.name}: a warm-up generation gave numbers that aren't finite")
            logits_BV = self._forward.logits(Rows(0, [[int(logits_BV.argmax())]], [offset], [0]), self._slots)

    def _busy(self) -> int:
        return len(self._rows) + (self._partial is not None)

    def _drop_waiting(self) -> None:
        now = time.monotonic()
        with self._engine.lock:
            kept: deque[_Row] = deque()
            for row in self._waiting:
                if row.stream.cancelled:
                    row.end("cancelled")
                elif now - row.submitted > self._limits.queue_wait_s or (row.work.deadline is not None and now > row.work.deadline):
                    row.stream.put(Failed(f"no slot of {self.name} came free in {now - row.submitted:.1f} s", kind="queue"))
                else:
                    kept.append(row)
            self._waiting = kept

    def _sweep(self) -> None:
        """Take out rows whose reader left or whose time is over."""
        now = time.monotonic()
        for row in list(self._rows):
            over = _over(row, now)
            if over:
                row.end(over)
                self._leave(row)
        over = _over(self._partial, now) if self._partial else None
        if self._partial and over:
            self._partial.end(over)
            self._partial = None

    def _prefill(self) -> None:
        if self._partial is None:
            group = self._next_group()
            if not group:
                return
            if len(group) > 1 or len(group[0].work.prompt_ids) <= self._limits.prefill_tokens:
                self._prefill_whole(group)
                return
            self._partial = group[0]
        row = self._partial
        ids = row.work.prompt_ids[row.filled:row.filled + self._limits.prefill_tokens]
        logits_BV = self._forward.logits(Rows(len(self._rows), [ids], [row.filled], [len(ids) - 1]), self._slots)
        row.filled += len(ids)
        if row.filled == len(row.work.prompt_ids):
            self._partial = None
            self._rows.append(row)
            self._advance([row], logits_BV)

    def _next_group(self) -> list[_Row]:
        """Waiting rows that are prefilled together: as many as fit the slots and prefill_tokens when padded to the longest."""
        group: list[_Row] = []
        with self._engine.lock:
            while self._waiting and len(self._rows) + len(group) < self._limits.slots:
                width = max(len(row.work.prompt_ids) for row in (*group, self._waiting[0]))
                if group and width * (len(group) + 1) > self._limits.prefill_tokens:
                    break
                group.append(self._waiting.popleft())
        for row in group:
            row.started = time.monotonic()
        return group

    def _prefill_whole(self, group: list[_Row]) -> None:
        width = max(len(row.work.prompt_ids) for row in group)
        ids = [[*row.work.prompt_ids, *[0] * (width - len(row.work.prompt_ids))] for row in group]
        start = len(self._rows)
        self._rows += group  # before the pass, so that a failure reaches them
        logits_BV = self._forward.logits(Rows(start, ids, [0] * len(group), [len(row.work.prompt_ids) - 1 for row in group]), self._slots)
        for row in group:
            row.filled = len(row.work.prompt_ids)
        self._advance(group, logits_BV)

    def _step(self) -> None:
        if self._rows:
            rows = list(self._rows)
            ids = [[row.state.ids[-1]] for row in rows]
            logits_BV = self._forward.logits(Rows(0, ids, [row.filled for row in rows], [0] * len(rows)), self._slots)
            for row in rows:
                row.filled += 1
            self._advance(rows, logits_BV)

    def _advance(self, rows: Sequence[_Row], logits_BV: Tensor) -> None:
        """Choose each row's next token, send its text, take out the rows that ended."""
        raw = {index: logits_BV[index].log_softmax(-1) for index, row in enumerate(rows) if row.work.logprobs is not None}
        for index, (row, token) in enumerate(zip(rows, choose(logits_BV, [row.state for row in rows]), strict=True)):
            reason = self._take(row, token, raw.get(index))
            if reason:
                row.end(reason)
                self._leave(row)

    def _take(self, row: _Row, token: int, logprobs_V: Tensor | None) -> FinishReason | None:
        if token == self._end_id and not row.work.ignore_end:
            return "stop"
        row.state.ids.append(token)
        row.count += 1
        row.unsent += 1
        if logprobs_V is not None:
            row.logprobs.append(self._logprob(token, logprobs_V, row.work.logprobs or 0))
        text = row.text.push(token)
        if text:
            row.stream.put(Piece(text, row.unsent, tuple(row.logprobs)))
            row.unsent, row.logprobs = 0, []
        if row.text.stopped:
            return "stop"
        if row.guard is not None and row.guard.push(token):
            return "loop"
        return "length" if row.count >= row.work.max_new_tokens or row.filled >= self.context_tokens else None

    def _logprob(self, token: int, logprobs_V: Tensor, alternatives: int) -> TokenLogprob:
        best = logprobs_V.topk(alternatives) if alternatives else None
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True) if best else ()
        top = tuple((tokens.decode(self._tokenizer, [other]), value) for value, other in pairs)
        return TokenLogprob(tokens.decode(self._tokenizer, [token]), float(logprobs_V[token]), top)

    def _leave(self, row: _Row) -> None:
        """Close the gap that a row leaves: the last decoding row moves into it, the row in prefill moves up by one."""
        place, last = self._rows.index(row), len(self._rows) - 1
        self._slots.move(last, place, self._rows[last].filled)
        self._rows[place] = self._rows[last]
        self._rows.pop()
        if self._partial is not None:
            self._slots.move(last + 1, last, self._partial.filled)


def _over(row: _Row, now: float) -> FinishReason | None:
    if row.stream.cancelled:
        return "cancelled"
    return "deadline" if row.work.deadline is not None and now > row.work.deadline else None


class TorchEngine:
    """All models of one device and the thread that decodes for them."""

    name = "torch"

    def __init__(self, device: Device, *, limits: EngineLimits | None = None) -> None:
        self.lock = threading.Condition()
        self._device = device
        self._limits = limits or EngineLimits()
        self._models: list[TorchModel] = []
        self._gone: list[TorchModel] = []
        self._closing = False
        self._thread: threading.Thread | None = None

    def load(self, folder: Path, *, name: str) -> TorchModel:
        """Load a version folder, run a warm-up generation and a sanity check; raises LoadFailed."""
        try:
            with self._device.turn(), torch.no_grad():
                expert = Expert.load(folder, device=self._device)
                forward = make_forward(expert.model, device=self._device)
                model = TorchModel(self, forward, expert.tokenizer, name=name, context_tokens=expert.context_tokens, limits=self._limits)
                model.warm_up()
        except (OSError, ValueError, RuntimeError, KeyError, AttributeError, AssertionError) as error:
            raise LoadFailed(f"{name} from {folder} can't be served: {type(error).__name__}: {error}") from error
        with self.lock:
            if self._closing:
                raise LoadFailed("the engine is closing")
            self._models.append(model)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"decode-{self._device.kind}", daemon=True)
                self._thread.start()
        return model

    def unload(self, model: TorchModel) -> None:
        """Hand a model to the decode thread to be dropped; its streams get Failed."""
        with self.lock:
            model.shut()
            if model in self._models:
                self._models.remove(model)
                self._gone.append(model)
                self.lock.notify()

    def close(self) -> None:
        """Stop the decode thread; streams still running get Failed."""
        with self.lock:
            self._closing = True
            self.lock.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=10)

    def _run(self) -> None:
        with torch.no_grad():
            while True:
                with self.lock:
                    while not (self._closing or self._gone or any(model.has_work() for model in self._models)):
                        self.lock.wait()
                    models, gone, closing = list(self._models), self._gone, self._closing
                    self._gone = []
                for model in gone:
                    model.fail_all("the model was unloaded")
                if closing:
                    self._fail_models(models)
                    return
                for model in models:
                    if model.has_work():
                        self._turn(model)
                del models, gone  # a dropped model must not live on in a variable of an idle thread

    def _turn(self, model: TorchModel) -> None:
        try:
            with self._device.turn():
                model.turn()
        except Exception:  # whatever breaks one model's turn must not end the streams of the others
            log.exception("decoding with %s broke; its requests end with an error, the other nodes go on", model.name)
            with self.lock:
                model.fail_all("the decode step raised")

    def _fail_models(self, models: Sequence[TorchModel]) -> None:
        with self.lock:
            for model in models:
                model.shut()
                model.fail_all("the engine closed")
            self._models = []
