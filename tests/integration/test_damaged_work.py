"""Files below work/ that a disk tore or zeroed: the loop goes on without what they held, at toy size over real parts."""

import json
from pathlib import Path

import pytest

from experts.device import choose
from training import examiner as examiner_module
from training.loop import Loop
from training.progress import Reporter
from training.promote import decide
from training.run_folder import open_run

# The root's exam asks 10 tasks, so that it sits the expert's, too.
SMALL = ("loop.root_share=0.5", "loop.root_reads=0", "loop.branch_share=0", 'tree.branches={technical=["code"]}', "exam.tasks=12")
TORN = ("{", "{}", "[]", "\0\0\0")


def turn(chosen, *, should_stop=lambda: False):
    """One cycle of a loop over a root and one expert; the registry and the journal's events afterwards."""
    with open_run(chosen) as run:
        Loop(run, device=choose("cpu"), fit_router=None, reporter=Reporter(quiet=True), should_stop=should_stop).run(cycles=1)
        return run.registry, run.journal.events()


def stopped_while_the_expert_trains(chosen):
    """A run folder with an agenda and states of the expert's training, stopped after a few of its steps."""
    with open_run(chosen) as run:
        states, left = run.folder / "work" / "code" / "cycle00000", [3]

        def should_stop():
            left[0] -= (states / "start.json").exists()
            return left[0] < 0

        Loop(run, device=choose("cpu"), fit_router=None, reporter=Reporter(quiet=True), should_stop=should_stop).run(cycles=1)
        assert any(path.is_dir() for path in states.iterdir())
        return run.folder / "work", states


@pytest.mark.parametrize("torn", TORN)
def test_loop_with_a_damaged_agenda_sets_it_aside_and_opens_a_new_one(toy_settings, capsys, torn):
    chosen = toy_settings(*SMALL)
    work, _ = stopped_while_the_expert_trains(chosen)
    (work / "agenda.json").write_text(torn, encoding="utf-8")
    capsys.readouterr()
    registry, events = turn(chosen)
    assert [event.facts["cycle"] for event in events if event.kind == "cycle_ended"] == [0]
    assert "agenda.json is damaged" in capsys.readouterr().out
    assert (work / "agenda.json.damaged-1").read_text(encoding="utf-8") == torn
    assert not (work / "agenda.json").exists()
    assert registry.pointer().nodes["generalist"] == "v000001"
    # its newcomer has a share of the budget of its own: what was left of the training isn't of that plan
    assert [event.facts["resumed"] for event in events if event.kind == "training_started"] == [False, False, False]


@pytest.mark.parametrize("torn", [*TORN, '{"version": null}'])
def test_loop_whose_note_of_what_a_training_began_with_is_damaged_ends_the_training_without_it(toy_settings, torn):
    chosen = toy_settings(*SMALL)
    _, states = stopped_while_the_expert_trains(chosen)
    (states / "start.json").write_text(torn, encoding="utf-8")
    _, events = turn(chosen)
    assert [event.facts["resumed"] for event in events if event.kind == "training_started"] == [False, False, True]
    offer = next(event for event in events if event.kind in {"promoted", "refused"} and event.node == "code")
    assert offer.facts["training"]["begun_with"] is None
    assert [event.facts["cycle"] for event in events if event.kind == "cycle_ended"] == [0]


@pytest.mark.parametrize("torn", TORN)
def test_loop_whose_kept_exam_results_are_damaged_has_them_sat_again(toy_settings, monkeypatch, torn):
    def dies(candidate, served, **facts):
        if served is not None:
            raise KeyboardInterrupt
        return decide(candidate, served, **facts)

    chosen = toy_settings(*SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(examiner_module, "decide", dies)
        with pytest.raises(KeyboardInterrupt):
            turn(chosen)
    file, = (Path(chosen.run.dir) / "work" / "exams").glob("generalist-v000001-*.json")
    whole = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(torn, encoding="utf-8")
    _, events = turn(chosen)
    assert [event.facts["cycle"] for event in events if event.kind == "cycle_ended"] == [0]
    again = json.loads(file.read_text(encoding="utf-8"))
    assert {key: value for key, value in again.items() if key != "seconds_per_answer"} == {
        key: value for key, value in whole.items() if key != "seconds_per_answer"}
