"""Constructed router states: each metric worked by hand, the verdict that belongs to it, and how long it has lasted."""

import math

import pytest

from experts.moe.health import LayerTally, Reading, has_collapsed, log_fields, metrics_of
from experts.moe.verdicts import RULES, busy_limits, judge, overall, top1_limits
from settings import HOME

TOKENS = 800.0


def layer(demand, *, served=None, top1=0.5, entropy=1.0, balance=1.0):
    return LayerTally(tuple(map(float, demand)), tuple(map(float, served or demand)), sum(demand), top1 * sum(demand), entropy * sum(demand), balance, 1.0)


# Each: layers of 8 experts and 800 tokens, what is to be said of them late in a training.
UNIFORM = [layer([100] * 8, top1=0.125, entropy=math.log(8))] * 2
HEALTHY = [layer([110, 90, 105, 95, 100, 100, 120, 80], top1=0.45, entropy=0.9, balance=1.02)] * 2
PEAKY = [layer([110, 90, 105, 95, 100, 100, 120, 80], top1=0.93, entropy=0.15, balance=1.02)] * 2
COLLAPSED = [layer([100] * 8, top1=0.45, entropy=0.9), layer([736, 64, 0, 0, 0, 0, 0, 0], top1=0.95, entropy=0.2, balance=6.9)]
ONE_DEAD = [layer([0, 115, 115, 114, 114, 114, 114, 114], top1=0.45, entropy=0.9, balance=1.14)] * 2
TIGHT = [layer([240, 80, 80, 80, 80, 80, 80, 80], served=[100, 80, 80, 80, 80, 80, 80, 80], top1=0.45, entropy=0.9, balance=1.2)] * 2


def readings(layers, *, count=5, every=10, exploring=False, weight=0.1, clipped=0):
    metrics = metrics_of(layers, top_k=1, balance_weight=weight) | {"grad/clipped_cum": float(clipped)}
    return [Reading(step=every * (number + 1), experts=len(layers[0].demand), top_k=1, layers=len(layers), exploring=exploring, metrics=metrics)
            for number in range(count)]


def verdicts(layers, **more):
    return {finding.name: finding.verdict for finding in judge(readings(layers, **more), sustained=3)}


def test_metrics_of_a_uniform_router_are_the_even_shares():
    found = metrics_of(UNIFORM, top_k=1, balance_weight=0.12)
    assert found["router/top1_p_mean"] == pytest.approx(1 / 8)
    assert found["router/max_frac_mean"] == found["router/max_frac_max"] == found["router/frac_dem_max"] == found["router/frac_srv_max"] == 1 / 8
    assert found["router/entropy_mean"] == pytest.approx(math.log(8))
    assert found["router/aux_mean"] == pytest.approx(0.12)
    assert found["router/active_min"] == 8
    assert found["router/drop_frac_mean"] == found["router/collapsed"] == 0


def test_metrics_have_exactly_the_names_of_the_table_over_all_and_for_each_layer():
    names = {"top1_p_mean", "max_frac_mean", "max_frac_max", "frac_dem_max", "frac_srv_max", "entropy_mean", "aux_mean", "balance_mean", "active_min",
             "drop_frac_mean", "collapsed", *(f"frac_{kind}_e{expert}" for kind in ("dem", "srv") for expert in range(8))}
    assert set(metrics_of(UNIFORM, top_k=1, balance_weight=0.1)) == {f"router/{where}{name}" for where in ("", "layer0/", "layer1/") for name in names}


def test_metrics_of_a_collapsed_layer_by_hand():
    found = metrics_of(COLLAPSED, top_k=1, balance_weight=0.1)
    assert found["router/max_frac_max"] == pytest.approx(0.92)
    assert found["router/max_frac_mean"] == pytest.approx((0.125 + 0.92) / 2)
    assert found["router/frac_dem_max"] == found["router/frac_dem_e0"] == pytest.approx((0.125 + 0.92) / 2)
    assert found["router/frac_dem_e1"] == pytest.approx((0.125 + 0.08) / 2)
    assert found["router/top1_p_mean"] == pytest.approx(0.7)
    assert found["router/entropy_mean"] == pytest.approx(0.55)
    assert found["router/aux_mean"] == pytest.approx(0.1 * 3.95)
    assert (found["router/active_min"], found["router/collapsed"]) == (2, 1)
    assert (found["router/layer0/collapsed"], found["router/layer1/collapsed"]) == (0, 1)


def test_metrics_of_tight_capacity_show_demand_service_and_drops():
    found = metrics_of(TIGHT, top_k=1, balance_weight=0.1)
    assert found["router/frac_dem_max"] == pytest.approx(0.3)
    assert found["router/frac_srv_max"] == found["router/frac_srv_e0"] == pytest.approx(0.125)
    assert found["router/drop_frac_mean"] == pytest.approx(0.175)


@pytest.mark.parametrize(("max_frac", "active", "top_k", "wanted"), [(0.90, 8, 1, True), (0.899, 8, 1, False), (0.5, 1, 1, True), (0.45, 8, 2, True),
                                                                     (0.44, 2, 2, True), (0.44, 3, 2, False)])
def test_collapse_is_nine_tenths_on_one_expert_or_no_more_experts_than_choices(max_frac, active, top_k, wanted):
    assert has_collapsed(max_frac=max_frac, active=active, top_k=top_k) is wanted


