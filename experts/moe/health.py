"""What the router did, in numbers: the metrics of one reading, for each layer and over all of them. Pure.

Names and meanings are those of the table in docs/moe.md. What is healthy is verdicts.py's. Legend: E experts, k choices a token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

COLLAPSE_SHARE = 0.90  # of the tokens on one expert


@dataclass(frozen=True, slots=True)
class LayerTally:
    """Sums over the tokens of one reading. demand, served: assignments of each expert before and after capacity.

    top1_probability: of the first choice, entropy: of the full softmax in nats, both summed over tokens; balance: balance loss
    summed over batches (1 each when balanced).
    """

    demand: tuple[float, ...]
    served: tuple[float, ...]
    tokens: float
    top1_probability: float
    entropy: float
    balance: float
    batches: float


@dataclass(frozen=True, slots=True)
class Reading:
    """The metrics at one step, and what auto-heal turned then. experts, top_k, layers, exploring: what verdicts need to know."""

    step: int
    experts: int
    top_k: int
    layers: int
    exploring: bool
    metrics: Mapping[str, float]
    healed: tuple[str, ...] = field(default=())


def metrics_of(layers: Sequence[LayerTally], *, top_k: int, balance_weight: float) -> dict[str, float]:
    """Every metric over all layers as router/NAME, and of each layer alone as router/layer<n>/NAME."""
    found = {f"router/{name}": value for name, value in _metrics(layers, top_k=top_k, balance_weight=balance_weight).items()}
    for number, layer in enumerate(layers):
        alone = _metrics([layer], top_k=top_k, balance_weight=balance_weight)
        found |= {f"router/layer{number}/{name}": value for name, value in alone.items()}
    return found


def _metrics(layers: Sequence[LayerTally], *, top_k: int, balance_weight: float) -> dict[str, float]:
    demand = [_shares(layer.demand, of=sum(layer.demand)) for layer in layers]
    served = [_shares(layer.served, of=sum(layer.demand)) for layer in layers]
    busiest = [max(shares) for shares in demand]
    active = [sum(tokens > 0 for tokens in layer.served) for layer in layers]
    dem, srv = [fmean(expert) for expert in zip(*demand, strict=True)], [fmean(expert) for expert in zip(*served, strict=True)]
    balance = fmean(layer.balance / max(1.0, layer.batches) for layer in layers)
    return {
        "top1_p_mean": fmean(layer.top1_probability / max(1.0, layer.tokens) for layer in layers),
        "max_frac_mean": fmean(busiest), "max_frac_max": max(busiest),
        "frac_dem_max": max(dem), "frac_srv_max": max(srv),
        **{f"frac_dem_e{expert}": share for expert, share in enumerate(dem)}, **{f"frac_srv_e{expert}": share for expert, share in enumerate(srv)},
        "entropy_mean": fmean(layer.entropy / max(1.0, layer.tokens) for layer in layers),
        "aux_mean": balance_weight * balance, "balance_mean": balance,
        "active_min": float(min(active)),
        "drop_frac_mean": fmean(max(0.0, 1.0 - sum(shares)) for shares in served),
        "collapsed": float(has_collapsed(max_frac=max(busiest), active=min(active), top_k=top_k)),
    }


def has_collapsed(*, max_frac: float, active: float, top_k: int) -> bool:
    """Whether one layer sends nearly all tokens to the same k experts. max_frac is a share of the assignments, so its limit falls with k."""
    return max_frac >= COLLAPSE_SHARE / top_k or active <= top_k


def _shares(counts: Sequence[float], *, of: float) -> list[float]:
    return [count / of if of else 1.0 / len(counts) for count in counts]


def balanced_entropy(experts: int) -> float:
    """Largest entropy of a router, ln E nats."""
    return math.log(experts)


def log_fields(metrics: Mapping[str, float]) -> str:
    """The router's part of a log line."""
    return (f"r_max {metrics['router/max_frac_max']:.2f} act_min {metrics['router/active_min']:.0f} col {metrics['router/collapsed']:.0f}")
