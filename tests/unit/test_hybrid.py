"""The attention/SSM hybrid: our scan against the recurrence it stands for, our layers against transformers', decoding, saving."""

import json
import logging

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, BambaForCausalLM

from experts import hybrid
from experts.architectures import build
from experts.hybrid import FastAttention, FastMixer
from experts.state_space import causal_convolution, chunked_scan
from settings import ModelSettings, SettingsError, load

SHAPE = {"architecture": "bamba", "layers": 3, "width": 32, "heads": 4, "kv_heads": 2, "intermediate": 48, "context_tokens": 64, "attention_layers": (1,),
         "ssm_heads": 4, "ssm_state": 8, "ssm_chunk": 8}


def toy_hybrid(**changes):
    model = build(ModelSettings(**{**SHAPE, **changes}), vocab_size=60, end_id=1, pad_id=0, seed=3)
    with torch.no_grad():  # untrained decays are alike; these differ from head to head and reach over chunks
        for name, param in model.named_parameters():
            if name.endswith(("A_log", "dt_bias")):
                param.copy_(torch.linspace(-3.0, 0.5, param.numel()))
    return model


def tokens_of(rows, length, *, seed=0):
    return torch.randint(2, 60, (rows, length), generator=torch.Generator().manual_seed(seed))


def stock_of(model, folder):
    """The same weights in transformers' own classes, as anyone loads them."""
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def scan_arguments(*, rows=2, length=11, heads=4, width=3, groups=2, states=5):
    random = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=random)

    steps = functional.softplus(normal(rows, length, heads))
    return (normal(rows, length, heads, width), steps, -normal(heads).exp(), normal(rows, length, groups, states), normal(rows, length, groups, states),
            normal(heads))


def recurrence(x, dt, a, inputs, outputs, skip):
    """The state space one token after another, in double precision."""
    x, dt, a, inputs, outputs, skip = (part.double() for part in (x, dt, a, inputs, outputs, skip))
    rows, length, heads, width = x.shape
    share = heads // inputs.size(2)
    state = torch.zeros(rows, heads, width, inputs.size(3), dtype=torch.float64)
    written = []
    for place in range(length):
        now_in, now_out = (part[:, place].repeat_interleave(share, 1) for part in (inputs, outputs))
        added = (dt[:, place, :, None] * x[:, place])[..., None] * now_in[:, :, None]
        state = state * (dt[:, place] * a).exp()[..., None, None] + added
        written.append((state * now_out[:, :, None]).sum(-1) + skip[:, None] * x[:, place])
    return torch.stack(written, 1).flatten(2)


@pytest.mark.parametrize("chunk", [1, 4, 11, 64])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_chunked_scan_equals_the_recurrence_token_by_token(chunk, groups):
    arguments = scan_arguments(groups=groups)
    torch.testing.assert_close(chunked_scan(*arguments, chunk=chunk), recurrence(*arguments).float(), rtol=1e-5, atol=1e-5)


def test_chunked_scan_of_one_channel_by_hand():
    x, dt = torch.tensor([2.0, 3.0]).view(1, 2, 1, 1), torch.tensor([1.0, 0.5]).view(1, 2, 1)
    inputs, outputs = torch.tensor([4.0, 5.0]).view(1, 2, 1, 1), torch.tensor([1.0, 10.0]).view(1, 2, 1, 1)
    half = torch.tensor([-2 * 0.6931472])  # exp(dt A) is a quarter at dt = 1, a half at dt = 0.5
    found = chunked_scan(x, dt, half, inputs, outputs, torch.tensor([100.0]), chunk=1)
    # s1 = 1 * 4 * 2 = 8; s2 = 8 / 2 + 0.5 * 5 * 3 = 11.5; y = C s + 100 x
    assert found.flatten().tolist() == pytest.approx([8 + 200, 115 + 300])


def test_causal_convolution_equals_torch_conv1d_cut_to_the_past():
    random = torch.Generator().manual_seed(2)
    x, weight, bias = torch.randn(2, 7, 5, generator=random), torch.randn(5, 4, generator=random), torch.randn(5, generator=random)
    expected = functional.conv1d(x.mT, weight[:, None], bias, padding=3, groups=5)[:, :, :7].mT
    torch.testing.assert_close(causal_convolution(x, weight, bias), expected)


def test_hybrid_has_the_layers_and_the_parameters_of_the_formula():
    model = toy_hybrid()
    assert [type(getattr(layer, "mamba", None) or layer.self_attn) for layer in model.model.layers] == [FastMixer, FastAttention, FastMixer]
    wide, mixed = 64, 64 + 2 * 8
    mixer = 32 * (wide + mixed + 4) + mixed * 4 + mixed + 3 * 4 + wide + wide * 32
    attention = 2 * 32 * 32 + 2 * 32 * 16
    assert sum(param.numel() for param in model.parameters()) == 60 * 32 + 2 * mixer + attention + 3 * (3 * 32 * 48 + 2 * 32) + 32


