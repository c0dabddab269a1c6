"""Attention by documents against scaled_dot_product_attention of each document by itself, and its gradient against finite differences."""

import numpy as np
import pytest
import torch

from training.document_attention import DocumentAttention, group_documents, padded_length


def laid_out(lengths, *, heads=4, kv_heads=2, width=8, dtype=torch.float32):
    random = torch.Generator().manual_seed(0)
    tokens = sum(lengths)
    q, k, v = (torch.randn(tokens, count, width, generator=random, dtype=dtype, requires_grad=True) for count in (heads, kv_heads, kv_heads))
    sizes = np.array(lengths, dtype=np.int64)
    return q, k, v, group_documents(np.cumsum(sizes) - sizes, sizes)


def one_by_one(q, k, v, lengths, *, scale):
    """N x H x D by torch's own attention, a document at a time."""
    outputs = []
    for part in zip(*(torch.split(x, lengths) for x in (q, k, v)), strict=True):
        query, *pair = (x.transpose(0, 1)[None] for x in part)
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in pair)  # torch 2.4 has no enable_gqa
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
        outputs.append(found[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("lengths", [[1], [5, 9, 1, 16, 17], [40, 3, 40, 33], [16, 16, 16]])
def test_document_attention_equals_attention_of_each_document_alone(lengths, heads, kv_heads):
    q, k, v, groups = laid_out(lengths, heads=heads, kv_heads=kv_heads)
    ours = DocumentAttention.apply(q, k, v, groups, 0.3)
    torch.testing.assert_close(ours, one_by_one(q, k, v, lengths, scale=0.3), rtol=1e-5, atol=1e-6)


def test_document_attention_gradients_equal_those_of_each_document_alone():
    lengths = [5, 9, 1, 16, 17, 40]
    q, k, v, groups = laid_out(lengths)
    slope = torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((DocumentAttention.apply(q, k, v, groups, 0.3) * slope).sum(), (q, k, v))
    theirs = torch.autograd.grad((one_by_one(q, k, v, lengths, scale=0.3) * slope).sum(), (q, k, v))
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


def test_document_attention_gradient_holds_against_finite_differences():
    q, k, v, groups = laid_out([3, 5], width=2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *x: DocumentAttention.apply(*x, groups, 0.5), (q, k, v))


@pytest.mark.parametrize(("length", "wanted"), [(1, 8), (8, 8), (9, 16), (33, 40), (64, 64), (65, 80), (130, 160), (384, 384)])
def test_padded_length_is_the_next_step(length, wanted):
    assert padded_length(length) == wanted


@pytest.mark.parametrize("length", range(16, 600, 7))
def test_padded_length_wastes_at_most_half_and_for_long_documents_a_quarter(length):
    assert length <= padded_length(length) <= length * (1.25 if length > 32 else 1.5)


def test_groups_give_every_token_its_own_place():
    lengths = np.array([5, 9, 1, 16, 17], dtype=np.int64)
    groups = group_documents(np.cumsum(lengths) - lengths, lengths)
    assert groups.take[groups.back].tolist() == list(range(48))
    assert groups.shapes == ((2, 8), (2, 16), (1, 24))
    assert sorted([*groups.back.tolist(), *groups.padding.tolist()]) == list(range(2 * 8 + 2 * 16 + 24))
