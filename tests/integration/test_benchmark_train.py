"""benchmarks train at toy size: it ends, each way trains the same start, and the shares are worked out as the docstring says."""

import argparse

import pytest
import torch

import benchmarks.train as benchmark
from benchmarks.train import Size, add_arguments, measure
from settings import ModelSettings

TOY = Size(ModelSettings(layers=1, width=16, heads=2, kv_heads=2, intermediate=32, context_tokens=32), 64, 2, 32)


def arguments(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--device", "cpu", "--threads", "1", "--precision", "fp32", "--compile", "off", "--steps", "2", "--rounds", "2", *words]), parser


@pytest.mark.filterwarnings("ignore")  # the Trainer's own
def test_benchmark_train_ends_with_ratios_and_shares_of_the_peak(monkeypatch):
    monkeypatch.setattr(benchmark, "SIZES", {"toy": TOY})
    monkeypatch.setattr(benchmark, "matmul_peak", lambda dtype, device: 1e9)
    figures = measure(*arguments())
    assert [(figure.unit, figure.peer_name) for figure in figures] == [("tokens/s", "transformers Trainer"), ("tokens/s", "bare loop"), ("share", "bare loop"),
                                                                       ("GFLOP/s", None)]
    trainer, bare, share, peak = figures
    parameters = 64 * 16 + 4 * 16 * 16 + 3 * 16 * 32 + 2 * 16 + 16 + 2 * 8  # embeddings, attention, SwiGLU, norms
    operations = 6 * parameters + 12 * 1 * 16 * 32
    assert (share.ours, share.peer) == (pytest.approx(trainer.ours * operations / 1e9), pytest.approx(bare.peer * operations / 1e9))
    assert trainer.ratio > 0
    assert trainer.spread >= 0
    assert peak.ours == 1.0


@pytest.mark.filterwarnings("ignore")
def test_benchmark_train_ways_begin_alike_and_leave_the_model_alone(monkeypatch):
    chosen, _ = arguments()
    ways, model = benchmark._ways(TOY, device=benchmark.choose("cpu"), arguments=chosen)
    before = [param.detach().clone() for param in model.parameters()]
    for way in ways.values():
        assert way() > 0
    assert all(torch.equal(param, old) for param, old in zip(model.parameters(), before, strict=True))
    assert "forward" not in vars(model)  # where the Trainer leaves its autocast


def test_speed_counts_the_steps_after_the_untimed_ones():
    assert benchmark._speed([1.0, 2.0, 2.5, 3.0], TOY) == 2 * 64 / 1.0
