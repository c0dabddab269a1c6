"""Learning rate of a step as a share of the peak: warm-up, then linear, cosine or constant-then-decay. Pure."""

from __future__ import annotations

import math

from training.plan import Plan


def lr_share(step: int, *, plan: Plan) -> float:
    """Share of the peak rate for step 1 .. plan.steps: rises linearly to 1 right after the warm-up, ends at plan.final_lr_share.

    constant_then_decay holds the peak and falls linearly over the last plan.decay_steps (WSD, arXiv 2404.06395).
    """
    if not 1 <= step <= plan.steps:
        raise ValueError(f"step {step} isn't in 1 .. {plan.steps}; the plan has no rate for it")
    if step <= plan.warmup_steps:
        return step / (plan.warmup_steps + 1)
    last_peak = plan.steps - plan.decay_steps if plan.schedule == "constant_then_decay" else plan.warmup_steps + 1
    done = (step - last_peak) / (plan.steps - last_peak) if step > last_peak else 0.0
    if plan.schedule == "cosine":
        left = 0.5 * (1.0 + math.cos(math.pi * done))
    elif plan.schedule in ("linear", "constant_then_decay"):
        left = 1.0 - done
    else:
        raise ValueError(f"no schedule named {plan.schedule!r}; allowed: linear, cosine, constant_then_decay")
    return plan.final_lr_share + (1.0 - plan.final_lr_share) * left
