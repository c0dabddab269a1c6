"""Ratios and turns of benchmarks, worked by hand, and the command's JSON."""

import json

import numpy as np
import psutil
import pytest
import torch

import benchmarks.__main__ as command
from benchmarks.measuring import Figure, alternate, compared, matmul_peak, peak_memory
from benchmarks.sweep import _Found, _Watch
from training.plan import Validation


def test_compared_gives_medians_and_the_median_ratio_of_the_rounds():
    figure = compared("speed", unit="tokens/s", ours=[30.0, 20.0, 44.0], peer=[10.0, 20.0, 22.0], peer_name="theirs")
    assert (figure.ours, figure.peer, figure.ratio, figure.spread) == (30.0, 20.0, 2.0, 1.0)  # ratios 3, 1, 2


def test_compared_of_one_round_has_no_spread():
    assert compared("speed", unit="s", ours=[3.0], peer=[2.0], peer_name="theirs").spread is None


def test_alternate_turns_the_order_round_every_second_round():
    order = []
    found = alternate({name: lambda name=name: order.append(name) or len(order) for name in ("a", "b")}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_matmul_peak_is_a_rate_that_a_single_product_does_not_beat():
    peak = matmul_peak(torch.float32, device=torch.device("cpu"), seconds=0.1)
    assert 1e8 < peak < 1e14


def test_command_writes_the_figures_as_json_and_prints_them(tmp_path, monkeypatch, capsys):
    class Module:
        @staticmethod
        def main(words):
            assert words == ["--rows", "3"]
            return [Figure("speed", "tokens/s", 12.5, 10.0, "theirs", 1.25, 0.1).to_json()]

    monkeypatch.setattr(command.importlib, "import_module", lambda name: Module)
    assert command.main(["route", "--rows", "3", "--json", str(tmp_path / "figures.json")]) == 0
    assert json.loads((tmp_path / "figures.json").read_text()) == [
        {"name": "speed", "unit": "tokens/s", "ours": 12.5, "peer": 10.0, "peer_name": "theirs", "ratio": 1.25, "spread": 0.1}]
    assert "1.25" in capsys.readouterr().out


def test_command_refuses_an_unknown_benchmark_and_names_the_known_ones(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["sleep"])
    assert "'train', 'sweep', 'serve', 'route', 'tree', 'swap'" in capsys.readouterr().err


def test_peak_memory_never_falls_and_covers_what_was_taken():
    before = peak_memory()
    block = np.ones(2**25)  # 256 MiB
    assert peak_memory() >= max(before, block.nbytes)
    assert peak_memory() >= 0.99 * psutil.Process().memory_info().rss  # the system sums the two up at other moments


def test_sweep_time_to_a_loss_lies_on_the_line_between_two_validations():
    found = _Found(None, [(10, 3.0, 4.0), (20, 2.0, 8.0), (30, 1.0, 12.0)])
    assert (found.loss, found.seconds) == (1.0, 12.0)
    assert (found.reached(2.5), found.reached(2.0), found.reached(3.5), found.reached(0.9)) == (6.0, 8.0, 4.0, None)


def test_sweep_watch_counts_steps_and_leaves_validations_out():
    now = iter([0.0, 3.0, 10.0, 12.0])
    watch = _Watch(lambda: next(now))
    watch.start()
    watch.step(None)
    watch.validation(Validation(step=1, val_loss=2.0, by_domain={}, train_loss=2.0, train_s=9.0, tokens=1))
    watch.start()
    watch.step(None)
    watch.validation(Validation(step=2, val_loss=1.0, by_domain={}, train_loss=2.0, train_s=9.0, tokens=1))
    assert watch.points == [(1, 2.0, 3.0), (2, 1.0, 5.0)]
