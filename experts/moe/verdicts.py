"""Is the router well? Limits of every metric for this number of experts, a verdict for each, since when, and the lever to pull. Pure.

The limits are those of the table in docs/moe.md, which was written for 8 experts; they scale with 1/E. Does not measure (health.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from experts.moe.health import Reading

Verdict = Literal["healthy", "watch", "alarm"]
Zone = Literal["healthy", "watch", "limit", "severe"]  # limit: an alarm once it lasts; severe: at once
ZONES: tuple[Zone, ...] = ("healthy", "watch", "limit", "severe")
_CLIP_STEPS = 100  # a share of fewer steps says nothing
_TREND_READINGS = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One metric now. since_step: where its present verdict began; steps: for how many it has lasted by the last reading."""

    name: str
    value: float
    healthy: str
    verdict: Verdict
    since_step: int
    steps: int
    meaning: str
    lever: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What one metric means: its zone at a reading, its healthy range in words, the lever."""

    meaning: str
    lever: str
    zone: Callable[[Reading, str], Zone]
    healthy: Callable[[Reading], str]


def busy_limits(experts: int, top_k: int = 1) -> tuple[float, float, float]:
    """Shares of the busiest expert: healthy up to, an alarm when it lasts above, severe above. 2/E, 2.8/E, 4/E: 0.25, 0.35, 0.5 for E = 8.

    With few experts these would lie above any share that can occur, so they stay below parts of the way to the largest one, 1/k.
    """
    even, most = 1 / experts, 1 / top_k
    fine, limit, severe = (min(factor * even, even + part * (most - even)) for factor, part in ((2.0, 0.5), (2.8, 0.7), (4.0, 0.8)))
    return fine, limit, severe


def top1_limits(experts: int) -> tuple[float, float, float, float]:
    """Mean probability of the first choice: diffuse below, healthy from, healthy to, peaky above."""
    if experts == 2:
        return 0.55, 0.625, 0.85, 0.95
    return 1.2 / experts, 1.5 / experts, 0.6, 0.8


def _busy(reading: Reading, name: str) -> Zone:
    value, (fine, limit, severe) = reading.metrics[name], busy_limits(reading.experts, reading.top_k)
    return ZONES[(value > fine) + (value > limit) + (value > severe)]


def _top1(reading: Reading, name: str) -> Zone:
    value, (diffuse, low, high, peaky) = reading.metrics[name], top1_limits(reading.experts)
    if value > high:
        return "limit" if value > peaky else "watch"
    if reading.exploring or value >= low:
        return "healthy"
    return "limit" if value < diffuse else "watch"


def _entropy(reading: Reading, name: str) -> Zone:
    share = reading.metrics[name] / math.log(reading.experts)
    if share < 0.2:
        return "limit" if share < 0.1 else "watch"
    if reading.exploring or share <= 0.6:
        return "healthy"
    return "limit" if share > 0.97 else "watch"


def is_sharp(reading: Reading) -> bool:
    """Whether the router hardly hesitates any more: more temperature would help."""
    metrics = reading.metrics
    return metrics["router/top1_p_mean"] > top1_limits(reading.experts)[3] or metrics["router/entropy_mean"] < 0.1 * math.log(reading.experts)


def _expert(reading: Reading, name: str) -> Zone:
    value, even = reading.metrics[name], 1 / reading.experts
    if value < 0.5 * even:
        return "limit" if value < 0.1 * even else "watch"
    return "healthy" if value <= 1.5 * even else _worse("watch", _busy(reading, name))


def _gap(reading: Reading, name: str) -> Zone:
    wanted = reading.metrics[name.replace("frac_srv", "frac_dem")]
    lost = (wanted - reading.metrics[name]) / wanted if wanted else 0.0
    return ZONES[(lost > 0.05) + (lost > 0.2)]


def _served_expert(reading: Reading, name: str) -> Zone:
    return _worse(_expert(reading, name), _gap(reading, name))


def _balance(reading: Reading, name: str) -> Zone:
    return "healthy" if reading.metrics[name.replace("aux_mean", "balance_mean")] <= 1.25 else "watch"  # its growth: see _trend


def _active(reading: Reading, name: str) -> Zone:
    value, experts = reading.metrics[name], reading.experts
    if value <= reading.top_k:
        return "severe"
    if value <= max(reading.top_k, experts // 4):
        return "limit"
    return "healthy" if value >= experts - 1 else "watch"


def _dropped(reading: Reading, name: str) -> Zone:
    value = reading.metrics[name]
    return ZONES[(value > 0.01) + (value > 0.02)]


def _clipped(reading: Reading, name: str) -> Zone:
    share = reading.metrics[name] / max(reading.step, _CLIP_STEPS)
    return ZONES[(share > 0.05) + (share > 0.10)]


def _collapsed(reading: Reading, name: str) -> Zone:
    return "severe" if reading.metrics[name] else "healthy"


def _worse(one: Zone, other: Zone) -> Zone:
    return max(one, other, key=ZONES.index)


def _to(number: float) -> str:
    return f"<= {number:.3g}"


_BUSY_LEVER = "raise moe.balance_weight, moe.z_weight or moe.temperature"
_SHARP_LEVER = "too sharp: raise moe.temperature or moe.noise_std; too flat: lower them"
RULES: dict[str, Rule] = {
    "router/top1_p_mean": Rule("mean probability of the chosen expert", _SHARP_LEVER, _top1,
                               lambda r: f"{top1_limits(r.experts)[1]:.3g} .. {top1_limits(r.experts)[2]:.3g}" + (", lower early" if r.exploring else "")),
    "router/max_frac_mean": Rule("share of the busiest expert, mean over layers", _BUSY_LEVER, _busy, lambda r: _to(busy_limits(r.experts, r.top_k)[0])),
    "router/max_frac_max": Rule("share of the busiest expert, max over layers", _BUSY_LEVER, _busy,
                                lambda r: "<= {:.3g}, spikes < {:.3g}".format(*busy_limits(r.experts, r.top_k)[:2])),
    "router/frac_dem_max": Rule("largest share demanded, layers averaged", _BUSY_LEVER, _expert, lambda r: _to(1.5 / r.experts)),
    "router/frac_srv_max": Rule("largest share served, layers averaged", "raise moe.capacity_factor", _gap, lambda _: "as demanded"),
    "router/entropy_mean": Rule("entropy of the router in nats", _SHARP_LEVER, _entropy,
                                lambda r: f"{0.2 * math.log(r.experts):.3g} .. {(1.0 if r.exploring else 0.6) * math.log(r.experts):.3g}"),
    "router/aux_mean": Rule("balance loss x weight", "raise moe.balance_weight", _balance, lambda _: "not growing, balance <= 1.25"),
    "router/active_min": Rule("experts that got any token, min over layers", _BUSY_LEVER, _active, lambda r: f"{r.experts} or {r.experts - 1}"),
    "router/drop_frac_mean": Rule("share dropped by capacity", "raise moe.capacity_factor", _dropped, lambda _: "<= 0.01"),
    "grad/clipped_cum": Rule("steps whose gradient was clipped", "lower train.lr, lengthen train.warmup_share or raise train.clip_norm", _clipped,
                             lambda r: _to(0.05 * max(r.step, _CLIP_STEPS))),
    "router/collapsed": Rule("one layer sends nearly everything to the same experts", _BUSY_LEVER, _collapsed, lambda _: "0"),
}
_EXPERT_RULES = {
    "router/frac_dem_e": Rule("share that one expert is asked for", _BUSY_LEVER, _expert, lambda r: f"{0.5 / r.experts:.3g} .. {1.5 / r.experts:.3g}"),
    "router/frac_srv_e": Rule("share that one expert serves", "raise moe.capacity_factor or moe.balance_weight", _served_expert,
                              lambda r: f"{0.5 / r.experts:.3g} .. {1.5 / r.experts:.3g}, as demanded"),
}


def rule_of(name: str) -> Rule | None:
    """The rule of a metric, of a layer's metric that of its name over all layers; None for a number without one."""
    head, _, rest = name.partition("/")
    if rest.startswith("layer"):
        name = f"{head}/{rest.partition('/')[2]}"
    stem = name.rstrip("0123456789")
    return RULES.get(name) or _EXPERT_RULES.get(stem)


