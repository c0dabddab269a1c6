"""Continuing a plain text: against whole forwards token by token, beyond the context, without special tokens, by the seed alone."""

import pytest
import torch

from experts import tokenizer as tokens
from experts.architectures import build
from experts.decoding import sample
from experts.device import cpu_device
from experts.text_sampler import continue_text
from settings import ModelSettings, TokenizerSettings

TOKENIZER = tokens.train([], settings=TokenizerSettings(kind="byte"))
DENSE = ModelSettings(layers=2, width=32, heads=4, kv_heads=2, intermediate=48, context_tokens=32)
SHAPES = {"dense": DENSE, "routed": DENSE.model_copy(update={"architecture": "qwen3_moe", "experts": 4}),
          "hybrid": ModelSettings(architecture="bamba", layers=3, width=32, heads=4, kv_heads=2, intermediate=48, context_tokens=32, attention_layers=(1,),
                                  ssm_heads=4, ssm_state=8, ssm_chunk=8)}


def model_of(kind):
    model = build(SHAPES[kind], vocab_size=len(TOKENIZER), end_id=tokens.end_id(TOKENIZER), pad_id=tokens.pad_id(TOKENIZER), seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() == 2 else 1)  # so that what stands before matters
    return model


def written(model, *, new_tokens=50, temperature=0.8, seed=3):
    return continue_text(model, TOKENIZER, "ab", device=cpu_device(), new_tokens=new_tokens, context_tokens=32, temperature=temperature, seed=seed)


@torch.no_grad()
@pytest.mark.parametrize("kind", SHAPES)
def test_continuation_equals_whole_forwards_of_what_stands_also_beyond_the_context(kind):
    model = model_of(kind)
    ids, special = tokens.text_ids(TOKENIZER, "ab"), [tokens.token_id(TOKENIZER, name) for name in tokens.SPECIAL_TOKENS]
    start, draws = 0, torch.rand(50, generator=torch.Generator().manual_seed(3))
    while len(ids) < 52:
        if len(ids) - start == 32:
            start = len(ids) - 16  # a full context goes on from its last half
        logits = model(torch.tensor([ids[start:]])).logits[0, -1:]
        logits[:, special] = -torch.inf
        ids += sample(logits, temperature=0.8, top_p=1.0, draws=draws[len(ids) - 2:len(ids) - 1]).tolist()
    assert written(model, temperature=0.8, seed=3) == tokens.decode(TOKENIZER, ids[2:])
    assert len(set(ids)) > 5


def test_continuation_never_has_a_special_token_and_never_ends_early():
    model = model_of("dense")
    with torch.no_grad():
        model.get_input_embeddings().weight[tokens.end_id(TOKENIZER)] *= 100  # tied: the end token wins wherever it may
    assert len(tokens.text_ids(TOKENIZER, written(model, temperature=5.0))) >= 50


def test_continuation_depends_on_the_seed_alone_and_leaves_randomness_and_mode():
    model = model_of("dense").train()
    before = torch.get_rng_state()
    first = written(model)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert written(model) == first != written(model, seed=4)
    assert model.training
