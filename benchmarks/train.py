"""python -m benchmarks train: training tokens a second against transformers' Trainer and a bare loop, same model, rows, precision and AdamW.

All three train the same plain rows, every token a target, so that none has work that the others lack. The share of the peak counts
6 operations a parameter and token and 12 x layers x width x row for attention (PaLM, arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import PreTrainedModel

from benchmarks.measuring import Figure, alternate, compared, matmul_peak, peak_memory
from data_prep.pack import Shard
from data_prep.records import Split
from experts.architectures import build
from experts.device import Device, choose
from settings import ModelSettings, TrainSettings
from training.plan import Mix, Plan
from training.trainer import train

_log = logging.getLogger(__name__)
_UNTIMED = 2  # steps at the start of each run


@dataclass(frozen=True, slots=True)
class Size:
    """One model and batch. rows of row_tokens each a step."""

    model: ModelSettings
    vocabulary: int
    rows: int
    row_tokens: int


SIZES = {
    "5.7m": Size(ModelSettings(layers=6, width=256, heads=4, kv_heads=4, intermediate=688, context_tokens=256), 4096, 16, 256),
    "default": Size(ModelSettings(), 2048, 8, 384),
    "20m": Size(ModelSettings(layers=5, width=512, heads=8, kv_heads=8, intermediate=1376, context_tokens=256), 8192, 8, 256),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--size", choices=list(SIZES), action="append", dest="sizes", help="model size; may be given often (default: all)")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a run (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way, taking turns (default 3)")
    parser.add_argument("--device", default="auto", help="as run.device (default auto)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own)")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of all three (default bf16)")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory of each in a process of its own, in place of the speed")
    parser.add_argument("--compile", choices=("auto", "off"), default="auto", help="whether ours may compile its layers, before the timed steps (default auto)")


def measure(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Figure]:
    """Figures of every size asked for."""
    if importlib.util.find_spec("accelerate") is None:
        parser.exit(2, "benchmarks train: transformers' Trainer needs accelerate, which isn't installed; python -m pip install accelerate\n")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    device = choose(arguments.device)
    return [figure for name in arguments.sizes or SIZES
            for figure in (_memory_figures(name, arguments=arguments) if arguments.memory else _figures(name, device=device, arguments=arguments))]


def _ways(size: Size, *, device: Device, arguments: argparse.Namespace) -> tuple[dict[str, Callable[[], float]], PreTrainedModel]:
    """What trains, each from the same weights on a copy of its own (Trainer leaves its autocast around the model), and the model."""
    bf16, steps = arguments.precision == "bf16", arguments.steps
    rows = np.random.default_rng(0).integers(2, size.vocabulary, (size.rows * (steps + _UNTIMED), size.row_tokens + 1)).astype(np.int64)
    model = build(size.model, vocab_size=size.vocabulary, end_id=0, pad_id=1, seed=0)
    return {
        "ours": lambda: _ours(copy.deepcopy(model), rows, size, device=device, bf16=bf16, compiled=arguments.compile),
        "Trainer": lambda: _trainer(copy.deepcopy(model), rows, size, device=device, bf16=bf16),
        "bare loop": lambda: _bare_loop(copy.deepcopy(model), rows, size, device=device, bf16=bf16),
    }, model


def _memory_figures(name: str, *, arguments: argparse.Namespace) -> list[Figure]:
    """Peak memory of ours and of the Trainer, each in a process of its own."""
    found = {}
    for way in ("ours", "Trainer"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
            found[way] = apart.submit(_peak_bytes, name, way, arguments).result() / 2**20
    _log.info("%s: %s", name, found)
    return [Figure(f"training, {name}: peak memory of the process", "MiB", found["ours"], found["Trainer"], "transformers Trainer",
                   found["ours"] / found["Trainer"])]


def _peak_bytes(name: str, way: str, arguments: argparse.Namespace) -> float:
    """Run in a process of its own. On CUDA the most that torch took on the card, else the most that the process had in memory."""
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = choose(arguments.device)
    ways, _ = _ways(SIZES[name], device=device, arguments=arguments)
    ways[way]()
    return float(torch.cuda.max_memory_allocated(device.torch)) if device.torch.type == "cuda" else peak_memory()


def _figures(name: str, *, device: Device, arguments: argparse.Namespace) -> list[Figure]:
    size, bf16 = SIZES[name], arguments.precision == "bf16"
    ways, model = _ways(size, device=device, arguments=arguments)
    ways["ours"]()  # measures, and compiles where that is allowed
    dtype = torch.bfloat16 if bf16 else torch.float32
    peak = matmul_peak(dtype, device=device.torch)
    found = alternate(ways, rounds=arguments.rounds)
    peak = max(peak, matmul_peak(dtype, device=device.torch))
    parameters = sum(param.numel() for param in model.parameters())
    operations = 6 * parameters + 12 * size.model.layers * size.model.width * size.row_tokens
    _log.info("%s: %.2f M parameters, peak %.0f GFLOP/s, %s", name, parameters / 1e6, peak / 1e9, found)
    shares = {way: [speed * operations / peak for speed in speeds] for way, speeds in found.items()}
    return [
        compared(f"training, {name}", unit="tokens/s", ours=found["ours"], peer=found["Trainer"], peer_name="transformers Trainer"),
        compared(f"training, {name}", unit="tokens/s", ours=found["ours"], peer=found["bare loop"], peer_name="bare loop"),
        Figure(f"training, {name}: share of the {arguments.precision} matrix-product peak", "share", statistics.median(shares["ours"]),
               statistics.median(shares["bare loop"]), "bare loop"),
        Figure(f"{arguments.precision} matrix-product peak, {torch.get_num_threads()} threads", "GFLOP/s", peak / 1e9),
    ]


def _speed(times: list[float], size: Size) -> float:
    """Tokens a second over the steps after the untimed ones; times: when each step ended."""
    return size.rows * size.row_tokens * (len(times) - _UNTIMED) / (times[-1] - times[_UNTIMED - 1])


def _ours(model: PreTrainedModel, rows: NDArray[np.int64], size: Size, *, device: Device, bf16: bool, compiled: str) -> float:
    count, width = rows.shape
    starts = np.arange(count + 1, dtype=np.int64) * width
    settings = TrainSettings.model_validate({
        "row_tokens": size.row_tokens, "batch_rows": size.rows, "optimizer": "adamw", "precision": "bf16" if bf16 else "fp32", "compile": compiled,
        "checkpoint_every_s": 1e6, "validate_every_steps": 10**6})
    steps = count // size.rows
    # A plan long enough that compiling is worth it, stopped after the steps that are timed.
    plan = Plan.from_settings(settings, steps=10**6, seed=0)
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        corpus = _Rows(Shard(rows.reshape(-1), starts, starts[:-1] + 1))
        train(model, corpus=corpus, mix=Mix({"rows": 1.0}), plan=plan, device=device, state_folder=Path(folder), settings=settings,
              on_step=lambda _: times.append(time.perf_counter()), should_stop=lambda: len(times) == steps)
    return _speed(times, size)


@dataclass(frozen=True, slots=True)
class _Rows:
    """A corpus of one domain."""

    rows: Shard
    fingerprint: str = "benchmark"

    def shard(self, domain: str, split: Split) -> Shard:  # noqa: ARG002 - the shape of Corpus
        return self.rows


def _trainer(model: PreTrainedModel, rows: NDArray[np.int64], size: Size, *, device: Device, bf16: bool) -> float:
    times: list[float] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder, per_device_train_batch_size=size.rows, max_steps=len(rows) // size.rows, optim="adamw_torch_fused", learning_rate=1e-4,
            adam_beta2=0.95, weight_decay=0.1, max_grad_norm=1.0, bf16=bf16, use_cpu=device.torch.type == "cpu", save_strategy="no", report_to=[],
            logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False)
        examples = [{"input_ids": torch.from_numpy(row[:-1]), "labels": torch.from_numpy(row[:-1])} for row in rows]
        transformers.Trainer(model=model, args=arguments, train_dataset=examples, callbacks=[Clock()]).train()
    return _speed(times, size)


def _bare_loop(model: PreTrainedModel, rows: NDArray[np.int64], size: Size, *, device: Device, bf16: bool) -> float:
    model.train()
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=device.rules.optimizer_form == "fused")
    times = []
    for batch in np.split(rows, len(rows) // size.rows):
        tokens = torch.from_numpy(batch[:, :-1]).to(device.torch)
        with device.autocast(torch.bfloat16 if bf16 else torch.float32):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
        float(loss.detach())
        times.append(time.perf_counter())
    return _speed(times, size)
