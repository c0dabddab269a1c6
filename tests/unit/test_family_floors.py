"""The family's examination as figures: means, faults against the floors, scorecards of several domains as one."""

from dataclasses import replace

import pytest
from rich.text import Text

from settings import ExamSettings
from training.report import FamilyReport, NodeReport, faults, pooled, to_json, to_tables
from training.scorecard import Outcome, Scorecard

FLOORS = ExamSettings(accuracy_floor=0.5, loop_rate_ceiling=0.25, router_floor=0.8)


def card(domain, *scores, looped=0, bits=1.0):
    outcomes = tuple(Outcome(f"{domain}{number}", domain, "task", 1, score, number < looped) for number, score in enumerate(scores))
    return Scorecard(f"exam-{domain}", outcomes, {domain: bits}, {domain: 1.0}, 0.5, mean_words={domain: float(len(scores))})


def family(*, math=(1.0, 1.0, 0.0, 1.0), code=(1.0, 0.0), looped=0, router=0.9, nodes=("generalist", "math", "code"), fault=None):
    """The generalist is right once in four in both domains, and answers where an expert has no version."""
    cards = {"math": card("math", *math, looped=looped), "code": card("code", *code)}
    own = {"generalist": pooled(list(cards.values())), **cards}
    reports = {name: NodeReport("v000001", own[name], 10) for name in nodes}
    matrix = dict.fromkeys(nodes, cards) | {"generalist": {domain: card(domain, 1.0, 0.0, 0.0, 0.0) for domain in cards}}
    answering = {domain: name for domain in cards for name in ("generalist", domain) if name in nodes}
    return FamilyReport(reports, {name: matrix[name] for name in nodes}, {"accuracy": router} if router is not None else {}, experts=("math", "code"),
                        answering=answering, router_fault=fault)


def test_pooled_scorecard_weighs_domains_alike_and_answers_each_once():
    both = pooled([card("math", 1.0, 1.0, 0.0, 1.0, looped=1, bits=1.0), card("code", 0.0, 0.5, bits=3.0)])
    assert (both.accuracy, both.mean_bits_per_byte, both.loop_rate) == (pytest.approx((0.75 + 0.25) / 2), 2.0, pytest.approx(1 / 6))
    assert both.mean_words == {"math": 4.0, "code": 2.0}
    assert (both.exam, both.domains, len(both.outcomes)) == ("exam-math+exam-code", ("math", "code"), 6)


def test_mean_accuracy_is_that_of_what_answers_in_the_domains_of_the_experts():
    assert family().mean_accuracy == pytest.approx((0.75 + 0.5) / 2)
    assert to_json(family())["mean_accuracy"] == pytest.approx(0.625)
    assert to_json(family())["experts_counted"] == 2
    figures = to_json(family(nodes=("generalist", "math")))
    assert (figures["mean_accuracy"], figures["experts_counted"]) == (pytest.approx((0.75 + 0.25) / 2), 2)
    assert (figures["answering"], set(figures["nodes"])) == ({"math": "math", "code": "generalist"}, {"generalist", "math"})
    figures = to_json(family(nodes=("math",)))
    assert (figures["mean_accuracy"], figures["experts_counted"], figures["answering"]) == (0.75, 1, {"math": "math"})
    assert to_json(family(math=(None,), code=(None,)))["experts_counted"] == 0
    assert family(math=(None,), code=(None,)).mean_accuracy is None


@pytest.mark.parametrize(("changed", "words"), [
    ({}, ["mean accuracy of the experts 62.5%"]),
    ({"nodes": ("generalist", "math")}, ["mean accuracy of the experts and what answers in their place 50.0%"]),
    ({"nodes": ("math",)}, ["mean accuracy of the experts 75.0%, of 1 of 2 alone (code: nothing answers)"]),
    ({"math": (None,)}, ["mean accuracy of the experts 50.0%, of 1 of 2 alone (math: nothing graded)"]), ({"math": (None,), "code": (None,)}, [])])
def test_mean_accuracy_is_printed_with_the_experts_that_it_leaves_out(changed, words):
    report = replace(family(**changed), router={})
    assert [text.plain for text in to_tables(report) if isinstance(text, Text) and "mean" in text.plain] == words


def test_family_at_its_floors_has_no_fault():
    assert faults(family(looped=1, router=0.8), exam=FLOORS) == []  # 0.5, 0.25 and 0.8 are allowed


@pytest.mark.parametrize(("changed", "words"), [
    ({"code": (1.0, 0.0, 0.0)}, "code: accuracy 33.3% under exam.accuracy_floor = 50.0%"),
    ({"looped": 2}, "math: loop rate 50.0% over exam.loop_rate_ceiling = 25.0%"),
    ({"router": 0.79}, "router: accuracy 79.0% under exam.router_floor = 80.0%"),
    ({"router": None}, "router: none is promoted"),
    ({"router": None, "fault": "v000001 can't be used: it was fitted for another tree"}, "router: v000001 can't be used: it was fitted for another tree"),
    ({"nodes": ("generalist", "math")}, "code, answered by generalist: accuracy 25.0% under exam.accuracy_floor = 50.0%"),
    ({"nodes": ("math",)}, "code: nothing answers")])
def test_family_below_a_floor_names_it_with_the_figures(changed, words):
    assert faults(family(**changed), exam=FLOORS) == [words]


def test_expert_without_a_version_is_a_note_where_its_branch_or_root_answers():
    report = family(nodes=("generalist", "math"))
    assert faults(report, exam=FLOORS.model_copy(update={"accuracy_floor": 0.25})) == []
    notes = [text.plain for text in to_tables(replace(report, router={})) if isinstance(text, Text)]
    assert notes[0] == "code: no version is promoted; answered by generalist"


def test_router_that_cannot_be_used_stands_in_the_json():
    assert to_json(family(router=None, fault="v000001 can't be used"))["router_fault"] == "v000001 can't be used"
    assert to_json(family())["router_fault"] is None


def test_expert_that_nobody_grades_is_no_fault():
    assert faults(family(code=(None, None)), exam=FLOORS) == []
