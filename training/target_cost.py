"""Cost of target tokens from hidden states, the vocabulary matrix multiplied in chunks: no logits of a whole batch ever exist.

Loss and gradients are made together, as in Liger-Kernel's fused linear cross-entropy (arXiv 2410.10989), here in plain torch.
Legend: N targets, D width, V vocabulary, C targets of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SMALLEST = torch.finfo(torch.float32).tiny  # probability of a target: its cost ends at 87 nats instead of infinity
_CHUNK_BYTES = 8 * 2**20  # fp32 logits of a chunk: they should stay in the cache of a CPU core


def target_cost(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Differentiable sum of -log softmax(hidden weight^T)[target] in nats, fp32. dtype: of the products; softmax is in fp32."""
    if torch.is_grad_enabled():
        found: Tensor = _TargetCost.apply(hidden_ND, weight_VD, targets_N, dtype)  # type: ignore[no-untyped-call]
        return found
    hidden, weight = hidden_ND.to(dtype), weight_VD.to(dtype)
    total = torch.zeros((), device=hidden.device)
    for part, targets in _chunks(hidden, targets_N, vocabulary=weight.size(0)):
        logits_CV = (part @ weight.T).float()
        total += (logits_CV.logsumexp(-1) - logits_CV.gather(1, targets[:, None])[:, 0]).sum()
    return total


class _TargetCost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype) -> Tensor:
        hidden, weight = hidden_ND.to(dtype), weight_VD.to(dtype)
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        total, first = torch.zeros((), device=hidden.device), 0
        for part, targets in _chunks(hidden, targets_N, vocabulary=weight.size(0)):
            slope_CV = torch.softmax((part @ weight.T).float(), -1)  # one pass over the logits, where logsumexp and exp take five
            total -= slope_CV.gather(1, targets[:, None]).clamp_(min=_SMALLEST).log_().sum()
            slope_CV.scatter_add_(1, targets[:, None], slope_CV.new_full((len(targets), 1), -1.0))  # the gradient by the logits
            slope = slope_CV.to(dtype)
            grad_hidden[first:first + len(targets)] = slope @ weight
            grad_weight += slope.T @ part
            first += len(targets)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden_ND.dtype, weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return (grad_hidden * grads[0]).to(ctx.dtypes[0]), (grad_weight * grads[0]).to(ctx.dtypes[1]), None, None


def _chunks(hidden_ND: Tensor, targets_N: Tensor, *, vocabulary: int) -> zip[tuple[Tensor, Tensor]]:
    size = max(16, _CHUNK_BYTES // (4 * vocabulary) // 16 * 16)
    return zip(torch.split(hidden_ND, size), torch.split(targets_N, size), strict=True)
