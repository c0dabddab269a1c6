"""training/agenda.py: budgets of the founding cycle, and which node a later cycle takes."""

import json
from dataclasses import replace

import pytest

from experts.tree import Tree
from settings import LoopSettings, load
from training.agenda import Agenda, Job, RootPart, Standing, founding, gain, mix_of, most_to_gain, newcomers, root_part

TREE = Tree.from_settings(load().tree)


def test_founding_splits_the_minutes_by_shares_parents_first():
    """10 minutes: 40 % root, 10 % over two branches, 50 % over five experts."""
    jobs = founding(TREE, settings=LoopSettings(minutes=10, root_share=0.4, branch_share=0.1, leaf_lr_share=0.5))
    assert [(job.node, job.lr_share) for job in jobs] == [("generalist", 1.0), *((name, 0.5) for name in TREE.trainable[1:])]
    assert [job.seconds for job in jobs] == pytest.approx([240, 30, 30, 60, 60, 60, 60, 60])
    assert all(job.steps is None for job in jobs)


def test_job_seconds_become_steps_once():
    job = Job("math", 1.0, seconds=60).with_speed(0.5)
    assert job.steps == 120
    assert job.with_speed(0.1).steps == 120
    assert Job("math", 1.0, seconds=1).with_speed(50.0).steps == 1


def test_founding_given_steps_leaves_the_clock_out():
    jobs = founding(TREE, settings=LoopSettings(steps=100, root_share=0.5, branch_share=0.0))
    assert [(job.node, job.steps) for job in jobs] == [("generalist", 50), *((name, 10) for name in TREE.domains)]


@pytest.mark.parametrize(("root", "branch", "nodes"), [(0.18, 0.82, ("generalist", "analytical", "language")), (1.0, 0.0, ("generalist",))])
def test_founding_that_leaves_nothing_for_the_experts_has_no_jobs_for_them(root, branch, nodes):
    """In floating point 1 - 0.18 - 0.82 is a little more than 0."""
    jobs = founding(TREE, settings=LoopSettings(steps=100, root_share=root, branch_share=branch))
    assert tuple(job.node for job in jobs) == nodes
    assert sum(job.steps for job in jobs) == 100


@pytest.mark.parametrize(("steps", "of_records", "share"), [
    (100, 0.0, 0.75), (1200, 0.0, 0.75), (1500, 0.0, 0.6), (2250, 0.0, 0.4), (90_000, 0.0, 0.4),
    (100, 1.0, 0.95), (1000, 1.0, 0.9), (1500, 1.0, 0.6), (2250, 1.0, 0.4),
    (100, 0.2, 0.79), (1200, 0.2, 0.75),
])
def test_root_part_is_what_it_needs_of_the_cycle_within_the_bounds(steps, of_records, share):
    """900 steps are 90 % of 1,000, 75 % of 1,200, 60 % of 1,500, 40 % of 2,250; with one domain of records in five the most is 0.75 + 0.2 / 5."""
    found = root_part(LoopSettings(root_share=0.4, root_share_most=0.75, root_share_records=0.95), needed=900, steps=steps, of_records=of_records)
    assert (found.share, found.steps, found.most) == (pytest.approx(share), 900, pytest.approx(0.75 + 0.2 * of_records))


@pytest.mark.parametrize("of_records", [0.0, 0.5, 1.0])
def test_root_share_that_is_set_higher_than_the_most_stays(of_records):
    found = root_part(LoopSettings(root_share=0.95, branch_share=0.0), needed=1000, steps=1000, of_records=of_records)
    assert (found.share, found.most) == (0.95, 0.95)


def shared_out(share: float | None, *jobs: Job, root_final_lr_share: float = 0.2, most: float = 0.45, **given: float) -> Agenda:
    settings = LoopSettings(root_share=0.4, root_share_most=most, branch_share=0.12, root_final_lr_share=root_final_lr_share, leaf_lr_share=0.2, **given)
    part = None if share is None else RootPart(share, steps=900, most=max(share, most))
    return Agenda(cycle=0, jobs=jobs or founding(TREE, settings=settings)).with_root_part(part, tree=TREE, settings=settings)


@pytest.mark.parametrize("given", [{"steps": 1000}, {"minutes": 1000 / 60}])
def test_agenda_with_a_larger_root_takes_from_the_others_alike(given):
    """Of 1,000 the root gets 700 in place of 400; 600 of the others become 300: branches 60 -> 30, experts 96 -> 48."""
    agenda = shared_out(0.7, **given)
    assert agenda.shared_out
    assert [job.steps or job.seconds for job in agenda.jobs] == pytest.approx([700, 30, 30, 48, 48, 48, 48, 48])


