"""training/execution.py: whether a device's bfloat16 is worth a try. Its hardware is a stand-in: a clock that products and waits move."""

import types

import pytest
import torch

from experts.device import Device, cpu_device
from experts.device_rules import RULES
from training import execution

CARD = torch.device("meta")  # makes products without computing them


@pytest.fixture(autouse=True)
def _asked_anew():
    execution._multiplies_bf16.cache_clear()
    yield
    execution._multiplies_bf16.cache_clear()


class Card:
    """Notes products and makes them when somebody waits for it, in so many ms each."""

    def __init__(self, monkeypatch, *, fp32_ms, bf16_ms, makes_at_once=False):
        self.now, self.noted, self.made, self.waits = 0.0, [], [], 0
        costs = {torch.float32: fp32_ms / 1000, torch.bfloat16: bf16_ms / 1000}

        def wait(place):
            self.waits += 1
            self.now += sum(costs[dtype] for dtype in self.noted)
            self.made += self.noted
            self.noted.clear()

        def product(left, right):
            self.noted.append(left.dtype)
            if makes_at_once:
                wait(None)
            return left

        monkeypatch.setattr(torch.Tensor, "__matmul__", product)
        monkeypatch.setattr(execution, "_wait_for", wait)
        monkeypatch.setattr(execution, "time", types.SimpleNamespace(perf_counter=lambda: self.now))


@pytest.mark.parametrize(("fp32_ms", "bf16_ms", "fast"), [(1.0, 0.1, True), (1.0, 3.2, True), (1.0, 3.4, False), (0.05, 5.0, False)])
def test_fast_bf16_is_timed_on_an_accelerator_too_and_waits_for_it(monkeypatch, fp32_ms, bf16_ms, fast):
    """Whoever doesn't wait measures 0 ms for both."""
    card = Card(monkeypatch, fp32_ms=fp32_ms, bf16_ms=bf16_ms)
    assert execution._fast_bf16(Device("cuda", "simulated", 0, "test", CARD, RULES["cuda"])) is fast
    assert card.waits > 0


def test_fast_bf16_is_no_where_no_such_tensor_may_exist(monkeypatch):
    card = Card(monkeypatch, fp32_ms=1.0, bf16_ms=0.1)
    assert not execution._fast_bf16(Device("directml", "simulated", 0, "test", CARD, RULES["directml"]))
    assert not card.made


@pytest.mark.parametrize(("bf16_ms", "longest_s"), [(0.02, 0.01), (0.1, 0.03), (10.0, 0.05)])
def test_fast_bf16_of_a_cpu_is_found_within_50_ms(monkeypatch, bf16_ms, longest_s):
    card = Card(monkeypatch, fp32_ms=0.05, bf16_ms=bf16_ms, makes_at_once=True)
    assert execution._fast_bf16(cpu_device()) is (bf16_ms < 1)
    assert card.now <= longest_s
    assert len(card.made) >= 2 * 3  # one of each to warm up, and at least two that count


def test_fast_bf16_rests_on_the_least_time_after_the_first(monkeypatch):
    """Busy moments in nearly every round, and a first product that is prepared for 100 ms or, by luck of the clock, takes none."""
    times = {torch.float32: iter([0.0, *[1.0] * 99]), torch.bfloat16: iter([100.0, 9.0, 2.0, *[9.0] * 99])}
    monkeypatch.setattr(execution, "_product_s", lambda place, dtype: next(times[dtype]))
    assert execution._multiplies_bf16(torch.device("cpu"))


def test_fast_bf16_of_a_cpu_is_measured_on_one_thread_and_gives_the_others_back(monkeypatch):
    seen = []
    monkeypatch.setattr(execution, "_product_s", lambda place, dtype: seen.append(torch.get_num_threads()) or 1.0)
    torch.set_num_threads(2)  # each test begins with one
    assert execution._multiplies_bf16(torch.device("cpu"))
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


def test_fast_bf16_is_no_where_the_product_fails(monkeypatch, caplog):
    def product(place, dtype):
        if dtype is torch.bfloat16:
            raise TypeError("BFloat16 is not supported on MPS")
        return 1.0

    monkeypatch.setattr(execution, "_product_s", product)
    assert not execution._multiplies_bf16(CARD)
    assert "BFloat16 is not supported on MPS" in caplog.text


def test_wait_for_asks_the_module_of_the_device(monkeypatch):
    asked = []
    for name in ("cuda", "xpu"):
        monkeypatch.setattr(getattr(torch, name), "synchronize", lambda place: asked.append(place))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: asked.append("mps"))
    for name in ("cuda:1", "xpu:0", "mps", "cpu"):
        execution._wait_for(torch.device(name))
    assert asked == [torch.device("cuda:1"), torch.device("xpu:0"), "mps"]
