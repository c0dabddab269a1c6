"""How a step is computed on this device: precision (of Muon's products, too), attention, compiled or not; what is right is measured, the fastest taken.

Measured once a process for the same model configuration and device; a resumed run keeps what its state says. Does not train.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import time
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from experts.device import Device, forked_random
from settings import TrainSettings
from training.batches import Batch
from training.packed_loss import Attention, PackedLoss, layers_of, right_attentions

_log = logging.getLogger(__name__)
_TIMED_ROUNDS = 3  # after an untimed one
# Compiled layers made a step 1.28 times as fast (default recipe, one core, 2026-11-20); compiling takes some 20 s of work, more on a busy machine.
_COMPILE_PAYS_AFTER_S = 150.0
# Matrices by which a device shows how fast it multiplies: small on a CPU, where bfloat16 may make 0.4 GFLOP/s (10 ms each); elsewhere such that the
# product takes longer than asking for it, and several between two waits.
_CPU_ROWS, _ROWS, _PRODUCTS = 128, 1024, 8
_PROBE_ROUNDS, _PROBE_S = 30, 0.03  # after an untimed one at most so many, and none begins after so many seconds
# Times as long. One Sapphire Rapids, one thread, oneDNN told to leave instructions out: 1.0 with AMX, 2.5 with AVX512-BF16 alone, 6 with AVX512 alone,
# 47 with AVX2 alone (2026-11-29); products of 1,024 rows take a quarter, 1.8, 4.5 and 180 times as long.
_MUCH_SLOWER = 3.3


@dataclass(frozen=True, slots=True)
class Execution:
    """bf16: products in bfloat16 by autocast. attention: see packed_loss.Attention. compiled: layers by torch.compile.
    again: layers computed again in the backward pass, which keeps no activations inside them. muon_bf16: Muon orthogonalizes in bfloat16."""

    bf16: bool
    attention: Attention
    compiled: bool = False
    again: bool = False
    muon_bf16: bool = True

    @property
    def precision(self) -> str:
        """bf16 or fp32."""
        return "bf16" if self.bf16 else "fp32"

    @property
    def muon_dtype(self) -> torch.dtype:
        """In which Muon orthogonalizes."""
        return torch.bfloat16 if self.muon_bf16 else torch.float32

    def loss(self, model: PreTrainedModel, *, device: Device) -> PackedLoss:
        """The loss computed in this way."""
        return PackedLoss(model, device=device, bf16=self.bf16, attention=self.attention, compiled=self.compiled, again=self.again)

    def __str__(self) -> str:
        return f"{self.precision}, {self.attention}{', compiled' if self.compiled else ''}{', layers computed again' if self.again else ''}"


_plain: dict[tuple[object, ...], tuple[Execution, float]] = {}
_compiled: dict[tuple[object, ...], Execution] = {}


def choose_execution(model: PreTrainedModel, *, device: Device, settings: TrainSettings, batch: Batch, batches: int) -> Execution:
    """The fastest of what is right for this model and allowed by settings and device; leaves no gradient behind, draws no random number.

    batches: of the whole run; a short one isn't worth compiling for, unless that was done already.
    """
    with forked_random(device.torch):  # dropout draws while it is timed
        found = _choose(model, device=device, settings=settings, batch=batch, batches=batches)
    return replace(found, muon_bf16=_fast_bf16(device))


def _fast_bf16(device: Device) -> bool:
    """Whether products in bfloat16 are worth a try: where such tensors may exist, and aren't much slower than in fp32.

    Many CPUs have no instruction for them (AVX512-BF16, AMX and Arm's BF16 are such); a Zen 3 took a hundred times as long (RESULTS.md, "Training").
    Older accelerators have none either.
    """
    return device.rules.bf16 and _multiplies_bf16(device.torch)


@functools.cache
def _multiplies_bf16(place: torch.device) -> bool:
    """Decided by the least time of each kind, which other work on the machine disturbs last, and on a CPU by one thread, which waits for no other:
    two processes should find the same."""
    threads = torch.get_num_threads()
    if place.type == "cpu":
        torch.set_num_threads(1)
    try:
        fp32_s, bf16_s = _least_s(place)
    except (RuntimeError, TypeError) as error:  # a Mac's system before 14, say
        _log.warning("%s makes no product in bfloat16: %s", place, str(error).partition("\n")[0])
        return False
    finally:
        torch.set_num_threads(threads)
    _log.info("a product of matrices on %s takes %.3f ms in fp32 and %.3f ms in bfloat16", place, 1000 * fp32_s, 1000 * bf16_s)
    return bf16_s <= _MUCH_SLOWER * fp32_s


def _least_s(place: torch.device) -> tuple[float, float]:
    """Shortest seconds of a product in fp32 and in bfloat16, which take turns after an untimed one of each; 50 ms where bfloat16 is slow, else less."""
    dtypes = (torch.float32, torch.bfloat16)
    for dtype in dtypes:
        _product_s(place, dtype)
    began = time.perf_counter()
    rounds: list[list[float]] = []
    while not rounds or (len(rounds) < _PROBE_ROUNDS and time.perf_counter() - began < _PROBE_S):
        rounds.append([_product_s(place, dtype) for dtype in dtypes])
    fp32_s, bf16_s = (min(times) for times in zip(*rounds, strict=True))
    return fp32_s, bf16_s


def _product_s(place: torch.device, dtype: torch.dtype) -> float:
    """Seconds of one product of matrices."""
    rows, products = (_CPU_ROWS, 1) if place.type == "cpu" else (_ROWS, _PRODUCTS)
    matrix = torch.full((rows, rows), 0.5, dtype=dtype, device=place)
    _wait_for(place)
    began = time.perf_counter()
    for _ in range(products):
        matrix @ matrix
    _wait_for(place)
    return (time.perf_counter() - began) / products


def _wait_for(place: torch.device) -> None:
    """Return when a device has done what it was asked for; most only note it at first."""
    if place.type in {"cuda", "xpu"}:
        getattr(torch, place.type).synchronize(place)
    elif place.type == "mps":
        torch.mps.synchronize()


def _choose(model: PreTrainedModel, *, device: Device, settings: TrainSettings, batch: Batch, batches: int) -> Execution:
    key = (type(model), model.config.to_json_string(), device.torch, settings.precision, settings.gradient_checkpointing,
           sum(param.requires_grad for param in model.parameters()), batch.tokens_BT.shape, batch.whole_rows, torch.get_num_threads())
    again = settings.gradient_checkpointing
    if key not in _plain:
        attentions = right_attentions(model, device=device)
        if batch.whole_rows:  # the model's own way is right, and another one only worth a try where nothing has to be padded
            attentions = ["rows", *(attention for attention in attentions if attention == "documents"), "alone"]
        attentions = attentions[:-1] or attentions  # alone is right for every model and slow: it stands in where nothing else is right
        best, _ = _fastest(model, [Execution(bf16, attentions[0], again=again) for bf16 in _precisions(device, settings=settings)], batch=batch, device=device)
        _plain[key] = _fastest(model, [Execution(best.bf16, attention, again=again) for attention in attentions], batch=batch, device=device)
    plain, batch_s = _plain[key]
    if settings.compile == "off" or again or (key not in _compiled and batches * batch_s < _COMPILE_PAYS_AFTER_S):
        return plain
    if key not in _compiled:
        tried = can_compile(model, device=device, attention=plain.attention)
        _compiled[key] = _compiled_if_faster(model, plain, batch=batch, device=device) if tried else plain
    return _compiled[key]


def can_compile(model: PreTrainedModel, *, device: Device, attention: Attention) -> bool:
    """Whether torch.compile can be tried: a CPU or CUDA device, a C++ compiler (CPU), layers, and a torch that shares one graph among layers."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if attention == "alone" or not layers_of(model) or version < (2, 5):
        return False
    compilers = [os.environ.get("CXX", ""), "cl"] if os.name == "nt" else [os.environ.get("CXX", ""), "g++", "clang++"]
    return device.kind == "cuda" or (device.kind == "cpu" and any(name and shutil.which(name) for name in compilers))


def _compiled_if_faster(model: PreTrainedModel, plain: Execution, *, batch: Batch, device: Device) -> Execution:
    compiled = replace(plain, compiled=True)
    began = time.perf_counter()
    try:
        _batch_s(model, loss=compiled.loss(model, device=device), batch=batch, device=device)
    except (RuntimeError, ImportError, OSError) as error:  # what dynamo, inductor and the compiler's process raise
        _log.warning("torch.compile doesn't work here, training goes on without it: %s: %s", type(error).__name__, str(error).partition("\n")[0])
        model.zero_grad(set_to_none=True)
        return plain
    _log.info("compiled in %.1f s", time.perf_counter() - began)
    return _fastest(model, [plain, compiled], batch=batch, device=device)[0]


def compile_ahead(model: PreTrainedModel, *, loss: PackedLoss, batch: Batch, device: Device) -> None:
    """Have the compiler do its work on a batch, of which nothing stays: no gradient, no random number drawn."""
    with forked_random(device.torch):
        _batch_s(model, loss=loss, batch=batch, device=device)


def _fastest(model: PreTrainedModel, ways: list[Execution], *, batch: Batch, device: Device) -> tuple[Execution, float]:
    """The way with the shortest of its times, and that; they take turns, so that a busy moment of the machine hits all of them."""
    losses = {way: way.loss(model, device=device) for way in ways}
    rounds = [{way: _batch_s(model, loss=loss, batch=batch, device=device) for way, loss in losses.items()} for _ in range(1 + _TIMED_ROUNDS)]
    seconds = {way: min(times[way] for times in rounds[1:]) for way in ways}
    if len(ways) > 1:
        _log.info("a batch takes %s", ", ".join(f"{1000 * took:.0f} ms ({way})" for way, took in seconds.items()))
    best = min(seconds, key=lambda way: seconds[way])
    return best, seconds[best]


def _precisions(device: Device, *, settings: TrainSettings) -> list[bool]:
    possible = device.rules.bf16 and (device.torch.type == "cpu" or device.rules.autocast_dtype is torch.bfloat16)
    worth_it = possible and _fast_bf16(device)
    if settings.precision == "bf16":
        if not possible:
            raise ValueError(f"train.precision = 'bf16' isn't possible on {device.name}; set it to auto or fp32")
        return [True]
    return [False, True] if settings.precision == "auto" and worth_it else [False]


def _batch_s(model: PreTrainedModel, *, loss: PackedLoss, batch: Batch, device: Device) -> float:
    """Seconds of one forward and backward pass."""
    began = time.perf_counter()
    cost = loss(batch) / batch.targets_N.numel()
    cost.backward()  # type: ignore[no-untyped-call]
    _wait_for(device.torch)
    took = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    return took
