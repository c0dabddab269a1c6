"""Promotions while clients stream: nobody fails, nobody gets two versions in one answer, memory comes back."""

import pytest

import settings as configuration
from benchmarks.swap import swap_under_load

TOY = {"tokenizer": {"vocab_size": 400}, "model": {"layers": 2, "width": 64, "heads": 2, "kv_heads": 1, "intermediate": 128, "context_tokens": 256},
       "train": {"row_tokens": 64}}


def _figures(folder, engine, **sizes):
    serve = {"slots": 16, "poll_s": 3600.0, "loop_repeats": None, "engine": engine}
    figures = swap_under_load(configuration.check({**TOY, "run": {"dir": str(folder)}, "serve": serve}), **sizes)
    return {figure.name: figure.ours for figure in figures}


def test_swaps_under_streaming_clients_fail_nobody(tmp_path):
    figures = _figures(tmp_path, "torch", swaps=10, clients=3)
    assert figures["requests during the swaps"] >= 3
    assert figures["failed requests"] == 0
    assert figures["streams that changed version"] == 0
    assert figures["versions seen"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "llamacpp"])
def test_hundred_swaps_under_eight_clients_fail_nobody_and_give_memory_back(tmp_path, engine):
    figures = _figures(tmp_path, engine, swaps=100, clients=8)
    assert figures["failed requests"] == figures["streams that changed version"] == 0
    assert figures["versions seen"] == 3
    assert figures["memory slope"] < 0.25  # MiB a swap; a leak of one version would be 0.4
