"""Self-test of a device against the CPU: does it train and answer with the right numbers, without falling back, how fast.

Runs in the calling process; device.try_in_child runs it in one of its own with a time limit. Does not choose devices.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel

from experts import tokenizer as tokens
from experts.architectures import build
from experts.device import Device, cpu_device
from experts.device_rules import attention_mask, clip_gradients, make_adamw, place_model, summed_cost
from experts.expert import Expert
from settings import ModelSettings, TokenizerSettings

STEPS = 3
GREEDY_TOKENS = 32
TOLERANCE = 1e-3  # loss: relative; a gradient: of its tensor's largest entry
_MODEL = ModelSettings(layers=2, width=64, heads=4, kv_heads=2, intermediate=128, context_tokens=128)
_ROWS, _ROW_TOKENS = 4, 48


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that a device did wrong. check: loss, gradient, zero gradient, not a number, answer, fallback or error."""

    check: str
    detail: str


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What was measured. gaps: largest difference to the CPU, relative as TOLERANCE says; None where nothing could be measured.

    memory_mb: of this process at the end, the device's own memory not counted.
    """

    device: str
    failures: tuple[Failure, ...]
    loss_gap: float | None
    gradient_gap: float | None
    greedy_tokens_equal: int
    train_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    memory_mb: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain data for a file or a pipe."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Trace:
    losses: list[float]
    gradients: list[dict[str, Tensor]]
    tokens_per_s: float


def self_test(device: Device) -> SelfTest:
    """Three training steps and 32 greedy tokens on the device and on the CPU; never raises for what a device does wrong."""
    started = time.perf_counter()
    failures: list[Failure] = []
    trace: _Trace | None = None
    equal, decode_rate = 0, None
    reference = _train(cpu_device("reference"))
    with _fallbacks(failures):
        try:
            trace = _train(device)
            failures += _compare(reference, trace)
            equal, decode_rate = _answers(device, failures)
        except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError) as error:  # whatever a backend raises for what it lacks
            failures.append(Failure("error", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"))
    return SelfTest(device.wanted, tuple(failures), _loss_gap(reference, trace) if trace else None, _gradient_gap(reference, trace) if trace else None,
                    equal, trace.tokens_per_s if trace else None, decode_rate,
                    psutil.Process().memory_info().rss / 2**20, time.perf_counter() - started)


@contextmanager
def _fallbacks(failures: list[Failure]) -> Iterator[None]:
    """Note every operation that the device hands to the CPU; such a device is slower than the CPU alone."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    words = {str(warning.message).splitlines()[0] for warning in caught if "fall back" in str(warning.message)}
    failures += [Failure("fallback", word[:200]) for word in sorted(words)]


def _model(device: Device) -> PreTrainedModel:
    model = build(_MODEL, vocab_size=len(tokens.SPECIAL_TOKENS) + 256, end_id=1, pad_id=0, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)  # an untrained model says one token for ever; a louder one varies and has clear winners
        model.get_input_embeddings().weight[1] *= 0.01  # the end token stays unlikely
    return place_model(model, to=device.torch, rules=device.rules)


def _train(device: Device) -> _Trace:
    """STEPS steps of the trainer's kind on fixed tokens."""
    model = _model(device).train()
    drawn = torch.randint(6, 262, (STEPS, _ROWS, _ROW_TOKENS + 1), generator=torch.Generator().manual_seed(1))
    causal = torch.ones(_ROW_TOKENS, _ROW_TOKENS, dtype=torch.bool).tril().expand(_ROWS, 1, -1, -1)
    mask = attention_mask(causal, rules=device.rules).to(device.torch)
    positions = torch.arange(_ROW_TOKENS).expand(_ROWS, -1).to(device.torch)
    optimizer = make_adamw(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, rules=device.rules)
    losses, gradients = [], []
    started = time.perf_counter()
    for rows in drawn:
        logits = model(input_ids=rows[:, :-1].to(device.torch), attention_mask=mask, position_ids=positions, use_cache=False).logits
        loss = summed_cost(logits.flatten(0, 1), rows[:, 1:].flatten().to(device.torch), rules=device.rules) / (_ROWS * _ROW_TOKENS)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.append({name: parameter.grad.detach().cpu().clone() for name, parameter in model.named_parameters() if parameter.grad is not None})
        clip_gradients(model.parameters(), limit=1e9, rules=device.rules)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return _Trace(losses, gradients, STEPS * _ROWS * _ROW_TOKENS / (time.perf_counter() - started))


def _compare(reference: _Trace, trace: _Trace) -> list[Failure]:
    wrong = [name for gradients in trace.gradients for name, gradient in gradients.items() if not bool(torch.isfinite(gradient).all())]
    if wrong or not all(loss == loss and abs(loss) < 1e9 for loss in trace.losses):
        return [Failure("not a number", f"losses {trace.losses}, {len(wrong)} gradients not finite{f', first {wrong[0]}' if wrong else ''}")]
    expected = set(reference.gradients[0])
    zero = [name for gradients in trace.gradients for name in expected if name not in gradients or not bool(gradients[name].any())]
    if zero:
        return [Failure("zero gradient", f"{len(zero)} of {STEPS * len(expected)} gradients are all zero, first {sorted(zero)[0]}")]
    found = []
    if (gap := _loss_gap(reference, trace)) > TOLERANCE:
        found.append(Failure("loss", f"differs from the CPU's by {gap:.2g} of it; at most {TOLERANCE:g}"))
    if (gap := _gradient_gap(reference, trace)) > TOLERANCE:
        found.append(Failure("gradient", f"differs from the CPU's by {gap:.2g} of its largest entry; at most {TOLERANCE:g}"))
    return found


def _loss_gap(reference: _Trace, trace: _Trace) -> float:
    return max(abs(ours - theirs) / abs(ours) for ours, theirs in zip(reference.losses, trace.losses, strict=True))


def _gradient_gap(reference: _Trace, trace: _Trace) -> float:
    return max(float((expected - gradients[name]).abs().max() / expected.abs().max()) if name in gradients else 1.0
               for wanted, gradients in zip(reference.gradients, trace.gradients, strict=True) for name, expected in wanted.items())


def _answers(device: Device, failures: list[Failure]) -> tuple[int, float]:
    """How many greedy tokens equal the CPU's, and the speed of the device's."""
    tokenizer = tokens.train([], settings=TokenizerSettings(kind="byte"))
    conversation: list[tokens.Message] = [{"role": "user", "content": "What is 12 times 12?"}]
    expected = Expert(_model(cpu_device("reference")), tokenizer, device=cpu_device("reference")).generate([conversation], max_new_tokens=GREEDY_TOKENS)
    expert = Expert(_model(device), tokenizer, device=device)
    started = time.perf_counter()
    found = expert.generate([conversation], max_new_tokens=GREEDY_TOKENS)
    rate = len(found[0].token_ids) / (time.perf_counter() - started)
    pairs = list(zip(expected[0].token_ids, found[0].token_ids, strict=False))
    equal = next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), len(pairs))
    if expected[0].token_ids != found[0].token_ids:
        failures.append(Failure("answer", f"greedy tokens differ from the CPU's from the {equal + 1}. of {GREEDY_TOKENS} on"))
    return equal, rate
