"""training/agenda.py: budgets of the founding cycle, and which node a later cycle takes."""

import json

import pytest

from experts.tree import Tree
from settings import LoopSettings, load
from training.agenda import Agenda, Job, Standing, founding, gain, most_to_gain, newcomers

TREE = Tree.from_settings(load().tree)


def test_founding_splits_the_minutes_by_shares_parents_first():
    """10 minutes at 0.5 s a step are 1,200 steps: 40 % root, 10 % over two branches, 50 % over five experts."""
    jobs = founding(TREE, settings=LoopSettings(minutes=10, root_share=0.4, branch_share=0.1, leaf_lr_share=0.5), step_s=0.5)
    assert [(job.node, job.steps, job.lr_share) for job in jobs] == [
        ("generalist", 480, 1.0), ("analytical", 60, 0.5), ("language", 60, 0.5),
        ("math", 120, 0.5), ("reasoning", 120, 0.5), ("conversation", 120, 0.5), ("knowledge", 120, 0.5), ("code", 120, 0.5)]


def test_founding_given_steps_leaves_the_clock_out():
    jobs = founding(TREE, settings=LoopSettings(steps=100, root_share=0.5, branch_share=0.0), step_s=123.0)
    assert [(job.node, job.steps) for job in jobs] == [("generalist", 50), *((name, 10) for name in TREE.domains)]


def test_newcomers_share_one_cycle():
    jobs = newcomers(TREE, [name for name in TREE.trainable if name not in {"math", "code"}], settings=LoopSettings(cycle_steps=100), step_s=1.0)
    assert [(job.node, job.steps) for job in jobs] == [("math", 50), ("code", 50)]


@pytest.mark.parametrize(("standings", "chosen"), [
    ([Standing("math", 0.9, 1.0, 0, 0), Standing("code", 0.3, 1.0, 0, 0)], "code"),
    ([Standing("math", 0.9, 1.0, 0, 0), Standing("code", 0.3, 1.0, 3, 0)], "math"),
    ([Standing("math", 0.5, 1.0, 0, 9), Standing("code", 0.4, 1.0, 0, 0)], "math"),
    ([Standing("math", None, 0.8, 0, 0), Standing("code", None, 1.6, 0, 0)], "code"),
])
def test_most_to_gain_weighs_room_refusals_and_waiting(standings, chosen):
    assert most_to_gain(standings, settings=LoopSettings(cycle_steps=10), step_s=1.0, cycle=4).node == chosen


def test_gain_by_hand():
    assert gain(Standing("math", 0.6, 1.0, refusals=1, cycles_since=5)) == pytest.approx(0.4 * 0.5 * 1.5)


def test_agenda_on_disk_and_back_with_a_closed_job():
    agenda = Agenda(cycle=3, jobs=(Job("math", 5, 3, 0.5), Job("code", 5, 3, 0.5)), step_s=0.1)
    done = agenda.with_done(Job("math", 5, 3, 0.5, "promoted", "why"))
    assert done.pending == Job("code", 5, 3, 0.5)
    assert Agenda.from_json(json.loads(json.dumps(done.to_json()))) == done
