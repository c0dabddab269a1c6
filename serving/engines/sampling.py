"""Choosing the next token of each row: repetition penalty, DRY, temperature, top-k, top-p, min-p, one uniform number a row.

Works on CPU tensors row by row, so a row's choice depends on its own logits and seed only. Does not know models.
Legend: B rows, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experts.repetition import Repetition
from serving.engines.interface import Sampling


@dataclass(slots=True)
class RowState:
    """What sampling remembers of one row: its options, its ids so far (prompt included), its source of numbers."""

    sampling: Sampling
    ids: list[int]
    numbers: random.Random = field(init=False)
    repetition: Repetition | None = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = random.Random(self.sampling.seed)  # Mersenne twister: the same numbers on every system and version
        self.repetition = Repetition(self.sampling.dry, self.ids) if self.sampling.dry is not None else None

    def push(self, token: int) -> None:
        """Add the token that was chosen."""
        self.ids.append(token)
        if self.repetition is not None:
            self.repetition.push(token)


def choose(logits_BV: Tensor, rows: Sequence[RowState]) -> list[int | None]:
    """The next token of every row, None for a row whose logits aren't numbers. logits_BV: fp32 on the CPU; changed in place where a
    penalty applies."""
    for index, row in enumerate(rows):
        if row.sampling.repetition_penalty != 1.0:
            _penalise(logits_BV[index], row)
        if row.repetition is not None and (losses := row.repetition.penalties()):
            logits_BV[index, list(losses)] -= torch.tensor(list(losses.values()))
    best_B = logits_BV.argmax(dim=-1)
    finite_B = logits_BV.gather(1, best_B[:, None])[:, 0].isfinite()  # argmax finds a NaN first, then an infinity
    chosen: list[int | None] = [token if finite else None for token, finite in zip(best_B.tolist(), finite_B.tolist(), strict=True)]
    drawn = [index for index, row in enumerate(rows) if not row.sampling.greedy and chosen[index] is not None]
    if drawn:
        picked = rows if len(drawn) == len(rows) else [rows[index] for index in drawn]
        for index, token in zip(drawn, _draw(logits_BV[drawn], picked), strict=True):
            chosen[index] = token
    return chosen


def _penalise(logits_V: Tensor, row: RowState) -> None:
    """Divide (or multiply, if negative) the logits of recent ids: the rule of CTRL, arXiv 1909.05858, section 4.1."""
    recent = torch.tensor(sorted(set(row.ids[-row.sampling.repetition_window_tokens:])), dtype=torch.int64)
    scores = logits_V[recent]
    logits_V[recent] = torch.where(scores < 0, scores * row.sampling.repetition_penalty, scores / row.sampling.repetition_penalty)


def _draw(logits_BV: Tensor, rows: Sequence[RowState]) -> list[int]:
    """Inverse-CDF draw from the filtered distribution of every row, filters in the order of transformers."""
    options = [row.sampling for row in rows]
    temperature_B1 = torch.tensor([option.temperature for option in options], dtype=torch.float32)[:, None]
    scores_BV, order_BV = torch.sort(logits_BV / temperature_B1, dim=-1, descending=True, stable=True)
    rank_V = torch.arange(scores_BV.shape[-1])
    if any(option.top_k for option in options):
        top_k_B1 = torch.tensor([option.top_k or scores_BV.shape[-1] for option in options])[:, None]
        scores_BV = torch.where(rank_V < top_k_B1, scores_BV, -torch.inf)
    probability_BV = scores_BV.softmax(dim=-1)
    if any(option.top_p < 1 for option in options):
        top_p_B1 = torch.tensor([option.top_p for option in options])[:, None]
        before_BV = probability_BV.cumsum(dim=-1) - probability_BV
        probability_BV = torch.where((before_BV < top_p_B1) | (rank_V == 0), probability_BV, 0.0)
    if any(option.min_p > 0 for option in options):
        floor_B1 = torch.tensor([option.min_p for option in options])[:, None] * probability_BV[:, :1]
        probability_BV = torch.where(probability_BV >= floor_B1, probability_BV, 0.0)
    cumulative_BV = probability_BV.cumsum(dim=-1)
    uniform_B1 = torch.tensor([row.numbers.random() for row in rows])[:, None] * cumulative_BV[:, -1:]
    position_B1 = torch.searchsorted(cumulative_BV, uniform_B1, right=True).clamp(max=scores_BV.shape[-1] - 1)
    last_B1 = (probability_BV > 0).sum(dim=-1, keepdim=True) - 1  # rounding must not lead behind the last kept token
    tokens: list[int] = order_BV.gather(1, torch.minimum(position_B1, last_B1))[:, 0].tolist()
    return tokens