def test_limits_are_those_of_the_table_for_eight_experts_and_scale():
    assert busy_limits(8) == pytest.approx((0.25, 0.35, 0.5))
    assert busy_limits(64) == pytest.approx((2 / 64, 2.8 / 64, 4 / 64))
    assert busy_limits(4) == pytest.approx((0.5, 0.7, 0.85))
    assert busy_limits(2) == pytest.approx((0.75, 0.85, 0.9))
    assert top1_limits(8) == pytest.approx((0.15, 0.1875, 0.6, 0.8))


def test_a_healthy_router_is_healthy_in_every_metric():
    assert set(verdicts(HEALTHY).values()) == {"healthy"}


def test_a_uniform_router_is_healthy_while_it_explores_and_too_flat_afterwards():
    assert set(verdicts(UNIFORM, exploring=True).values()) == {"healthy"}
    late = verdicts(UNIFORM)
    assert late.pop("router/top1_p_mean") == late.pop("router/entropy_mean") == "alarm"
    bad = {name for name, verdict in late.items() if verdict != "healthy"}
    assert bad == {f"router/layer{number}/{name}" for number in (0, 1) for name in ("top1_p_mean", "entropy_mean")}


def test_a_peaky_router_is_an_alarm_by_probability_and_entropy_early_and_late():
    for exploring in (True, False):
        found = verdicts(PEAKY, exploring=exploring)
        assert found["router/top1_p_mean"] == found["router/entropy_mean"] == "alarm"
        assert found["router/max_frac_max"] == "healthy"


def test_a_collapsed_layer_is_an_alarm_at_once():
    found = verdicts(COLLAPSED, count=1)
    assert found["router/collapsed"] == found["router/max_frac_max"] == "alarm"
    assert found["router/layer0/collapsed"] == "healthy"
    assert found["router/layer1/collapsed"] == "alarm"


def test_one_dead_expert_is_seen_by_its_share():
    found = verdicts(ONE_DEAD)
    assert found["router/active_min"] == "healthy"  # E - 1, as the table has it
    assert found["router/frac_dem_e0"] == found["router/frac_srv_e0"] == "alarm"
    assert found["router/frac_dem_e1"] == "healthy"


def test_tight_capacity_is_an_alarm_of_service_and_drops_whose_lever_is_the_factor():
    found = {finding.name: finding for finding in judge(readings(TIGHT), sustained=3)}
    for name in ("router/drop_frac_mean", "router/frac_srv_max"):
        assert (found[name].verdict, found[name].lever) == ("alarm", "raise moe.capacity_factor")
    assert found["router/max_frac_max"].verdict == "watch"


def test_a_limit_passed_once_is_watched_and_three_times_in_a_row_an_alarm():
    assert verdicts(TIGHT, count=1)["router/drop_frac_mean"] == "watch"
    assert verdicts(TIGHT, count=2)["router/drop_frac_mean"] == "watch"
    assert verdicts(TIGHT, count=3)["router/drop_frac_mean"] == "alarm"


def test_a_finding_says_since_when_its_verdict_holds():
    calm, bad = readings(HEALTHY, count=4), readings(TIGHT, count=8)[4:]
    found = {finding.name: finding for finding in judge([*calm, *bad], sustained=3)}
    dropped = found["router/drop_frac_mean"]  # steps 50 and 60 are watched, 70 and 80 an alarm
    assert (dropped.verdict, dropped.since_step, dropped.steps) == ("alarm", 70, 10)
    assert (found["router/active_min"].since_step, found["router/active_min"].steps) == (10, 70)


@pytest.mark.parametrize(("clipped", "wanted"), [(40, "healthy"), (80, "watch"), (150, "alarm")])
def test_clipped_steps_are_judged_by_their_share(clipped, wanted):
    assert verdicts(HEALTHY, every=200, count=5, clipped=clipped)["grad/clipped_cum"] == wanted


def test_a_balance_loss_that_grows_with_the_busiest_share_is_an_alarm():
    growing = []
    for number in range(12):
        busiest = 110 + 7 * number
        layers = [layer([busiest, *[(800 - busiest) / 7] * 7], top1=0.45, entropy=0.9, balance=1.0 + 0.02 * number)]
        growing.append(readings(layers, count=number + 1)[-1])
    found = {finding.name: finding.verdict for finding in judge(growing, sustained=3)}
    assert found["router/aux_mean"] == "alarm"
    assert {finding.name: finding.verdict for finding in judge(readings(HEALTHY, count=12), sustained=3)}["router/aux_mean"] == "healthy"


def test_overall_is_the_worst_verdict_and_the_log_line_has_its_three_fields():
    assert overall(judge(readings(HEALTHY), sustained=3)) == "healthy"
    assert overall(judge(readings(COLLAPSED), sustained=3)) == "alarm"
    assert log_fields(metrics_of(COLLAPSED, top_k=1, balance_weight=0.1)) == "r_max 0.92 act_min 2 col 1"


def test_documentation_names_every_metric_that_is_judged():
    text = (HOME / "docs" / "moe.md").read_text(encoding="utf-8")
    assert [name for name in RULES if f"`{name}`" not in text] == []
    assert "`router/frac_dem_e*`" in text
    assert "`router/frac_srv_e*`" in text
