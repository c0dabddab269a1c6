"""Which experts each token goes to, and what that costs: selection, capacity, balance loss, z-loss. Pure functions of tensors.

Holds no weights and no state (block.py does). Legend: N tokens, E experts, K choices a token, S = N K assignments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Noise = Literal["gumbel", "normal"]


@dataclass(slots=True)
class Dials:
    """What is turned while a model trains, shared by all its routed layers. Evaluation reads none of it."""

    temperature: float = 1.0
    noise: Noise = "gumbel"
    noise_std: float = 0.0
    balance_weight: float = 0.0
    z_weight: float = 0.0
    capacity_factor: float | None = None


@dataclass(frozen=True, slots=True)
class Routing:
    """probability_NE: full softmax that the choice was made from. chosen_NK: best first. weight_NK: what each expert's answer is multiplied by.

    served_NK: False where a full expert dropped the token; None when nothing can be dropped.
    """

    probability_NE: Tensor
    chosen_NK: Tensor
    weight_NK: Tensor
    served_NK: Tensor | None


def route(logits_NE: Tensor, *, top_k: int, normalize: bool, bias_E: Tensor | None = None, dials: Dials | None = None) -> Routing:
    """Choose experts from fp32 logits. dials: None in evaluation, where the choice is that of transformers' own router.

    In training the experts are the top k of logits / temperature + noise; with Gumbel noise of std 1 that draws from
    softmax(logits / temperature). The weights of the answers come from the plain softmax in both modes, so that what is trained
    is what is evaluated. bias_E is added to the choice alone (arXiv:2408.15664). normalize: weights of a token sum to 1.
    """
    plain_NE = logits_NE.softmax(-1)
    scores_NE, probability_NE = logits_NE, plain_NE
    if dials is not None and dials.temperature != 1.0:
        scores_NE = logits_NE / dials.temperature
        probability_NE = scores_NE.softmax(-1)
    if bias_E is not None:
        scores_NE = scores_NE + bias_E
    if dials is not None and dials.noise_std > 0:
        scores_NE = scores_NE.detach() + dials.noise_std * _noise_like(logits_NE, kind=dials.noise)
    chosen_NK = scores_NE.topk(top_k, dim=-1).indices
    weight_NK = plain_NE.gather(-1, chosen_NK)
    if normalize:
        weight_NK = weight_NK / weight_NK.sum(-1, keepdim=True)
    served_NK = None
    if dials is not None and dials.capacity_factor is not None:
        served_NK = within_capacity(chosen_NK, experts=logits_NE.size(-1), capacity=capacity(len(logits_NE), logits_NE.size(-1), top_k, dials.capacity_factor))
        weight_NK = weight_NK * served_NK
    return Routing(probability_NE, chosen_NK, weight_NK, served_NK)


def _noise_like(logits_NE: Tensor, *, kind: Noise) -> Tensor:
    """Noise of mean 0 up to a constant that no choice sees; normal has variance 1, Gumbel its own pi^2 / 6."""
    if kind == "normal":
        return torch.randn_like(logits_NE)
    return -torch.empty_like(logits_NE).exponential_().clamp_min_(1e-20).log_()


def capacity(tokens: int, experts: int, top_k: int, factor: float) -> int:
    """Assignments that one expert takes of a batch: ceil(factor x tokens x k / E), at least one (arXiv:2101.03961, equation 3)."""
    return max(1, math.ceil(factor * tokens * top_k / experts))


def within_capacity(chosen_NK: Tensor, *, experts: int, capacity: int) -> Tensor:
    """N x K, True where the expert still had room: first choices before second ones, earlier tokens before later ones."""
    tokens, top_k = chosen_NK.shape
    expert_S = chosen_NK.T.reshape(-1)
    sorted_S, order_S = expert_S.sort(stable=True)
    ends_E = ends_of(sorted_S, experts=experts)
    first_E = torch.cat([torch.zeros_like(ends_E[:1]), ends_E[:-1]])
    rank_S = torch.arange(len(expert_S), device=expert_S.device) - first_E.gather(0, sorted_S)
    return (rank_S.gather(0, inverse_of(order_S)) < capacity).view(top_k, tokens).T


def ends_of(sorted_S: Tensor, *, experts: int) -> Tensor:
    """Where each expert's part of sorted expert numbers ends; by comparison, since searchsorted has no kernel on DirectML."""
    return (sorted_S[None, :] <= torch.arange(experts, device=sorted_S.device)[:, None]).long().sum(1)


def inverse_of(order_S: Tensor) -> Tensor:
    """The permutation that undoes a permutation; written by scatter, since index_put is wrong in places on DirectML."""
    return torch.empty_like(order_S).scatter_(0, order_S, torch.arange(len(order_S), device=order_S.device))


def counts(chosen_NK: Tensor, *, experts: int, of_NK: Tensor | None = None) -> Tensor:
    """Assignments of each expert, fp32 (exact up to 2^24 of them). of_NK: which count, True or 1; None: all."""
    weight_S = torch.ones(chosen_NK.numel(), device=chosen_NK.device) if of_NK is None else of_NK.reshape(-1).float()
    return torch.zeros(experts, device=chosen_NK.device).scatter_add_(0, chosen_NK.reshape(-1), weight_S)


def balance_loss(probability_NE: Tensor, demand_E: Tensor, *, used_N: Tensor | None = None) -> Tensor:
    """E x sum over experts of (share of the assignments) x (mean probability), arXiv:2101.03961 equations 4 to 6.

    The shares sum to 1 for any k, the probability is the full softmax: 1 is perfect balance, E a collapse on one expert.
    demand_E: assignments of each expert. used_N: tokens that count. Only the probabilities carry a gradient.
    """
    mean_E = probability_NE.mean(0) if used_N is None else (probability_NE * used_N[:, None]).sum(0) / used_N.sum().clamp_min(1)
    share_E = demand_E / demand_E.sum().clamp_min(1)
    return probability_NE.size(-1) * (share_E * mean_E).sum()


def z_loss(logits_NE: Tensor, *, used_N: Tensor | None = None) -> Tensor:
    """Mean of logsumexp(logits)^2, which keeps the logits small (arXiv:2202.08906, equation 5)."""
    square_N = (logits_NE - logits_NE.log_softmax(-1)).mean(-1).square()  # every column is the logsumexp, which has no kernel on DirectML
    return square_N.mean() if used_N is None else (square_N * used_N).sum() / used_N.sum().clamp_min(1)


def moved_bias(bias_E: Tensor, demand_E: Tensor, *, rate: float) -> Tensor:
    """The selection bias after a step: up for experts with less than the mean load, down for the others (arXiv:2408.15664)."""
    return bias_E + rate * torch.sign(demand_E.mean() - demand_E)
