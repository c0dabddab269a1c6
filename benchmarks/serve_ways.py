"""The torch engine and transformers' generate, each in a process of its own, as a user has them.

In one process they would slow each other down: with more OpenMP threads than cores, all of them stop spinning at their barriers, which costs a small
model's step a third of its time. Ours decodes in the engine's thread, the peer in its process's first. Says nothing about quality.
"""

from __future__ import annotations

import functools
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from experts import tokenizer as tokens
from experts.device import choose
from experts.expert import Expert
from experts.tokenizer import Message
from serving.engines.interface import End, EngineLimits, Model, Piece, Work
from serving.engines.torch_engine import TorchEngine

TALK: list[Message] = [{"role": "user", "content": "A shop sells pens at 3 for 2 coins. What do 12 pens cost?"}]


@dataclass(frozen=True, slots=True)
class Load:
    """So many streams of so many tokens each, spread over the versions in turn."""

    folders: tuple[Path, ...]
    streams: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Ways:
    """Three processes that wait while another one is measured; each gives tokens a second."""

    pools: Sequence[ProcessPoolExecutor]
    device: str
    slots: int

    def eager(self, load: Load) -> float:
        """The torch engine without a compiler."""
        return self.pools[0].submit(engine_rate, load, self.device, slots=self.slots, compiled=False).result()

    def compiled(self, load: Load) -> float:
        """The torch engine with a compiled step of one row, where there is a compiler and it is faster."""
        return self.pools[1].submit(engine_rate, load, self.device, slots=self.slots, compiled=True).result()

    def generate(self, load: Load) -> float:
        """transformers' generate, one static batch a version, in turn."""
        return self.pools[2].submit(generate_rate, load, self.device).result()


@contextmanager
def ways(device: str, *, slots: int) -> Iterator[Ways]:
    """The processes, ended at the end. slots: of a model in the engine."""
    pools = [ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) for _ in range(3)]
    try:
        yield Ways(pools, device, slots)
    finally:
        for pool in pools:
            pool.shutdown()


@functools.cache
def _engine(device: str, *, slots: int, compiled: bool) -> TorchEngine:
    limits = EngineLimits(slots=slots, loop_repeats=None, prefill_tokens=1024)
    return TorchEngine(choose(device), limits=limits, compile_after_s=0.0 if compiled else None)


@functools.cache
def _model(engine: TorchEngine, folder: Path) -> Model:
    return engine.load(folder, name=folder.parent.name)


@functools.cache
def _expert(device: str, folder: Path) -> Expert:
    return Expert.load(folder, device=choose(device))


def engine_rate(load: Load, device: str, *, slots: int, compiled: bool) -> float:
    """Tokens a second of the torch engine in this process."""
    engine = _engine(device, slots=slots, compiled=compiled)  # one a process: each has a team of threads
    models = [_model(engine, folder) for folder in load.folders]
    if compiled:
        run_streams(models, 1, 8)
        engine.wait_compiled()
    return run_streams(models, load.streams, load.new_tokens)


def run_streams(models: Sequence[Model], streams: int, new_tokens: int) -> float:
    """Tokens a second of so many streams, spread over the models in turn."""
    began = time.perf_counter()
    running = []
    for number in range(streams):
        model = models[number % len(models)]
        running.append(model.submit(Work(model.encode(TALK), new_tokens, ignore_end=True, loop_guard=False)))
    for stream in running:
        event = stream.next(timeout_s=300.0)
        while isinstance(event, Piece):
            event = stream.next(timeout_s=300.0)
        assert isinstance(event, End), event
        assert event.completion_tokens == new_tokens
    return streams * new_tokens / (time.perf_counter() - began)


@torch.no_grad()
def generate_rate(load: Load, device: str) -> float:
    """Tokens a second of transformers' generate in this process."""
    experts = [_expert(device, folder) for folder in load.folders]
    began = time.perf_counter()
    for number, expert in enumerate(experts):
        count = len(range(number, load.streams, len(experts)))
        ids = torch.tensor([tokens.prompt_ids(expert.tokenizer, TALK)] * count, device=expert.device.torch)
        made = expert.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=load.new_tokens, min_new_tokens=load.new_tokens,
                                     do_sample=False)
        assert made.shape == (count, ids.shape[1] + load.new_tokens)
    return load.streams * load.new_tokens / (time.perf_counter() - began)
