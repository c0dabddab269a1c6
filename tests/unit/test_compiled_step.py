"""The decode step in its compiled form: the same logits as the eager one, and when it is used. The compiler is a stand-in here."""

import logging
import threading

import pytest
import torch

from experts import architectures
from experts.device import cpu_device
from serving.engines import compiled_step
from serving.engines.compiled_step import CompiledStep, StepCompiler, can_compile, compare
from serving.engines.layer_step import LayerStep
from serving.engines.lean_qwen3 import JoinedQwen3, LeanQwen3
from serving.engines.passes import Rows
from settings import ModelSettings

CPU = cpu_device()
MODEL = ModelSettings(layers=2, width=32, heads=4, kv_heads=2, intermediate=48, context_tokens=64)


def _forward(seed=0):
    model = architectures.build(MODEL, vocab_size=300, end_id=1, pad_id=0, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.linspace(-0.3, 0.4, parameter.numel()))
    return LeanQwen3(model, device=CPU)


@pytest.fixture
def forward():
    return _forward()


def _step(forward, *, off=0.0):
    """The layer's arithmetic without a compiler. off: added to what it gives."""
    layer = LayerStep(forward.layer_shape)

    def run(tensors):
        hidden, key, value = layer(*tensors)
        return hidden + off, key, value

    return CompiledStep(run)


@torch.no_grad()
def _filled(forward, *texts):
    slots, width = forward.new_slots(4), max(map(len, texts))
    forward.logits(Rows(0, [text + [0] * (width - len(text)) for text in texts], [0] * len(texts), [len(text) - 1 for text in texts]), slots)
    return slots


@torch.no_grad()
def test_compiled_steps_of_a_row_between_others_equal_the_eager_ones(forward):
    texts = [[5, 6, 7], [8, 9, 10, 11, 12], [13] * 9]
    eager, compiled = _filled(forward, *texts), _filled(forward, *texts)
    for offset, token in enumerate((20, 21, 22, 23), start=5):
        rows = Rows(1, [[token]], [offset], [0])
        torch.testing.assert_close(forward.compiled_logits(rows, compiled, _step(forward)), forward.logits(rows, eager), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(compiled.keys_LSHCD, eager.keys_LSHCD, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(compiled.values_LSHCD, eager.values_LSHCD, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("ids", "offsets", "taken"), [
    ([[4]], [2], True), ([[4]], [1], False), ([[4, 5]], [7], False), ([[4], [5]], [7, 7], False)])
def test_compiled_step_takes_one_token_of_one_row_behind_two_columns(forward, ids, offsets, taken):
    assert _step(forward).takes(Rows(0, ids, offsets, [0] * len(ids))) is taken


def _compiler(monkeypatch, made, *, times=(0.0, 2.0, 1.0)):
    """A compiler whose process gives `made` and whose comparison gives `times` (gap, eager, compiled)."""
    compiler = StepCompiler(CPU)
    monkeypatch.setattr(compiler, "_compiled", made)
    monkeypatch.setattr(compiled_step, "compare", lambda forward, step: times)
    return compiler


def test_compiler_gives_its_step_to_every_forward_of_the_shape_and_compiles_once(forward, monkeypatch):
    calls, go_on, step = [], threading.Event(), _step(forward)

    def made(shape, folder):
        calls.append(shape)
        assert go_on.wait(20)
        return step

    compiler, second = _compiler(monkeypatch, made), _forward(1)
    compiler.want(forward)
    compiler.want(second)
    assert (forward.compiled, second.compiled) == (None, None)  # the eager step serves meanwhile
    go_on.set()
    compiler.wait()
    late = _forward(2)
    compiler.give(late)
    assert {each.compiled for each in (forward, second, late)} == {step}
    assert len(calls) == 1


@pytest.mark.parametrize(("times", "used"), [((1e-5, 2.0, 1.79), True), ((1e-5, 2.0, 1.81), False)])
def test_compiled_step_is_used_where_it_saves_a_tenth_of_the_time(forward, monkeypatch, times, used):
    compiler = _compiler(monkeypatch, lambda shape, folder: _step(forward), times=times)
    compiler.want(forward)
    compiler.wait()
    assert (forward.compiled is not None) is used


@pytest.mark.parametrize(("gap", "words"), [(2e-3, "differ from the eager ones by 0.002"), (float("nan"), "by nan")])
def test_compiled_step_with_other_numbers_is_not_used_and_one_line_says_so(forward, monkeypatch, caplog, gap, words):
    compiler = _compiler(monkeypatch, lambda shape, folder: _step(forward), times=(gap, 2.0, 1.0))
    compiler.want(forward)
    compiler.wait()
    assert forward.compiled is None
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert words in record.message


def test_compiler_that_fails_leaves_the_eager_step_and_says_so_in_one_line(forward, monkeypatch, caplog):
    compiler = StepCompiler(CPU)
    monkeypatch.setattr(compiled_step.sys, "executable", "/nowhere/python")
    compiler.want(forward)
    compiler.wait()
    assert forward.compiled is None
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.message.startswith("no compiled decode step, the eager one goes on: FileNotFoundError")


def test_compiler_is_not_started_without_free_memory(forward, monkeypatch, caplog):
    monkeypatch.setattr(compiled_step, "_NEEDED_BYTES", 2**60)
    compiler = StepCompiler(CPU)
    compiler.want(forward)
    compiler.wait()
    assert "needs 1099511627776 MiB of free memory" in caplog.text


def test_compiler_that_is_closed_starts_nothing(forward):
    compiler = StepCompiler(CPU)
    compiler.close()
    compiler.want(forward)
    assert not compiler._waiting


def test_compare_finds_the_gap_between_the_two_ways(forward):
    with torch.no_grad():
        gap, eager_s, compiled_s = compare(forward, _step(forward))
        wrong, *_ = compare(forward, _step(forward, off=0.5))
    assert gap < 2e-5
    assert wrong > 1e-3
    assert eager_s > 0
    assert compiled_s > 0


@torch.no_grad()
def test_logits_of_one_row_go_through_the_compiled_step_and_of_several_models_never(forward):
    used, second = [], _forward(1)
    layer = LayerStep(forward.layer_shape)
    forward.compiled = CompiledStep(lambda tensors: used.append(1) or layer(*tensors))
    slots = _filled(forward, [5, 6, 7], [8, 9, 10])
    assert not used
    forward.logits(Rows(0, [[4]], [3], [0]), slots)
    assert len(used) == 2  # layers
    joined = forward.joined([forward, second])
    assert isinstance(joined, JoinedQwen3)
    joined.logits(Rows(0, [[4], [4]], [4, 3], [0, 0]), slots)
    assert (len(used), joined.compiled) == (2, None)


def test_can_compile_needs_a_compiler_on_a_cpu(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiled_step.shutil, "which", lambda name: None)
    assert can_compile(CPU) is False