def judge(readings: Sequence[Reading], *, sustained: int) -> list[Finding]:
    """A finding for each metric of the last reading, in the order of the table. Readings oldest first."""
    if not readings:
        return []
    found = []
    for name, value in readings[-1].metrics.items():
        rule = rule_of(name)
        if rule is None:
            continue
        verdicts = _verdicts([reading for reading in readings if name in reading.metrics], name=name, rule=rule, sustained=sustained)
        steps = [reading.step for reading in readings if name in reading.metrics]
        first = next((place for place in range(len(verdicts) - 1, -1, -1) if verdicts[place] != verdicts[-1]), -1) + 1
        found.append(Finding(name, value, rule.healthy(readings[-1]), verdicts[-1], steps[first], steps[-1] - steps[first], rule.meaning,
                             "" if verdicts[-1] == "healthy" else rule.lever))
    return found


def _verdicts(readings: Sequence[Reading], *, name: str, rule: Rule, sustained: int) -> list[Verdict]:
    found: list[Verdict] = []
    beyond = 0
    for place, reading in enumerate(readings):
        zone = rule.zone(reading, name)
        if name.endswith("aux_mean"):
            zone = _worse(zone, _trend(readings[max(0, place + 1 - _TREND_READINGS):place + 1], name))
        beyond = beyond + 1 if zone in ("limit", "severe") else 0
        found.append("healthy" if zone == "healthy" else "alarm" if zone == "severe" or beyond >= sustained else "watch")
    return found


def _trend(readings: Sequence[Reading], name: str) -> Zone:
    """limit when the balance loss and the busiest share have both grown by a tenth over the last ten readings; fewer say nothing."""
    if len(readings) < _TREND_READINGS:
        return "healthy"
    busiest = name.replace("aux_mean", "max_frac_mean")
    grown = [_mean(readings[-3:], key) > 1.1 * _mean(readings[:3], key) > 0 for key in (name, busiest)]
    return "limit" if all(grown) else "healthy"


def _mean(readings: Sequence[Reading], name: str) -> float:
    return sum(reading.metrics[name] for reading in readings) / len(readings)


def overall(findings: Sequence[Finding]) -> Verdict:
    """The worst verdict of all."""
    order: tuple[Verdict, ...] = ("healthy", "watch", "alarm")
    return max((finding.verdict for finding in findings), key=order.index, default="healthy")
