"""What a training run is to do (Mix, Plan) and what it reports (StepFacts, Validation, Trained). Pure data.

Does not train (trainer.py) and does not choose shares or lengths by itself (the loop does).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from experts.moe.health import Reading
from settings import TrainSettings

# Where train.lr is unset: of embeddings and norms beside Muon, of all weights, Sophia's (RESULTS.md, "Training").
LR_OF_OPTIMIZER = {"muon": 0.01, "adamw": 0.002, "muon_sophia": 0.003}


class TrainingDiverged(RuntimeError):
    """The loss stayed non-finite after every return to the last good state that train.max_rollbacks allows."""


class StateMismatch(RuntimeError):
    """A saved trainer state belongs to another run: the message lists each difference."""


def peak_lr(settings: TrainSettings) -> float:
    """Peak rate of AdamW or Sophia: train.lr, or what suits the optimizer."""
    return LR_OF_OPTIMIZER[settings.optimizer] if settings.lr is None else settings.lr


@dataclass(frozen=True, slots=True)
class Mix:
    """Share of the rows that each domain gives. Shares are positive and needn't sum to one.

    prompts: domains whose prompts are targets, too, as in the pretraining of a language model; else only responses and end tokens.
    """

    shares: Mapping[str, float]
    prompts: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        bad = {name: share for name, share in self.shares.items() if not (math.isfinite(share) and share > 0)}
        if bad or not self.shares:
            raise ValueError(f"mix shares must name at least one domain and be positive, got {bad or '{}'}; leave a domain out instead of giving it 0")


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to train. Fixed before the run and kept for a resume. Rates are peaks.

    seconds: training time that the run is to take; then steps is what was expected at first, and at_speed() says what it comes to.
    least_steps: a run of seconds that hasn't made so many by then goes on until it has, for most_seconds at most.
    dropout: share of what the layers add that is set to 0 (experts/dropout.py); None: the model's own alone.
    """

    steps: int
    lr: float
    muon_lr: float
    schedule: str
    warmup_steps: int
    decay_steps: int
    final_lr_share: float
    seed: int
    seconds: float | None = None
    least_steps: int | None = None
    most_seconds: float | None = None
    dropout: float | None = None

    @classmethod
    def from_settings(cls, settings: TrainSettings, *, steps: int, seed: int, lr_share: float = 1.0, seconds: float | None = None) -> Plan:
        """The plan of that many steps. lr_share: peak rates as a share of the settings' (experts start from trained weights)."""
        if steps < 1:
            raise ValueError(f"a plan needs at least one step, got {steps}; raise loop.minutes or loop.steps")
        warmup = min(round(steps * settings.warmup_share), steps - 1)
        decay = min(round(steps * settings.decay_share), steps - warmup)
        return cls(steps, peak_lr(settings) * lr_share, settings.muon_lr * lr_share, settings.schedule, warmup, decay, settings.final_lr_share, seed, seconds)

    def at_speed(self, *, step: int, train_s: float) -> Plan:
        """This plan after so many steps in train_s seconds: as many steps as fill its time at their mean speed, itself where it has none.

        step / steps is then the share of the time that has passed, so the rates follow the clock, and the run ends within a step of it.
        """
        if self.seconds is None or step == 0:
            return self
        seconds = self.seconds
        if self.least_steps is not None and self.most_seconds is not None:
            seconds = max(seconds, min(self.least_steps * train_s / step, self.most_seconds))
        steps = max(step, round(seconds * step / train_s))
        warmup = min(round(self.warmup_steps * steps / self.steps), steps - 1)
        decay = min(round(self.decay_steps * steps / self.steps), steps - warmup)
        return replace(self, steps=steps, warmup_steps=warmup, decay_steps=decay)

    def to_json(self) -> dict[str, Any]:
        """Plain data from which Plan(**data) makes the same plan."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class StepFacts:
    """One finished step. loss: nats a target token. tokens, train_s: since the start of the run, resumes included.

    routing: the router's metrics, for routed models at every moe.health_every_steps.
    """

    step: int
    steps: int
    loss: float
    lr: float
    muon_lr: float
    grad_norm: float
    clipped: bool
    tokens: int
    targets: int
    tokens_per_s: float
    train_s: float
    eta_s: float
    rollbacks: int
    routing: Reading | None = None


@dataclass(frozen=True, slots=True)
class Validation:
    """Held-out loss at one step, nats a target token; by_domain has the same for each domain of the mix."""

    step: int
    val_loss: float
    by_domain: Mapping[str, float]
    train_loss: float
    train_s: float
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """Plain data from which Validation(**data) makes the same value."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a call of train() left behind; the model itself was trained in place.

    stopped: should_stop ended it before its last step. losses: one a step since step 1, in nats a target token.
    tokens: tokens in the rows, targets: those that carried a loss. train_s: steps only, no validation and no saving.
    """

    stopped: bool
    step: int
    losses: tuple[float, ...]
    tokens: int
    targets: int
    train_s: float
    tokens_per_s: float
    clipped_share: float
    rollbacks: int
    validations: tuple[Validation, ...]
    best: Validation | None
    precision: str
    compiled: bool