@pytest.mark.parametrize(("share", "final", "peak"), [(0.5, 0.2, 0.2), (0.7, 78 / 778, 0.2), (0.95, 13 / 963, 52 / 963), (0.97, 8 / 977, 0.05)])
def test_agenda_with_a_larger_root_lets_its_rate_fall_on_the_line_to_the_end_of_the_way(share, final, peak):
    """Of 1,000 steps at 0.5 the way goes on with a branch's 50 and an expert's 80: 130 of 630 are over 0.2. At 0.7 it is 30 and 48 after 700, at 0.95
    5 and 8 after 950, at 0.97 3 and 5 after 969: four times 8 of 977 are under a quarter of the experts' 0.2, which they keep."""
    root, *others = shared_out(share, steps=1000).jobs
    assert root.lr_share == 1.0
    assert root.final_lr_share == pytest.approx(final)
    assert [job.lr_share for job in others] == pytest.approx([peak] * 7)
    assert {job.final_lr_share for job in others} == {None}


def test_agenda_with_a_root_of_no_more_than_the_curriculums_most_keeps_the_rates():
    root, *others = shared_out(0.75, most=0.75, steps=1000).jobs
    assert (root.steps, root.final_lr_share) == (750, None)
    assert [(job.lr_share, job.final_lr_share) for job in others] == [(0.2, None)] * 7


def test_agenda_of_a_root_that_ends_at_zero_leaves_the_others_a_rate():
    root, *others = shared_out(0.7, root_final_lr_share=0.0, steps=1000).jobs
    assert root.final_lr_share == 0.0
    assert [job.lr_share for job in others] == pytest.approx([0.2] * 7)


def test_agenda_of_few_steps_keeps_their_number():
    """At 0.9 of 100 every other node's part rounds to one step: the root has what is left."""
    before = founding(TREE, settings=LoopSettings(root_share=0.4, branch_share=0.12, steps=100))
    after = shared_out(0.9, *before).jobs
    assert [job.steps for job in after[1:]] == [1, 1, 2, 2, 2, 2, 2]
    assert sum(job.steps for job in after) == sum(job.steps for job in before)


def test_agenda_of_seconds_lets_a_slow_root_go_on_for_its_steps_and_up_to_its_most():
    """Of 1,000 s the root has 400, and may take 450 until it has made its 900 steps; one of steps makes what it was given."""
    root, *others = shared_out(0.4, minutes=1000 / 60).jobs
    assert (root.seconds, root.least_steps, root.most_seconds) == pytest.approx((400, 900, 450))
    assert {(job.least_steps, job.most_seconds) for job in others} == {(None, None)}
    assert [job.seconds for job in others] == pytest.approx([60, 60, 96, 96, 96, 96, 96])
    assert {job.least_steps for job in shared_out(0.7, steps=1000).jobs} == {None}


def test_agenda_takes_what_a_slow_root_took_over_from_the_others_alike():
    """400 s became 550: the others' 600 become 450. One that was set aside, or in time, costs them nothing; nor do other jobs, which stay in time."""
    agenda = shared_out(0.4, minutes=1000 / 60, most=0.75)
    done = replace(agenda.jobs[0], status="promoted", steps=900)
    after = agenda.with_done(done, took_s=550.0)
    assert after.jobs[0] == done
    assert [job.seconds for job in after.jobs[1:]] == pytest.approx([45, 45, 72, 72, 72, 72, 72])
    for took_s in (None, 390.0, 400.4):
        assert agenda.with_done(done, took_s=took_s).jobs[1:] == agenda.jobs[1:]
    branch = replace(after.jobs[1], status="promoted", steps=9)
    assert after.with_done(branch, took_s=99.0).jobs[2:] == after.jobs[2:]


def test_agenda_whose_root_stays_is_shared_out_as_it_is():
    jobs = founding(TREE, settings=LoopSettings(minutes=240))
    assert shared_out(None, *jobs) == Agenda(cycle=0, jobs=jobs, shared_out=True)


def test_agenda_that_has_begun_is_not_shared_out_again():
    with pytest.raises(AssertionError, match="has begun"):
        shared_out(0.7, Job("generalist", 1.0, steps=90), Job("math", 0.2, seconds=30.0))


def test_agenda_of_an_earlier_version_goes_on_as_it_began():
    data = Agenda(cycle=0, jobs=(Job("generalist", 1.0, steps=5),)).to_json()
    for key in ("final_lr_share", "least_steps", "most_seconds"):
        del data["jobs"][0][key]
    del data["shared_out"]
    assert Agenda.from_json(data) == Agenda(cycle=0, jobs=(Job("generalist", 1.0, steps=5),), shared_out=True)


