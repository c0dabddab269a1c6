"""Attention of packed documents, each computed by itself: documents of like length are one batched product.

No product is made between documents, which a 4-D mask over whole rows can't avoid. Registered with transformers by name; the
groups travel as a keyword of the model's call. Does not know rows or losses.
Legend: N tokens of all rows, H query heads, K key-value heads, R = H / K, D width of a head, n documents of a group, L their padded length.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface

from experts import autocast

NAME = "branchwise_documents"


@dataclass(frozen=True, slots=True)
class Groups:
    """Where the documents lie. take: the token of each place of the padded groups; back: the place of each token;
    padding: places past the end of their document; shapes: (n, L) of each group."""

    take: Tensor
    back: Tensor
    padding: Tensor
    shapes: tuple[tuple[int, int], ...]

    def to(self, device: torch.device) -> Groups:
        """The same groups on a device."""
        return Groups(self.take.to(device), self.back.to(device), self.padding.to(device), self.shapes)


def padded_length(length: int) -> int:
    """The length that a document is padded to: steps of an eighth to a quarter of it, so that few places are wasted and few shapes occur."""
    step = max(8, 1 << max(0, (length - 1).bit_length() - 3))
    return (length + step - 1) // step * step


def group_documents(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Groups:
    """Groups of documents that lie at starts in the flat rows; together they must cover every token exactly once."""
    widths = np.array([padded_length(length) for length in lengths.tolist()])
    take, real, shapes = [], [], []
    for width in np.unique(widths):
        mine = np.flatnonzero(widths == width)
        places = np.arange(width)[None, :]
        # Past its end a document repeats its last token: a causal mask hides it from all real ones.
        take.append((starts[mine][:, None] + np.minimum(places, lengths[mine][:, None] - 1)).ravel())
        real.append((places < lengths[mine][:, None]).ravel())
        shapes.append((len(mine), int(width)))
    tokens, is_real = np.concatenate(take), np.concatenate(real)
    back = np.empty(int(lengths.sum()), dtype=np.int64)
    back[tokens[is_real]] = np.flatnonzero(is_real)
    return Groups(torch.from_numpy(tokens), torch.from_numpy(back), torch.from_numpy(np.flatnonzero(~is_real)), tuple(shapes))


def register(*, compiled: bool) -> str:
    """Make the attention known to transformers and give its name; doing it again changes nothing. compiled: for use among compiled layers."""
    name = f"{NAME}_between_graphs" if compiled else NAME
    if name not in AttentionInterface():
        # Its shapes change with every batch: compiled, it would be compiled for ever.
        AttentionInterface.register(name, torch.compiler.disable(_attention) if compiled else _attention)  # type: ignore[no-untyped-call]
    return name


def _attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,  # noqa: ARG001 - transformers' signature
               scaling: float, groups: Groups, dropout: float = 0.0, **_: Any) -> tuple[Tensor, None]:
    """transformers' attention function: query 1 x H x N x D, key and value 1 x K x N x D; gives 1 x N x H x D."""
    if dropout:
        raise ValueError(f"attention by documents has no dropout, the model asks for {dropout}; set its attention dropout to 0")
    # Norms may have left query and key in fp32 where autocast made the values bfloat16; autocast would also make softmax fp32.
    q, k, v = (x[0].transpose(0, 1).to(value.dtype).contiguous() for x in (query, key, value))
    with autocast.outside(query.device):
        found: Tensor = DocumentAttention.apply(q, k, v, groups, scaling)  # type: ignore[no-untyped-call]
    return found[None], None


class DocumentAttention(torch.autograd.Function):
    """softmax(q k^T scale) v, causal within each document. Places past a document's end get no gradient: nothing real sees them."""

    @staticmethod
    def forward(ctx: Any, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, groups: Groups, scale: float) -> Tensor:
        """N x H x D from N x H x D and twice N x K x D."""
        kv_heads, repeats = k_NKD.size(1), q_NHD.size(1) // k_NKD.size(1)
        grouped = (_split(x.index_select(0, groups.take), groups.shapes, kv_heads) for x in (q_NHD, k_NKD, v_NKD))
        saved, outputs = [], []
        for q, k, v, (_, length) in zip(*grouped, groups.shapes, strict=True):
            p = torch.baddbmm(_causal_bias(length, repeats, q.dtype, q.device), q, k.mT, alpha=scale).softmax(-1)
            outputs.append(p @ v)
            saved += [q, k, v, p]
        ctx.save_for_backward(*saved)
        ctx.groups, ctx.scale, ctx.kv_heads = groups, scale, kv_heads
        return _joined(outputs, groups, kv_heads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Gradients of query, key and value."""
        groups, kv_heads, saved = ctx.groups, ctx.kv_heads, ctx.saved_tensors
        grad = grads[0].index_select(0, groups.take).index_fill_(0, groups.padding, 0.0)
        dqs, dks, dvs = [], [], []
        for number, do in enumerate(_split(grad, groups.shapes, kv_heads)):
            q, k, v, p = saved[4 * number:4 * number + 4]
            ds = torch.ops.aten._softmax_backward_data(do @ v.mT, p, -1, p.dtype).mul_(ctx.scale)
            dqs.append(ds @ k)
            dks.append(ds.mT @ q)
            dvs.append(p.mT @ do)
        return _joined(dqs, groups, kv_heads), _joined(dks, groups, kv_heads), _joined(dvs, groups, kv_heads), None, None


def _split(x_PHD: Tensor, shapes: tuple[tuple[int, int], ...], kv_heads: int) -> list[Tensor]:
    """Padded places P = sum of n * L to one tensor a group, nK x RL x D: query heads that share a key head stand below each other."""
    parts = torch.split(x_PHD, [count * length for count, length in shapes])
    heads, width = x_PHD.shape[1:]
    return [part.view(count, length, kv_heads, heads // kv_heads, width).permute(0, 2, 3, 1, 4).reshape(count * kv_heads, -1, width)
            for part, (count, length) in zip(parts, shapes, strict=True)]


def _joined(parts: list[Tensor], groups: Groups, kv_heads: int) -> Tensor:
    """The inverse of _split, real tokens only: N x H x D."""
    width = parts[0].size(-1)
    laid = [part.view(count, kv_heads, -1, length, width).permute(0, 3, 1, 2, 4).reshape(count * length, -1, width)
            for part, (count, length) in zip(parts, groups.shapes, strict=True)]
    return torch.cat(laid).index_select(0, groups.back)


@lru_cache(maxsize=256)
def _causal_bias(length: int, repeats: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """1 x RL x L: 0 where a query may look, else the lowest number of the dtype."""
    hidden = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
    return torch.zeros(length, length, dtype=dtype, device=device).masked_fill_(hidden, torch.finfo(dtype).min).repeat(repeats, 1)[None]
