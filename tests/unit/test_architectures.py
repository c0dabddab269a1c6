"""Untrained models: shapes from settings, seeds, generation settings."""

import pytest
import torch

from experts.architectures import build
from settings import ModelSettings

TINY = ModelSettings(layers=2, width=32, heads=4, kv_heads=2, intermediate=48, context_tokens=64)


def test_build_counts_the_parameters_of_the_formula() -> None:
    model = build(TINY, vocab_size=300, end_id=1, pad_id=0, seed=0)
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 2 * 8  # queries, keys and values, output, norms of queries and keys
    layer = attention + 3 * 32 * 48 + 2 * 32
    assert sum(parameter.numel() for parameter in model.parameters()) == 300 * 32 + 2 * layer + 32


def test_build_ties_the_embeddings_in_fp32_on_the_cpu() -> None:
    model = build(TINY, vocab_size=300, end_id=1, pad_id=0, seed=0)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert {(parameter.dtype, parameter.device.type) for parameter in model.parameters()} == {(torch.float32, "cpu")}


def test_build_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    first = build(TINY, vocab_size=300, end_id=1, pad_id=0, seed=7).state_dict()
    torch.rand(13)
    second = build(TINY, vocab_size=300, end_id=1, pad_id=0, seed=7).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_build_other_seed_gives_other_weights() -> None:
    one, two = (build(TINY, vocab_size=300, end_id=1, pad_id=0, seed=seed).get_input_embeddings().weight for seed in (7, 8))
    assert not torch.equal(one, two)


def test_build_leaves_the_random_state_of_the_caller() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build(TINY, vocab_size=300, end_id=1, pad_id=0, seed=7)
    assert torch.equal(torch.rand(4), expected)


def test_build_sets_end_and_pad_for_generation() -> None:
    model = build(TINY, vocab_size=300, end_id=5, pad_id=2, seed=0)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (5, 2)
    assert (model.config.eos_token_id, model.config.pad_token_id, model.config.max_position_embeddings) == (5, 2, 64)


def test_build_end_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"end_id = 300 and pad_id = 0 must lie below vocab_size = 300"):
        build(TINY, vocab_size=300, end_id=300, pad_id=0, seed=0)