def test_newcomers_share_one_cycle():
    jobs = newcomers(TREE, [name for name in TREE.trainable if name not in {"math", "code"}], settings=LoopSettings(cycle_steps=100))
    assert [(job.node, job.steps) for job in jobs] == [("math", 50), ("code", 50)]


@pytest.mark.parametrize(("standings", "chosen"), [
    ([Standing("math", 0.9, 1.0, 0, 0), Standing("code", 0.3, 1.0, 0, 0)], "code"),
    ([Standing("math", 0.9, 1.0, 0, 0), Standing("code", 0.3, 1.0, 3, 0)], "math"),
    ([Standing("math", 0.5, 1.0, 0, 9), Standing("code", 0.4, 1.0, 0, 0)], "math"),
    ([Standing("generalist", 0.4, 1.0, 0, 0, inner=True), Standing("math", 0.6, 1.0, 0, 0)], "math"),
    ([Standing("math", None, 0.8, 0, 0), Standing("code", None, 1.6, 0, 0)], "code"),
])
def test_most_to_gain_weighs_room_refusals_and_waiting(standings, chosen):
    assert most_to_gain(standings, settings=LoopSettings(cycle_steps=10)).node == chosen


def test_gain_by_hand():
    assert gain(Standing("math", 0.6, 1.0, refusals=1, cycles_since=5)) == pytest.approx(0.415 * 0.5 * 1.5)
    assert gain(Standing("generalist", 0.6, 1.0, refusals=1, cycles_since=5, inner=True)) == pytest.approx(0.415 * 0.5 * 0.5 * 1.5)
    assert gain(Standing("math", None, 0.8, refusals=0, cycles_since=10)) == pytest.approx(0.4 * 2)


def test_gain_of_a_node_without_a_mistake_rises_with_waiting():
    assert gain(Standing("math", 1.0, 1.0, refusals=0, cycles_since=1000)) > gain(Standing("code", 0.9, 1.0, refusals=0, cycles_since=0))
    assert gain(Standing("math", 1.0, 1.0, refusals=0, cycles_since=7)) < gain(Standing("code", 0.999, 1.0, refusals=0, cycles_since=7))


def test_most_to_gain_halves_the_rate_after_each_refusal():
    assert most_to_gain([Standing("math", 0.5, 1.0, 2, 0)], settings=LoopSettings(cycle_steps=10, leaf_lr_share=0.4)) == Job("math", 0.1, steps=10)


def test_agenda_on_disk_and_back_with_a_finished_job():
    agenda = Agenda(cycle=3, jobs=(Job("math", 0.5, steps=5), Job("code", 0.5, seconds=5.0)))
    done = agenda.with_next(Job("math", 0.5, steps=5, status="promoted", outcome="why"))
    assert done.pending == Job("code", 0.5, seconds=5.0)
    assert Agenda.from_json(json.loads(json.dumps(done.to_json()))) == done


def test_mix_of_an_expert_is_its_domain_and_a_tenth_of_the_others_from_responses():
    found = mix_of(TREE, "math", settings=LoopSettings(replay_share=0.1), with_prompts=TREE.domains)
    assert found.shares == pytest.approx({"math": 0.9, "reasoning": 0.025, "conversation": 0.025, "knowledge": 0.025, "code": 0.025})
    assert found.prompts == frozenset()


def test_mix_of_an_expert_without_replay_leaves_the_others_out():
    assert mix_of(TREE, "math", settings=LoopSettings(replay_share=0)).shares == {"math": 1.0}
    assert mix_of(TREE, "analytical", settings=LoopSettings(replay_share=0)).shares == {"math": 0.5, "reasoning": 0.5}
    assert mix_of(TREE, "generalist", settings=LoopSettings(replay_share=0)).shares == pytest.approx(dict.fromkeys(TREE.domains, 0.2))


def test_mix_of_an_expert_with_the_most_replay_still_reads_its_own():
    found = mix_of(TREE, "math", settings=LoopSettings(replay_share=0.9))
    assert found.shares == pytest.approx({"math": 0.1, "reasoning": 0.225, "conversation": 0.225, "knowledge": 0.225, "code": 0.225})


def test_mix_of_the_root_is_all_domains_with_the_prompts_of_some():
    found = mix_of(TREE, "generalist", settings=LoopSettings(), with_prompts=("math", "code"))
    assert found.shares == pytest.approx(dict.fromkeys(TREE.domains, 0.2))
    assert found.prompts == {"math", "code"}
