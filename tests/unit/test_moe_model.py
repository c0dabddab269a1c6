"""Routed models: equal to transformers' own in evaluation, decoded step by step, saved as stock folders or as ours when they need us."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3MoeForCausalLM

from experts.architectures import build
from experts.cached_pass import read_on
from experts.moe.block import MoeBlock
from experts.moe.control import attach
from experts.moe.model import MODEL_TYPE, BranchwiseMoeForCausalLM, make_known
from settings import ModelSettings, MoeSettings

VOCABULARY = 50
NOISY = MoeSettings(noise_std=1.0, temperature=2.0, final_temperature=1.0, capacity_factor=0.5, dropout=0.3)


def model(*, seed=0, **parts):
    shape = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "intermediate": 48, "context_tokens": 64, "experts": 4}
    made = build(ModelSettings(architecture="qwen3_moe", **shape, **parts), vocab_size=VOCABULARY, end_id=0, pad_id=1, seed=seed)
    random = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():  # as if trained: decided routers, gates that aren't half open, biases that change choices
        for name, tensor in [*made.named_parameters(), *made.named_buffers()]:
            if name.endswith(("gate.weight", "gate.bias", "choice_bias")):
                tensor.add_(torch.randn(tensor.shape, generator=random))
    return made


def tokens(rows=3, length=24):
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(9))


@torch.no_grad()
def logits(made, ids=None):
    return made.eval()(tokens() if ids is None else ids, use_cache=False).logits


@pytest.mark.parametrize("parts", [{"top_k": 1}, {"top_k": 2, "normalize_top_k": True}, {"head_gate": True}])
def test_model_with_our_routed_layers_evaluates_as_transformers_own(parts):
    made = model(**parts)
    before = logits(made)
    attach(made, NOISY)
    assert all(isinstance(one.mlp, MoeBlock) for one in made.model.layers)
    torch.testing.assert_close(logits(made), before, rtol=1e-5, atol=1e-5)


def test_model_in_training_has_noise_and_drops_that_evaluation_has_not():
    made = model()
    attach(made, NOISY)
    torch.manual_seed(0)
    made.train()
    first, second = (made(tokens(), use_cache=False).logits for _ in range(2))
    assert float((first - second).abs().max().detach()) > 1e-3
    torch.testing.assert_close(logits(made), logits(made), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("parts", [{}, {"top_k": 2}, {"head_gate": True, "choice_bias": True}])
def test_model_decoded_step_by_step_equals_the_full_forward(parts):
    made = model(**parts)
    attach(made, NOISY)
    ids = tokens()
    whole, cache, steps = logits(made, ids), None, []
    for place in range(ids.size(1)):
        step, cache = read_on(made, ids[:, place:place + 1], cache=cache)
        steps.append(step)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=0, atol=1e-4)


def test_model_without_parts_of_ours_is_saved_as_a_stock_folder_with_equal_logits(tmp_path):
    made = model(top_k=2)
    attach(made, NOISY)
    made.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen3_moe"
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is Qwen3MoeForCausalLM
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(logits(loaded), logits(made), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parts", [{"head_gate": True}, {"choice_bias": True}, {"head_gate": True, "choice_bias": True}])
def test_model_with_parts_of_ours_says_so_and_loads_through_us_with_equal_logits(tmp_path, parts):
    made = model(**parts)
    attach(made, NOISY)
    made.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == MODEL_TYPE
    assert written["architectures"] == ["BranchwiseMoeForCausalLM"]
    assert {key: written[key] for key in parts} == parts
    make_known(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is BranchwiseMoeForCausalLM
    torch.testing.assert_close(logits(loaded), logits(made), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parts", [{"head_gate": True}, {"choice_bias": True}])
def test_parts_of_ours_change_the_logits(parts):
    made, plain = model(**parts), model()
    with torch.no_grad():
        for name, tensor in plain.named_parameters():
            tensor.copy_(made.get_parameter(name))
    assert float((logits(made) - logits(plain)).abs().max()) > 1e-3


def test_transformers_alone_refuses_a_folder_that_needs_us(tmp_path):
    model(head_gate=True).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": f"{MODEL_TYPE}_unregistered"}))  # as in a process that never saw us
    with pytest.raises(ValueError, match="branchwise_moe"):
        AutoConfig.from_pretrained(tmp_path)


def test_head_gate_multiplies_each_head_by_hand():
    made = model(head_gate=True)
    attention, plain = made.model.layers[0].self_attn, model().model.layers[0].self_attn
    with torch.no_grad():
        attention.head_gate.weight.zero_()
        attention.head_gate.bias.copy_(torch.tensor([20.0, -20.0, 20.0, -20.0]))  # open, shut, open, shut
        for name, tensor in plain.named_parameters():
            tensor.copy_(attention.get_parameter(name))
        plain.o_proj.weight.view(32, 4, 8)[:, [1, 3]] = 0  # the same as shutting those heads
        x = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(2))
        where = made.model.rotary_emb(x, torch.arange(6)[None])
        torch.testing.assert_close(attention(x, where, None)[0], plain(x, where, None)[0], rtol=1e-4, atol=1e-5)


def test_attach_leaves_a_model_without_routed_layers_alone():
    dense = build(ModelSettings(layers=1, width=16, heads=2, kv_heads=1, intermediate=32, context_tokens=32), vocab_size=40, end_id=0, pad_id=1, seed=0)
    before = [name for name, _ in dense.named_modules()]
    assert attach(dense, NOISY) is None
    assert [name for name, _ in dense.named_modules()] == before