@pytest.mark.parametrize("changes", [{}, {"ssm_groups": 2}, {"ssm_heads": 8, "ssm_expand": 1, "ssm_kernel": 2}, {"kv_heads": 4}])
@pytest.mark.parametrize("length", [5, 21])
def test_hybrid_logits_equal_those_of_transformers_classes(tmp_path, changes, length):
    model = toy_hybrid(**changes)
    stock = stock_of(model, tmp_path)
    assert not any(isinstance(module, FastMixer | FastAttention) for module in stock.modules())
    with torch.no_grad():
        torch.testing.assert_close(model(tokens_of(3, length)).logits, stock(tokens_of(3, length)).logits, rtol=1e-4, atol=1e-5)


def test_hybrid_gradients_equal_those_of_transformers_classes(tmp_path):
    model = toy_hybrid()
    found = []
    for each in (model, stock_of(model, tmp_path)):
        each(tokens_of(3, 21), use_cache=False).logits.log_softmax(-1)[..., 7].sum().backward()
        found.append({name: param.grad for name, param in each.named_parameters()})
    for name, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][name], rtol=1e-3, atol=1e-5 * float(found[1][name].abs().max()) + 1e-7, msg=name)


def test_hybrid_decoding_step_by_step_equals_the_full_forward():
    model = toy_hybrid()
    prompt = tokens_of(2, 9)
    found = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=21, do_sample=False, eos_token_id=None, output_logits=True,
                           return_dict_in_generate=True)
    with torch.no_grad():
        whole = model(found.sequences, use_cache=False).logits
    assert found.sequences.shape == (2, 30)
    assert float((torch.stack(found.logits, 1) - whole[:, 8:-1]).abs().max()) < 1e-4


def test_hybrid_saved_and_loaded_gives_the_same_logits_from_a_stock_folder(tmp_path):
    model = toy_hybrid()
    stock = stock_of(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (config["architectures"], config["model_type"], "auto_map" in config) == (["BambaForCausalLM"], "bamba", False)
    assert type(stock) is BambaForCausalLM
    with torch.no_grad():
        assert float((stock(tokens_of(2, 21)).logits - model(tokens_of(2, 21)).logits).abs().max()) < 1e-5


def test_hybrid_padded_rows_go_the_way_of_transformers(tmp_path):
    model = toy_hybrid()
    stock, seen = stock_of(model, tmp_path), torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        found, expected = (each(tokens_of(2, 6), attention_mask=seen).logits for each in (model, stock))
    torch.testing.assert_close(found[seen.bool()], expected[seen.bool()], rtol=1e-4, atol=1e-5)


def test_hybrid_fast_layers_that_compute_something_else_are_not_used(monkeypatch, caplog):
    monkeypatch.setattr(hybrid, "chunked_scan", lambda *arguments, chunk: chunked_scan(*arguments, chunk=chunk) * 3)
    with caplog.at_level(logging.WARNING):
        model = toy_hybrid()
    assert "differ from transformers'" in caplog.text
    assert not any(isinstance(module, FastMixer | FastAttention) for module in model.modules())


@pytest.mark.parametrize(("overrides", "words"), [
    (["model.heads=7"], r"model\.width = 192 isn't a multiple of model\.heads = 7"),
    (["model.ssm_heads=7"], r"model\.width x model\.ssm_expand = 192 x 2 = 384 isn't a multiple of model\.ssm_heads = 7"),
    (["model.ssm_heads=8", "model.ssm_groups=3"], r"model\.ssm_heads = 8 isn't a multiple of model\.ssm_groups = 3"),
    (["model.attention_layers=[4]"], r"model\.attention_layers = \[4\] must name layers of 0 \.\. 3, each once \(model\.layers = 4\)"),
    (["model.attention_layers=[1, 1]"], r"model\.attention_layers = \[1, 1\] must name layers of 0 \.\. 3, each once"),
    (["model.attention_layers=[]"], r"model\.attention_layers = \[\] of model\.layers = 4: a hybrid has at least one layer of attention"),
    (["model.ssm_state=0"], r"model\.ssm_state = 0: input should be greater than or equal to 1"),
])
def test_hybrid_settings_that_do_not_fit_are_refused_with_the_numbers(overrides, words):
    with pytest.raises(SettingsError, match=words):
        load(overrides=["model.architecture=bamba", *overrides])


def test_settings_of_the_hybrid_say_nothing_about_other_architectures():
    assert load(overrides=["model.ssm_heads=7", "model.attention_layers=[9]"]).model.architecture == "qwen3"
