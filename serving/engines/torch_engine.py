"""Continuous batching with torch: one decode thread a device serves every loaded model, requests join and leave at any step.

Holds models and the thread. Rows are batch.py's, the arithmetic is forward.py's, the choice of a token sampling.py's.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from experts import tokenizer as tokens
from experts.device import Device
from experts.expert import Expert
from experts.tokenizer import Message, Tokenizer
from serving.engines.batch import Batch, Member
from serving.engines.compiled_step import StepCompiler, can_compile
from serving.engines.forward import make_forward
from serving.engines.interface import Capacity, EngineClosed, EngineFull, EngineLimits, LoadFailed, Stream, Work
from serving.engines.lean_qwen3 import LeanQwen3
from serving.engines.passes import Forward, Rows
from serving.engines.rows import Row, Speech
from serving.engines.token_bytes import token_bytes

log = logging.getLogger(__name__)
_WARM_UP_TOKENS = 8


class TorchModel(Member):
    """One loaded version. joined: done once the decode thread has slots for it, or LoadFailed."""

    unsupported = frozenset[str]()

    def __init__(self, engine: TorchEngine, forward: Forward, tokenizer: Tokenizer, *, name: str, context_tokens: int, limits: EngineLimits) -> None:
        super().__init__(forward, name=name)
        self.context_tokens = context_tokens
        self._engine = engine
        self._tokenizer = tokenizer
        self._speech = Speech(lambda ids: tokens.decode(tokenizer, ids), token_bytes(tokenizer), tokens.end_id(tokenizer), context_tokens)
        self._limits = limits
        self._closed = False
        self.joined: Future[None] = Future()
        self._bytes = forward.weight_bytes + forward.new_slots(1).memory_bytes * limits.slots

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Prompt ids of a conversation, ending where the answer begins."""
        return tuple(tokens.prompt_ids(self._tokenizer, messages))

    def submit(self, work: Work) -> Stream:
        """Reserve a slot or a place in the queue and start; raises EngineFull or EngineClosed."""
        assert 0 < len(work.prompt_ids) < self.context_tokens, "the gateway checks lengths"
        row = Row(work, self._speech, limits=self._limits)
        with self._engine.lock:
            if self._closed:
                raise EngineClosed(f"{self.name} was unloaded")
            held = len(self.waiting) + self.running
            if held >= self._limits.slots + self._limits.queue:
                raise EngineFull(f"{self.name} holds {held} requests: {self._limits.slots} slots and {self._limits.queue} waiting", retry_after_s=1.0)
            self.waiting.append(row)
            self._engine.lock.notify()
        return row.stream

    def capacity(self) -> Capacity:
        """Slots, load and memory now; slots count as if they were full."""
        with self._engine.lock:
            return Capacity(self._limits.slots, self.running, len(self.waiting), self._bytes)

    def close(self) -> None:
        """Free the memory; streams still running get Failed."""
        self._engine.unload(self)

    def shut(self) -> None:
        """No more work is taken. Called under the engine's lock."""
        self._closed = True

    def warm_up(self) -> None:
        """Generate a little without a request; raises LoadFailed when the numbers aren't finite."""
        slots = self.forward.new_slots(1)
        ids = list(self.encode([{"role": "user", "content": "1 + 1 = ?"}]))[-self.context_tokens // 2:]
        logits_BV = self.forward.logits(Rows(0, [ids], [0], [len(ids) - 1]), slots)
        for offset in range(len(ids), min(len(ids) + _WARM_UP_TOKENS, self.context_tokens)):
            if not bool(torch.isfinite(logits_BV).all()):
                raise LoadFailed(f"{self.name}: a warm-up generation gave numbers that aren't finite")
            logits_BV = self.forward.logits(Rows(0, [[int(logits_BV.argmax())]], [offset], [0]), slots)


class TorchEngine:
    """All models of one device and the thread that decodes for them."""

    name = "torch"

    def __init__(self, device: Device, *, limits: EngineLimits | None = None, compile_after_s: float | None = None) -> None:
        """compile_after_s: seconds of a model's steps of one row after which its step is compiled in the background, where there is a
        compiler; None: never."""
        self.lock = threading.Condition()
        self._device = device
        self._limits = limits or EngineLimits()
        self._compile_after_s = compile_after_s
        self._compiler = StepCompiler(device) if compile_after_s is not None and can_compile(device) else None
        self._coming: list[TorchModel] = []  # these lists under the lock, the batches are the thread's
        self._gone: list[TorchModel] = []
        self._models: list[TorchModel] = []
        self._batches: dict[Hashable, Batch] = {}
        self._closing = False
        self._thread: threading.Thread | None = None

    def load(self, folder: Path, *, name: str) -> TorchModel:
        """Load a version folder, run a warm-up generation and a sanity check; raises LoadFailed."""
        # In a thread that ends: each that computes keeps a team of OpenMP threads, and with more of those than cores none spins at its barriers
        # any more, which costs a small model's step a third of its time.
        with ThreadPoolExecutor(1, thread_name_prefix="load") as loader:
            return loader.submit(self._load, folder, name=name).result()

    def _load(self, folder: Path, *, name: str) -> TorchModel:
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
            self._coming.append(model)
            self.lock.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"decode-{self._device.kind}", daemon=True)
                self._thread.start()
        model.joined.result()
        if self._compiler is not None and isinstance(model.forward, LeanQwen3):
            self._compiler.give(model.forward)
        return model

    def unload(self, model: TorchModel) -> None:
        """Hand a model to the decode thread to be dropped; its streams get Failed."""
        with self.lock:
            model.shut()
            if model in self._models:
                self._models.remove(model)
                self._gone.append(model)
                self.lock.notify()

    def wait_compiled(self) -> None:
        """Until nothing is being compiled; for measurements."""
        if self._compiler is not None:
            self._compiler.wait()

    def close(self) -> None:
        """Stop the decode thread; streams still running get Failed."""
        if self._compiler is not None:
            self._compiler.close()
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
                    while not (self._closing or self._gone or self._coming or any(model.has_work() for model in self._models)):
                        self.lock.wait()
                if self._closing or self._gone or self._coming:
                    with self._device.turn(), self.lock:
                        self._change()
                        if self._closing:
                            return
                self._turns()

    def _turns(self) -> None:
        for batch in list(self._batches.values()):
            try:
                with self._device.turn():
                    if batch.has_work():
                        batch.turn()
                self._compile_what_pays(batch)
            except Exception:  # whatever breaks must not end the thread that serves the next request
                log.exception("a turn of %s broke; their requests end with an error", ", ".join(member.name for member in batch.members))
                with self._device.turn(), self.lock:
                    for member in batch.members:
                        batch.fail(member, "the decode step raised")

    def _compile_what_pays(self, batch: Batch) -> None:
        if self._compiler is None or self._compile_after_s is None:
            return
        for member in batch.members:
            if member.alone_s > self._compile_after_s and isinstance(member.forward, LeanQwen3):
                member.alone_s = -math.inf  # once
                self._compiler.want(member.forward)

    def _take_in(self, model: TorchModel) -> None:
        shape = model.forward.shape
        batch = self._batches.get(shape) or Batch(lock=self.lock, limits=self._limits)
        try:
            batch.join(model)
        except Exception as error:  # no memory for its slots, mostly: the models that are there go on without it
            log.exception("%s got no slots", model.name)
            model.shut()
            self._models = [one for one in self._models if one is not model]
            self._gone = [one for one in self._gone if one is not model]
            model.joined.set_exception(LoadFailed(f"{model.name} got no slots: {type(error).__name__}: {error}"))
            return
        self._batches[shape] = batch
        model.joined.set_result(None)

    def _change(self) -> None:
        """Put new models into batches, take out those that go."""
        for model in self._coming:
            self._take_in(model)
        self._coming = []
        for model in self._models if self._closing else ():
            model.shut()
        for model in [*self._gone, *(self._models if self._closing else ())]:
            batch = self._batches[model.forward.shape]
            batch.leave(model, "the engine closed" if self._closing else "the model was unloaded")
            if not batch.members:
                del self._batches[model.forward.shape]
        self._gone = []
        if self._closing:
            self._models = []
