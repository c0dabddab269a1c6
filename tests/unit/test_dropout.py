"""Dropout put on a model from outside: where it lies, what is drawn, and that it is gone with the training."""

import pytest
import torch
from toy_corpus import VOCABULARY, toy_model
from transformers import GPT2Config, GPT2LMHeadModel

from experts import dropout
from experts.architectures import build
from experts.dropout import dropped, stream_dropout
from settings import ModelSettings

TOKENS = torch.arange(2, 34).view(2, 16)


def gpt2(share):
    torch.manual_seed(1)
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=3, n_head=2, resid_pdrop=share, embd_pdrop=0.0, attn_pdrop=0.0,
                                      bos_token_id=0, eos_token_id=0))


def outputs(model, *, seed=5):
    torch.manual_seed(seed)
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def test_dropout_keeps_the_share_and_the_mean():
    torch.manual_seed(0)
    found = dropped(torch.ones(400, 501), share=0.25)
    assert found.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float((found == 0).float().mean()) == pytest.approx(0.25, abs=0.003)
    assert float((found[:, :-1] * found[:, 1:]).mean()) == pytest.approx(1.0, abs=0.01)  # neighbours fall independently
    assert torch.equal(dropped(torch.ones(3), share=0.0), torch.ones(3))


def test_stream_dropout_is_the_residual_dropout_of_gpt2(monkeypatch):
    """transformers' own, at the same places and in the same order, so that the same draws give the same numbers."""
    monkeypatch.setattr(dropout, "dropped", lambda x, *, share: torch.nn.functional.dropout(x, share))
    wanted = outputs(gpt2(0.3).train())
    model = gpt2(0.0).train()
    plain = outputs(model)
    with stream_dropout(model, share=0.3):
        assert torch.equal(outputs(model), wanted)
    assert not torch.allclose(plain, wanted)
    assert torch.equal(outputs(model), plain)  # gone with the block


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_moe", "bamba"])
def test_stream_dropout_reaches_every_part_of_our_models_in_training_alone(architecture):
    model = build(ModelSettings(architecture=architecture, layers=4, width=32, heads=4, kv_heads=2, intermediate=64, context_tokens=64),
                  vocab_size=VOCABULARY, end_id=0, pad_id=1, seed=0)
    plain = outputs(model.eval())
    shares = {}
    with stream_dropout(model, share=0.5):
        assert torch.equal(outputs(model), plain)
        for number, layer in enumerate(model.model.layers):
            for name, part in layer.named_children():
                part.register_forward_hook(lambda _m, _i, out, key=(number, name): shares.__setitem__(key, _zeros(out)))
        outputs(model.train())
    hit = {key for key, share in shares.items() if share == pytest.approx(0.5, abs=0.1)}
    assert {number for number, _ in hit} == {0, 1, 2, 3}
    assert len(hit) == 2 * len(model.model.layers)  # attention, or what stands in its place, and the MLP
    assert {share for key, share in shares.items() if key not in hit} == {0.0}


def _zeros(out):
    return float(((out[0] if isinstance(out, tuple) else out) == 0).float().mean())


def test_stream_dropout_of_a_model_without_layers_says_what_to_do():
    class Flat(torch.nn.Module):
        base_model = torch.nn.Linear(2, 2)

    with pytest.raises(ValueError, match=r"dropout of 0\.1: Flat has no list of layers; set loop\.leaf_dropout = 0"), stream_dropout(Flat(), share=0.1):
        pass
    with stream_dropout(Flat(), share=0.0):
        pass


def test_stream_dropout_is_taken_away_after_an_error():
    model = toy_model().train()
    plain, seen = outputs(model), []

    def fail():
        with stream_dropout(model, share=0.5):
            seen.append(outputs(model))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not torch.equal(seen[0], plain)
    assert torch.equal(outputs(model), plain)
