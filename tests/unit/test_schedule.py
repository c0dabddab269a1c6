"""Learning-rate schedules against values worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from settings import TrainSettings
from training.plan import Mix, Plan
from training.schedule import lr_share


def plan(schedule: str, *, steps: int = 11, warmup: int = 2, decay: int = 4, final: float = 0.0) -> Plan:
    return Plan(steps=steps, lr=1.0, muon_lr=1.0, schedule=schedule, warmup_steps=warmup, decay_steps=decay, final_lr_share=final, seed=0)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_then_decay"])
def test_lr_share_during_warmup_rises_in_equal_parts(schedule: str) -> None:
    shares = [lr_share(step, plan=plan(schedule)) for step in (1, 2, 3)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])


@pytest.mark.parametrize(("optimizer", "lr", "found"), [("muon", None, 0.01), ("adamw", None, 0.002), ("muon_sophia", None, 0.003), ("muon", 5e-3, 5e-3)])
def test_plan_takes_the_rate_that_is_set_or_the_one_that_suits_the_optimizer(optimizer: str, lr: float | None, found: float) -> None:
    made = Plan.from_settings(TrainSettings.model_validate({"optimizer": optimizer, "lr": lr}), steps=10, seed=0, lr_share=0.5)
    assert (made.lr, made.muon_lr) == pytest.approx((found * 0.5, 0.01))


def test_lr_share_linear_falls_evenly_to_the_final_share() -> None:
    shares = [lr_share(step, plan=plan("linear", final=0.2)) for step in (4, 7, 11)]
    assert shares == pytest.approx([0.2 + 0.8 * 7 / 8, 0.2 + 0.8 * 4 / 8, 0.2])


def test_lr_share_cosine_follows_half_a_wave() -> None:
    shares = [lr_share(step, plan=plan("cosine")) for step in (5, 7, 11)]
    assert shares == pytest.approx([0.5 + math.sqrt(0.5) / 2, 0.5, 0.0], abs=1e-12)


def test_lr_share_constant_then_decay_holds_the_peak_until_the_decay() -> None:
    shares = [lr_share(step, plan=plan("constant_then_decay")) for step in range(3, 12)]
    assert shares == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])


@pytest.mark.parametrize("step", [0, 12])
def test_lr_share_outside_the_plan_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=rf"step {step} isn't in 1 \.\. 11"):
        lr_share(step, plan=plan("linear"))


def test_lr_share_of_an_unknown_schedule_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no schedule named 'step'; allowed: linear, cosine, constant_then_decay"):
        lr_share(5, plan=plan("step"))


def test_plan_from_settings_turns_shares_into_steps_and_scales_the_rates() -> None:
    settings = TrainSettings(lr=0.004, muon_lr=0.02, warmup_share=0.1, decay_share=0.5)
    made = Plan.from_settings(settings, steps=200, seed=7, lr_share=0.5)
    assert (made.steps, made.lr, made.muon_lr, made.warmup_steps, made.decay_steps, made.seed) == (200, 0.002, 0.01, 20, 100, 7)


def test_plan_of_one_step_runs_at_the_peak() -> None:
    made = Plan.from_settings(TrainSettings(warmup_share=0.9, decay_share=1.0), steps=1, seed=0)
    assert lr_share(1, plan=made) == 1.0


def test_plan_of_a_time_has_the_steps_that_fill_it_at_the_speed_so_far() -> None:
    made = Plan.from_settings(TrainSettings(warmup_share=0.1, decay_share=0.5), steps=200, seed=0, seconds=100.0)
    assert made.at_speed(step=0, train_s=0.0) == made
    faster = made.at_speed(step=40, train_s=10.0)
    assert (faster.steps, faster.warmup_steps, faster.decay_steps, faster.seconds) == (400, 40, 200, 100.0)
    assert made.at_speed(step=40, train_s=200.0).steps == 40  # never fewer than are made already


def test_plan_with_least_steps_goes_on_for_them_until_its_most_seconds() -> None:
    """100 s of a plan that needs 150 steps: at 2 a second they are made in time, at 1.25 it takes 120 s, at 1 its most, 140 s, hold 140."""
    made = replace(Plan.from_settings(TrainSettings(), steps=200, seed=0, seconds=100.0), least_steps=150, most_seconds=140.0)
    assert [made.at_speed(step=40, train_s=train_s).steps for train_s in (20.0, 32.0, 40.0)] == [200, 150, 140]


def test_plan_of_steps_keeps_them_at_any_speed() -> None:
    made = Plan.from_settings(TrainSettings(), steps=200, seed=0)
    assert made.at_speed(step=40, train_s=1e6) == made


def test_plan_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one step, got 0"):
        Plan.from_settings(TrainSettings(), steps=0, seed=0)


@pytest.mark.parametrize("shares", [{}, {"math": 0.0}, {"math": -1.0}, {"math": float("nan")}])
def test_mix_with_a_bad_share_is_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="mix shares must name at least one domain and be positive"):
        Mix(shares)
