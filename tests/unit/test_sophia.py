"""Muon + Sophia: the library's update in the form of Sophia-G by hand, the curvature estimate, training and resume with it."""

import sys

import pytest
import torch
from torch import nn
from toy_corpus import counting_corpus, toy_model, toy_training

from experts.device import choose
from experts.device_rules import RULES
from experts.extras import PackageMissing
from training import sophia
from training.batches import Batches
from training.execution import Execution
from training.optim import Optimizers
from training.plan import Mix, Plan
from training.trainer import train

pytest.importorskip("pytorch_optimizer")


def test_sophia_update_by_hand():
    # m = 0.035 g. First number: h = 0.01 x 50 = 0.5, step lr m / h. Second: m / h is over 1 and clipped. Third: no curvature, so clipped to the sign.
    param = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    optimizer = sophia.make_sophia([param], lr=0.1)
    param.grad = torch.tensor([2.0, 2.0, -2.0])
    optimizer.step(hessian=[torch.tensor([50.0, 1.0, 0.0])])
    torch.testing.assert_close(param.detach(), torch.tensor([1 - 0.1 * (0.035 * 2 / 0.5), 1 - 0.1, 1 + 0.1]))


def test_sophia_keeps_its_curvature_between_estimates():
    param = nn.Parameter(torch.tensor([1.0]))
    optimizer = sophia.make_sophia([param], lr=0.1)
    for hessian in ([torch.tensor([100.0])], None, None):
        param.grad = torch.tensor([1.0])
        optimizer.step(hessian=hessian)
    assert float(optimizer.state[param]["hessian_moment"]) == pytest.approx(1.0)  # 0.01 x 100, once


def test_estimates_are_due_every_ten_steps_from_the_first():
    assert [step for step in range(1, 32) if sophia.estimate_due(step)] == [1, 11, 21, 31]


def batch_and_loss(model):
    toy = toy_training()
    batch = Batches(counting_corpus(), mix=Mix({"up": 1.0}), row_tokens=toy.row_tokens, batch_rows=2, seed=0).next()
    return batch, Execution(bf16=False, attention="mask").loss(model, device=choose("cpu"))


def test_curvature_is_rho_n_times_the_squared_gradient_of_drawn_targets():
    model = toy_model().train()
    batch, loss = batch_and_loss(model)
    drawn = (batch.targets_N + 3) % 40
    params = [model.model.norm.weight, model.get_input_embeddings().weight]
    found = sophia.curvature(params, model=model, loss=loss, batch=batch, draw=lambda _: drawn)
    logits = loss.outputs(batch)[batch.places_N] @ model.get_output_embeddings().weight.T
    gradients = torch.autograd.grad(nn.functional.cross_entropy(logits, drawn), params)
    for got, gradient in zip(found, gradients, strict=True):
        torch.testing.assert_close(got, 0.1 * len(drawn) * gradient.square(), rtol=1e-4, atol=1e-9)
    assert model.training
    assert all(param.grad is None for param in model.parameters())


def test_drawn_targets_follow_the_models_distribution():
    model = toy_model()
    with torch.no_grad():
        model.model.norm.weight.zero_()  # every token as likely as any other
    batch, loss = batch_and_loss(model)
    torch.manual_seed(0)
    draws = torch.cat([loss.draw_targets(batch) for _ in range(400)])
    shares = torch.bincount(draws, minlength=40) / len(draws)
    assert len(draws) == 400 * len(batch.targets_N)
    torch.testing.assert_close(shares, torch.full((40,), 1 / 40), atol=0.004, rtol=0)


def test_optimizers_give_matrices_to_muon_and_the_rest_to_sophia():
    model = toy_model()
    optimizers = Optimizers(model, settings=toy_training(optimizer="muon_sophia"), rules=RULES["cpu"])
    rest = {param for group in optimizers.sophia.param_groups for param in group["params"]}
    assert optimizers.adamw is None
    assert model.get_input_embeddings().weight in rest
    assert not rest & {param for group in optimizers.muon.param_groups for param in group["params"]}
    optimizers.set_rates(lr=0.25, muon_lr=0.5)
    assert (optimizers.sophia.param_groups[0]["lr"], optimizers.muon.param_groups[0]["lr"]) == (0.25, 0.5)


def test_curvature_of_a_step_that_is_not_taken_is_forgotten():
    model = toy_model().train()
    batch, loss = batch_and_loss(model)
    optimizers = Optimizers(model, settings=toy_training(optimizer="muon_sophia"), rules=RULES["cpu"])
    optimizers.look_ahead(1, model=model, loss=loss, batch=batch)
    optimizers.zero_grad()  # what the trainer does when the loss isn't finite, before it goes back
    (loss(batch) / 100).backward()
    optimizers.step()
    assert not any(bool(state["hessian_moment"].any()) for state in optimizers.sophia.state.values())


def test_training_with_sophia_learns_and_resumes_bit_for_bit(tmp_path):
    toy = toy_training(optimizer="muon_sophia", lr=1e-2)

    def run(folder, stop):
        torch.manual_seed(3)
        model, seen = toy_model(), []
        return model, train(model, corpus=counting_corpus(), mix=Mix({"up": 1.0}), plan=Plan.from_settings(toy, steps=14, seed=0), device=choose("cpu"),
                            state_folder=folder, settings=toy, on_step=seen.append, should_stop=lambda: stop is not None and len(seen) >= stop)

    whole, wanted = run(tmp_path / "whole", None)
    run(tmp_path / "parts", 6)  # the next estimate is due at step 11
    parts, got = run(tmp_path / "parts", None)
    assert got.losses == wanted.losses
    assert wanted.losses[-1] < wanted.losses[0] - 0.3
    for (name, ours), (_, theirs) in zip(parts.named_parameters(), whole.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_sophia_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(PackageMissing, match=r'needs the package pytorch_optimizer.*pip install -e "\.\[sophia\]", or set train.optimizer = "muon"'):
        sophia.make_sophia([nn.Parameter(torch.zeros(2))], lr=0.1)
