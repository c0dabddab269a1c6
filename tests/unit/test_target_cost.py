"""Chunked cost of targets against torch's cross_entropy over whole logits."""

import pytest
import torch

from training import target_cost as module
from training.target_cost import target_cost


def case(dtype=torch.float32, *, targets=50, width=12, vocabulary=30):
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(targets, width, generator=random, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=random, dtype=dtype, requires_grad=True)
    return hidden, weight, torch.randint(0, vocabulary, (targets,), generator=random)


def plain(hidden, weight, targets):
    return torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")


@pytest.mark.parametrize("chunk_bytes", [1, 8 * 2**20])  # the first: chunks of 16 targets, the last one short
def test_target_cost_and_gradients_equal_cross_entropy(monkeypatch, chunk_bytes):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
    hidden, weight, targets = case()
    ours, wanted = target_cost(hidden, weight, targets, dtype=torch.float32), plain(hidden, weight, targets)
    torch.testing.assert_close(ours, wanted)
    for mine, theirs in zip(torch.autograd.grad(ours * 0.7, (hidden, weight)), torch.autograd.grad(wanted * 0.7, (hidden, weight)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_target_cost_in_bfloat16_stays_near_the_exact_cost():
    hidden, weight, targets = case()
    ours = target_cost(hidden, weight, targets, dtype=torch.bfloat16)
    torch.testing.assert_close(ours, plain(hidden, weight, targets), rtol=0.01, atol=0.0)
    grads = torch.autograd.grad(ours, (hidden, weight))
    assert [grad.dtype for grad in grads] == [torch.float32, torch.float32]


def test_target_cost_without_gradients_is_the_same_number():
    hidden, weight, targets = case()
    with torch.no_grad():
        cost = target_cost(hidden, weight, targets, dtype=torch.float32)
    torch.testing.assert_close(cost, plain(hidden, weight, targets).detach())


def test_target_cost_of_an_impossible_target_is_large_and_finite():
    hidden = torch.tensor([[1000.0], [1.0]], requires_grad=True)
    weight, targets = torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 0])
    cost = target_cost(hidden, weight, targets, dtype=torch.float32)
    cost.backward()
    assert 87 < float(cost.detach()) < 88
    assert torch.isfinite(hidden.grad).all()
    assert float(hidden.grad[0]) == 2.0  # away from the wrong certainty, as at any finite cost


def test_target_cost_that_is_not_a_number_stays_so():
    hidden = torch.tensor([[float("nan")]], requires_grad=True)
    assert torch.isnan(target_cost(hidden, torch.ones(3, 1), torch.tensor([1]), dtype=torch.float32))
