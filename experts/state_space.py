"""The two operations of a Mamba 2 layer in plain torch: a short causal convolution and the chunked scan of its state space.

Chunks are matrix products and only their ends are stepped through, after the state space dual form (arXiv:2405.21060, section 6);
scores are made once a group of heads and never repeated a head. Knows no model class (hybrid.py).
Legend: B rows, T tokens, H heads, P width of a head, G groups of heads, R = H / G, N state a channel, C channels, K kernel, L tokens a
chunk, Z chunks of all rows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def causal_convolution(x_BTC: Tensor, weight_CK: Tensor, bias_C: Tensor | None) -> Tensor:
    """Each channel convolved with its own kernel over the tokens before it, as sums of shifted products: B x T x C in the weights' dtype."""
    kernel, length = weight_CK.size(1), x_BTC.size(1)
    padded = functional.pad(x_BTC, (0, 0, kernel - 1, 0))
    found = padded[:, kernel - 1:] * weight_CK[:, -1]
    for place in range(kernel - 1):
        found = found + padded[:, place:place + length] * weight_CK[:, place]
    return found if bias_C is None else found + bias_C


def chunked_scan(x_BTHP: Tensor, dt_BTH: Tensor, a_H: Tensor, inputs_BTGN: Tensor, outputs_BTGN: Tensor, skip_H: Tensor, *, chunk: int) -> Tensor:
    """y_t = C_t s_t + D x_t with s_t = exp(dt_t A) s_(t-1) + dt_t B_t x_t from s = 0: B x T x HP.

    dt_BTH: steps after softplus, fp32; a_H: A, negative, fp32; inputs: B; outputs: C; skip_H: D. Products are in x's dtype,
    decays and sums over chunks in fp32. Any T; it is filled up to whole chunks.
    """
    rows, length, heads, width = x_BTHP.shape
    size = min(chunk, length)
    if filling := -length % size:
        x_BTHP, dt_BTH, inputs_BTGN, outputs_BTGN = (functional.pad(x, (0, 0) * (x.dim() - 2) + (0, filling))
                                                     for x in (x_BTHP, dt_BTH, inputs_BTGN, outputs_BTGN))
    chunks = (length + filling) // size
    groups = inputs_BTGN.size(2)
    cut = rows * chunks, size
    x_ZLHP, dt_ZLH = x_BTHP.reshape(*cut, heads, width), dt_BTH.reshape(*cut, heads)
    inputs_ZGLN, outputs_ZGLN = (x.reshape(*cut, groups, -1).transpose(1, 2) for x in (inputs_BTGN, outputs_BTGN))
    decay_ZLH = (dt_ZLH * a_H).cumsum(1)  # logarithm of the decay since the chunk's start
    stepped_ZLHP = (x_ZLHP * dt_ZLH[..., None]).to(x_BTHP.dtype)
    y_ZLHP = _within_chunks(stepped_ZLHP, decay_ZLH, inputs_ZGLN, outputs_ZGLN)
    if chunks > 1:
        y_ZLHP = y_ZLHP + _from_earlier_chunks(stepped_ZLHP, decay_ZLH, inputs_ZGLN, outputs_ZGLN, chunks=chunks)
    y = (y_ZLHP + x_ZLHP * skip_H[:, None]).reshape(rows, length + filling, heads * width)
    return y[:, :length] if filling else y


def _within_chunks(x_ZLHP: Tensor, decay_ZLH: Tensor, inputs_ZGLN: Tensor, outputs_ZGLN: Tensor) -> Tensor:
    """What each token gets from the tokens of its own chunk."""
    count, size, heads, width = x_ZLHP.shape
    groups = inputs_ZGLN.size(1)
    scores_ZGLL = outputs_ZGLN @ inputs_ZGLN.mT
    since_ZHL = decay_ZLH.transpose(1, 2)
    later = torch.ones(size, size, dtype=torch.bool, device=x_ZLHP.device).triu(1)
    lowest = torch.finfo(since_ZHL.dtype).min  # exp makes it 0, too, and an infinity overflows on DirectML
    decays_ZHLL = (since_ZHL[:, :, :, None] - since_ZHL[:, :, None, :]).masked_fill(later, lowest).exp()
    mixing_ZHLL = (scores_ZGLL[:, :, None] * decays_ZHLL.view(count, groups, heads // groups, size, size)).to(x_ZLHP.dtype)
    y = mixing_ZHLL.view(count * heads, size, size) @ x_ZLHP.transpose(1, 2).reshape(count * heads, size, width)
    return y.view(count, heads, size, width).transpose(1, 2)


def _from_earlier_chunks(x_ZLHP: Tensor, decay_ZLH: Tensor, inputs_ZGLN: Tensor, outputs_ZGLN: Tensor, *, chunks: int) -> Tensor:
    """What each token gets from the state that the chunks before its own left."""
    count, size, heads, width = x_ZLHP.shape
    groups, states = inputs_ZGLN.size(1), inputs_ZGLN.size(-1)
    repeats, rows = heads // groups, count // chunks
    to_end_ZLH = (decay_ZLH[:, -1:] - decay_ZLH).exp()
    kept_ZGLRP = (x_ZLHP * to_end_ZLH[..., None]).to(x_ZLHP.dtype).view(count, size, groups, repeats * width).transpose(1, 2)
    added = (inputs_ZGLN.mT @ kept_ZGLRP).view(rows, chunks, groups, states, repeats, width).float()
    whole = decay_ZLH.view(rows, chunks, size, heads)[:, :, -1].exp().view(rows, chunks, groups, 1, repeats, 1)
    before = [torch.zeros_like(added[:, 0])]
    for number in range(chunks - 1):
        before.append(before[-1] * whole[:, number] + added[:, number])
    state_ZGNRP = torch.stack(before, 1).view(count, groups, states, repeats * width).to(x_ZLHP.dtype)
    seen = (outputs_ZGLN @ state_ZGNRP).view(count, groups, size, repeats, width).transpose(1, 2).reshape(count, size, heads, width)
    return seen * decay_ZLH.exp()[..., None]
