"""Muon against torch's own where there is one, what each parameter gets, and the state by name."""

import copy

import pytest
import torch
from torch import nn
from toy_corpus import toy_model, toy_training

from experts.device_rules import RULES
from training.optim import BatchedMuon, Optimizers, embedding_parameters, orthogonalized

SHAPES = ((12, 12), (12, 12), (24, 8), (8, 24), (8, 24))


def matrices():
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in SHAPES]


def give_gradients(params, *, step):
    random = torch.Generator().manual_seed(100 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=random)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
def test_muon_takes_the_steps_of_torch_muon():
    ours, theirs = matrices(), matrices()
    mine = BatchedMuon(ours, lr=0.02, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95)
    for step in range(4):
        before = [param.detach().clone() for param in theirs]
        for params, optimizer in ((ours, mine), (theirs, reference)):
            give_gradients(params, step=step)
            optimizer.step()
        for mine_now, theirs_now, old in zip(ours, theirs, before, strict=True):
            # Both orthogonalize in bfloat16, whose last bits depend on the order of sums: compare with the size of a step.
            gap, size = (mine_now - theirs_now).detach().norm(), (theirs_now - old).detach().norm()
            assert float(gap) < 0.02 * (step + 1) * float(size)


def test_muon_update_by_hand_of_a_matrix_whose_gradient_is_orthogonal():
    # Newton-Schulz acts on singular values alone: for q = identity each goes from 1/sqrt(2) through a x + b x^3 + c x^5 five times.
    value = 0.5**0.5
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    param = nn.Parameter(torch.zeros(2, 2))
    param.grad = torch.eye(2)
    BatchedMuon([param], lr=0.1, weight_decay=0.0, dtype=torch.float32).step()
    torch.testing.assert_close(param.detach(), -0.1 * value * torch.eye(2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 16), (32, 8), (8, 32)])
def test_orthogonalized_brings_singular_values_near_one(shape):
    updates = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(updates, dtype=torch.float32))
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3


def test_orthogonalized_of_a_batch_is_that_of_each_matrix():
    updates = torch.randn(3, 8, 24, generator=torch.Generator().manual_seed(0))
    each = torch.cat([orthogonalized(update[None], dtype=torch.float32) for update in updates])
    torch.testing.assert_close(orthogonalized(updates, dtype=torch.float32), each)


def test_muon_tall_matrices_step_further_by_the_root_of_their_shape():
    wide, tall = nn.Parameter(torch.zeros(2, 8)), nn.Parameter(torch.zeros(8, 2))
    wide.grad = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    tall.grad = wide.grad.T.clone()
    BatchedMuon([wide, tall], lr=0.1, weight_decay=0.0, dtype=torch.float32).step()
    torch.testing.assert_close(tall.detach(), 2 * wide.detach().T)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_optimizers_decay_matrices_but_neither_norms_nor_embeddings(optimizer):
    model = toy_model()
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizers = Optimizers(model, settings=toy_training(optimizer=optimizer, weight_decay=0.5), rules=RULES["cpu"])
    optimizers.set_rates(lr=0.1, muon_lr=0.1)
    for param in optimizers.parameters:
        param.grad = torch.zeros_like(param)
    optimizers.step()
    shrunk = {name for name, param in model.named_parameters() if not torch.equal(param, before[name])}
    assert shrunk == {name for name in before if name.endswith("_proj.weight")}
    torch.testing.assert_close(model.model.layers[0].mlp.up_proj.weight, before["model.layers.0.mlp.up_proj.weight"] * (1 - 0.1 * 0.5))


def test_optimizers_give_muon_the_hidden_matrices_only():
    model = toy_model()
    optimizers = Optimizers(model, settings=toy_training(optimizer="muon"), rules=RULES["cpu"])
    names = {param: name for name, param in model.named_parameters()}
    muon = {names[param] for group in optimizers.muon.param_groups for param in group["params"]}
    assert muon == {name for name in names.values() if name.endswith("_proj.weight")}
    assert len(muon) == 14  # q, k, v, o, gate, up, down of two layers


def test_embedding_parameters_have_an_untied_head_too():
    model = toy_model()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    assert embedding_parameters(model) == {model.model.embed_tokens.weight, model.lm_head.weight}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_optimizers_state_put_back_takes_the_same_next_step(optimizer):
    model = toy_model()
    settings = toy_training(optimizer=optimizer)
    optimizers = Optimizers(model, settings=settings, rules=RULES["cpu"])
    for step in range(2):
        give_gradients(optimizers.parameters, step=step)
        optimizers.step()
    twin = copy.deepcopy(model)
    later = Optimizers(twin, settings=settings, rules=RULES["cpu"])
    later.load_state_tensors({name: tensor.clone() for name, tensor in optimizers.state_tensors().items()})
    for both in (optimizers, later):
        give_gradients(both.parameters, step=2)
        both.step()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True))
    assert all(torch.equal(tensor, later.state_tensors()[name]) for name, tensor in optimizers.state_tensors().items())


def test_optimizers_of_a_model_without_trainable_parameters_are_refused():
    model = toy_model().requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter that requires a gradient; unfreeze at least one"):
        Optimizers(model, settings=toy_training(), rules=RULES["cpu"])
