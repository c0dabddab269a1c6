"""The loop over real parts at toy size: real records, tokenizer, trainer, exams, registry, router. Only sizes are small."""

import errno
import hashlib
import json
import sqlite3
from pathlib import Path

import psutil
import pytest
import torch
from fake_clock import FakeClock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

import settings
from continuous_loop import router_fitter
from data_prep.__main__ import main as look
from data_prep.corpus import DataError, open_corpus
from experts import durable
from experts.device import choose
from experts.expert import Expert
from experts.tree import Tree
from training import job as job_module
from training import loop as loop_module
from training.agenda import RootPart
from training.interpolation import settle
from training.job import JobRunner
from training.loop import Loop
from training.progress import Reporter
from training.run_folder import RunMismatch, open_run
from training.trainer import train


class Stop:
    """should_stop that says yes from the n-th question on."""

    def __init__(self, after):
        self.left = after

    def __call__(self):
        self.left -= 1
        return self.left < 0


def turn(chosen, *, cycles=1, should_stop=lambda: False, router=True):
    """Run cycles of a loop; the registry's pointer and the journal's events afterwards."""
    with open_run(chosen) as run:
        fit_router = router_fitter(run.tree, chosen, work=run.folder / "work", should_stop=should_stop) if router else None
        Loop(run, device=choose("cpu"), fit_router=fit_router, reporter=Reporter(quiet=True), should_stop=should_stop).run(cycles=cycles)
        return run.registry, run.journal.events()


def _weights(registry, node):
    return hashlib.sha256((registry.served(node) / "model.safetensors").read_bytes()).hexdigest()


def test_loop_first_cycle_trains_the_tree_parents_first_and_routes(toy_settings):
    registry, events = turn(toy_settings())
    started = [event.node for event in events if event.kind == "training_started"]
    assert started == ["generalist", "analytical", "language", "math", "reasoning", "conversation", "knowledge", "code"]
    offers = [event for event in events if event.kind in {"promoted", "refused"} and event.node != "router"]
    assert {event.node for event in offers} == set(started)
    assert all("bits per byte" in event.facts["reason"] for event in offers)
    assert set(registry.pointer().nodes) == {event.node for event in offers if event.kind == "promoted"}
    assert {"generalist", "math", "code"} <= set(registry.pointer().nodes)
    assert registry.pointer().router == "v000001"


def test_loop_promoted_version_is_a_stock_folder_with_equal_logits(toy_settings):
    registry, _ = turn(toy_settings(), router=False)
    folder = registry.served("generalist")
    stock, ours = AutoModelForCausalLM.from_pretrained(folder), Expert.load(folder, device=choose("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "What is 3 plus 21?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
    with torch.no_grad():
        assert torch.allclose(stock(ids).logits, ours.model(ids).logits, atol=1e-5)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["scorecard"]["outcomes"]
    assert card["training"]["tokens"] > 0


@pytest.mark.parametrize("asked", [1, 9, 24])
def test_loop_stopped_and_started_again_ends_with_the_same_weights(toy_settings, asked):
    whole, _ = turn(toy_settings(run="whole"), router=False)
    parts = toy_settings(run="parts")
    registry, events = turn(parts, should_stop=Stop(asked), router=False)
    assert not [event for event in events if event.kind == "cycle_ended"]
    registry, events = turn(parts, router=False)
    assert [event.facts["cycle"] for event in events if event.kind == "cycle_ended"] == [0]
    assert registry.pointer().nodes == whole.pointer().nodes
    assert {node: _weights(registry, node) for node in registry.pointer().nodes} == {node: _weights(whole, node) for node in whole.pointer().nodes}


def test_loop_stopped_while_its_router_is_fitted_fits_it_when_it_goes_on(toy_settings):
    chosen, asked = toy_settings('tree.branches={technical=["code"]}'), []

    def should_stop():
        asked.extend(child.pid for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline()))
        return bool(asked)

    registry, events = turn(chosen, should_stop=should_stop)
    assert asked
    assert registry.pointer().router is None
    assert not {event.kind for event in events} & {"training_started", "promoted", "refused", "cycle_ended"}
    registry, events = turn(chosen)
    assert registry.pointer().router == "v000001"
    assert [event.facts["cycle"] for event in events if event.kind == "cycle_ended"] == [0]


def test_loop_journal_says_which_training_goes_on_with_a_stopped_one(toy_settings):
    chosen = toy_settings('tree.branches={technical=["code"]}')
    turn(chosen, should_stop=Stop(9), router=False)
    _, events = turn(chosen, router=False)
    started = [(event.node, event.facts["resumed"]) for event in events if event.kind == "training_started"]
    assert started == [("generalist", False), ("generalist", True), ("code", False)]


def test_loop_whose_output_is_gone_keeps_what_was_trained(toy_settings, monkeypatch):
    def gone(self, samples):
        raise BrokenPipeError

    monkeypatch.setattr(Reporter, "samples", gone)
    chosen = toy_settings()
    with pytest.raises(BrokenPipeError):
        turn(chosen, router=False)
    with open_run(chosen) as run:
        assert run.registry.pointer().nodes == {"generalist": "v000001"}
        assert [event.node for event in run.journal.events(kind="promoted")] == ["generalist"]


def test_loop_stopped_goes_on_after_a_look_at_new_records(toy_settings, tmp_path, write_records):
    chosen = toy_settings("tree.branches={technical=[\"code\"]}", data=write_records(tmp_path / "more", domains=["code"]))
    turn(chosen, should_stop=Stop(9), router=False)
    write_records(tmp_path / "more", domains=["code"], count=160)
    (tmp_path / "look.toml").write_text(settings.to_toml(chosen), encoding="utf-8")
    for action in ("build", "report"):
        assert look([action, "--config", str(tmp_path / "look.toml")]) == 0
    _, events = turn(chosen, router=False)
    corpora = {event.facts["cycle"]: event.facts["corpus"] for event in events if event.kind == "training_started"}
    assert [event.facts["corpus"] for event in events if event.kind == "training_started"] == [corpora[0]] * 3  # the root twice, the expert
    assert [event.facts["cycle"] for event in events if event.kind == "cycle_ended"] == [0]


def test_loop_begins_with_the_files_as_they_are_after_a_first_look(toy_settings, tmp_path, write_records):
    chosen = toy_settings("tree.branches={technical=[\"code\"]}", data=write_records(tmp_path / "more", domains=["code"]))
    (tmp_path / "look.toml").write_text(settings.to_toml(chosen), encoding="utf-8")
    assert look(["report", "--config", str(tmp_path / "look.toml")]) == 0
    write_records(tmp_path / "more", domains=["code"], count=160)
    turn(chosen, router=False)
    assert open_corpus(chosen, Tree.from_settings(chosen.tree)).report.domains[0].intake.read == 160


def _repeat_the_exam(chosen, folder):
    """Training rows that repeat half of the exam."""
    exam = open_corpus(chosen, Tree.from_settings(chosen.tree)).examples("code", "exam")
    rows = [{"prompt": f"{row.prompt} Go {word} now.", "response": "ok"} for row in exam[::2] for word in ("on", "up", "in")]
    (folder / "law" / "copied.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _empty_the_folder(chosen, folder):
    (folder / "code" / "records.jsonl").unlink()


@pytest.mark.parametrize(("harm", "reason"), [(_repeat_the_exam, "the exam of 'code' is refused"), (_empty_the_folder, "domain 'code' has too little data")])
def test_loop_whose_data_is_refused_on_the_way_goes_on_with_what_it_has(toy_settings, tmp_path, write_records, monkeypatch, capsys, harm, reason):
    folder = write_records(tmp_path / "more", domains=["code"])
    chosen = toy_settings("tree.branches={technical=[\"code\", \"law\"]}", "data.curriculum=never", "data.near_duplicate=0.6", data=folder)
    write_records(folder, domains=["law"])
    end_cycle = Loop._end_cycle

    def end_and_harm(self):
        if self._agenda.cycle == 0:
            harm(chosen, folder)
        return end_cycle(self)

    monkeypatch.setattr(Loop, "_end_cycle", end_and_harm)
    _, events = turn(chosen, cycles=3, router=False)
    assert [event.facts["cycle"] for event in events if event.kind == "cycle_ended"] == [0, 1, 2]
    assert len({event.facts["corpus"] for event in events if event.kind == "training_started"}) == 1
    refusals = [event for event in events if event.kind == "data_refused"]
    assert [event.facts["cycle"] for event in refusals] == [1, 2]
    assert all(reason in event.facts["reason"] for event in refusals)
    assert f"cycle 1 goes on with the data of the cycle before, the files as they are now are refused: {reason}" in capsys.readouterr().out
    with pytest.raises(DataError, match=reason):  # whoever starts it is told, and can mend it
        turn(chosen, router=False)


def test_loop_killed_between_promotion_and_journal_writes_the_event_at_the_next_start(toy_settings):
    chosen = toy_settings()
    _, events = turn(chosen, router=False)
    lost = [event for event in events if event.kind == "promoted" and event.node == "math"]
    with sqlite3.connect(Path(chosen.run.dir) / "journal.db") as journal:
        journal.execute("DELETE FROM events WHERE kind = 'promoted' AND node = 'math'")
    _, events = turn(chosen, cycles=0, router=False)
    found = [event for event in events if event.kind == "promoted" and event.node == "math"]
    assert [dict(event.facts) for event in found] == [dict(event.facts) for event in lost]
    assert turn(chosen, cycles=0, router=False)[1] == events


def _killed_before_its_agenda_is_removed(chosen, monkeypatch):
    """A whole first cycle, dead between the journal's entry of its end and the removal of the agenda."""
    def die(self, agenda):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_close", die)
        with pytest.raises(KeyboardInterrupt):
            turn(chosen, router=False)


def test_loop_killed_while_a_cycle_ends_ends_it_once(toy_settings, monkeypatch):
    chosen = toy_settings('tree.branches={technical=["code"]}')
    _killed_before_its_agenda_is_removed(chosen, monkeypatch)
    _, events = turn(chosen, router=False)
    assert [event.facts["cycle"] for event in events if event.kind == "cycle_ended"] == [0, 1]


def test_loop_killed_after_it_raised_levels_raises_them_once(toy_settings, monkeypatch):
    chosen = toy_settings("data.curriculum=auto", "data.curriculum_records=150", "data.curriculum_level=1", "loop.level_pass=0", "loop.level_floor=0",
                          "model.context_tokens=256", "loop.steps=240", "tree.branches={technical=[\"code\"]}", data=None)
    honest = Loop._raise_levels

    def die(self, agenda):
        honest(self, agenda)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_raise_levels", die)
        with pytest.raises(KeyboardInterrupt):
            turn(chosen, router=False)
    _, events = turn(chosen, router=False)
    assert [(event.node, event.facts["level"]) for event in events if event.kind == "level_raised"] == [("code", 2)]


def test_loop_stopped_while_it_asks_for_levels_ends_the_cycle_when_it_goes_on(toy_settings, monkeypatch):
    chosen = toy_settings("data.curriculum=auto", "data.curriculum_records=150", "data.curriculum_level=1", "loop.level_pass=0", "loop.level_floor=0",
                          "model.context_tokens=256", "loop.steps=240", 'tree.branches={technical=["code"], analytical=["math"]}', data=None)
    asked = []

    def should_stop():
        return bool(asked)

    def level_scores(self, domain, version, *, level):
        asked.append(domain)
        return [1.0] * 40

    monkeypatch.setattr(JobRunner, "level_scores", level_scores)
    _, events = turn(chosen, should_stop=should_stop, router=False)
    assert [event.node for event in events if event.kind == "level_raised"] == asked[:1]
    assert "cycle_ended" not in {event.kind for event in events}
    asked.clear()
    begun = (Path(chosen.run.dir) / "data" / "corpus.json").read_bytes()
    _, events = turn(chosen, should_stop=lambda: False, router=False)
    assert len(asked) == 1  # the other one
    assert (Path(chosen.run.dir) / "data" / "corpus.json").read_bytes() == begun  # the raised level is the next cycle's
    assert {event.node for event in events if event.kind == "level_raised"} == {"math", "code"}
    assert [event.facts["cycle"] for event in events if event.kind == "cycle_ended"] == [0]


def test_loop_chooses_by_accuracies_of_tasks_enough_alone(toy_settings, monkeypatch):
    """Ten tasks a domain decide no promotion, and no choice of what is trained next either: bits per byte do."""
    chosen = toy_settings("data.curriculum=auto", "data.curriculum_records=150", "data.curriculum_level=1", "model.context_tokens=256", "loop.steps=60",
                          'tree.branches={technical=["code"]}', data=None)
    registry, _ = turn(chosen, router=False)
    assert registry.card("code", registry.pointer().nodes["code"])["scorecard"]["accuracy"] is not None

    def standings():
        with open_run(chosen) as run:
            return Loop(run, device=choose("cpu"), fit_router=None, reporter=Reporter(quiet=True), should_stop=lambda: True)._standings()

    assert {standing.accuracy for standing in standings()} == {None}
    monkeypatch.setattr(loop_module, "FEWEST_TASKS", 10)
    assert None not in {standing.accuracy for standing in standings()}


@pytest.mark.parametrize("file", ["card.json", "model.safetensors"])
def test_loop_whose_served_version_is_damaged_trains_that_node_again(toy_settings, file):
    chosen = toy_settings('tree.branches={technical=["code"]}')
    registry, _ = turn(chosen, router=False)
    damaged = registry.served("code") / file
    damaged.write_bytes(damaged.read_bytes()[:-7])
    registry, events = turn(chosen, router=False)
    assert [event.node for event in events if event.kind == "training_started" and event.facts["cycle"] == 1] == ["code"]
    assert registry.pointer().version("code") in {None, "v000002"}


def test_loop_with_a_job_for_a_domain_that_left_the_tree_passes_over_it(toy_settings):
    both = toy_settings('tree.branches={technical=["code"], language=["knowledge"]}')
    turn(both, should_stop=Stop(1), router=False)  # the agenda stands, with jobs for both
    _, events = turn(toy_settings('tree.branches={technical=["code"]}'), router=False)
    ended = next(event for event in events if event.kind == "cycle_ended")
    assert {job["node"]: job["status"] for job in ended.facts["jobs"]}["knowledge"] == "refused"
    assert {event.node for event in events if event.kind == "training_started"} == {"generalist", "code"}


def test_loop_of_attention_ssm_hybrids_examines_them_and_goes_on_from_what_it_promoted(toy_settings):
    hybrid = ("model.architecture=bamba", "model.layers=2", "model.attention_layers=[1]", "model.ssm_heads=4", "model.ssm_state=4", "model.ssm_chunk=8")
    registry, events = turn(toy_settings(*hybrid, 'tree.branches={technical=["code"]}'), cycles=2, router=False)
    assert [event.facts["cycle"] for event in events if event.kind == "cycle_ended"] == [0, 1]
    card = registry.card("generalist", registry.pointer().nodes["generalist"])
    assert len(card["scorecard"]["outcomes"]) == 10
    stock = AutoModelForCausalLM.from_pretrained(registry.served("generalist"))
    assert type(stock).__name__ == "BambaForCausalLM"


def test_loop_later_cycle_trains_one_node_and_prunes(toy_settings):
    chosen = toy_settings("registry.keep=1")
    registry, _ = turn(chosen, cycles=1, router=False)
    exams = Path(chosen.run.dir) / "work" / "exams"
    exams.mkdir(exist_ok=True)
    first = {f"{node}-{version}-sitting.json" for node in registry.pointer().nodes for version in registry.versions(node)}
    for name in first:
        (exams / name).write_text("{}", encoding="utf-8")
    registry, events = turn(chosen, cycles=5, router=False)
    later = [event for event in events if event.kind == "training_started" and event.facts["cycle"] > 0]
    assert [event.facts["cycle"] for event in later] == [1, 2, 3, 4, 5]
    assert all(len(registry.versions(node)) <= 2 for node in registry.pointer().nodes)
    kept = {name for name in first if (exams / name).exists()}
    assert kept == {name for name in first if name.split("-")[1] in registry.versions(name.split("-")[0])} != first


def test_loop_added_domain_is_one_line_and_a_folder(toy_settings, tmp_path, write_records):
    first = toy_settings()
    turn(first)
    data = write_records(tmp_path / "more")
    write_records(data, domains=["law"])
    registry, events = turn(toy_settings('tree.branches.technical=["code", "law"]', data=data))
    trained = [event.node for event in events if event.kind == "training_started" and event.facts["cycle"] == 1]
    assert trained == ["technical", "law"]
    assert "law" in registry.pointer().nodes


def test_loop_run_folder_of_another_model_is_refused_with_the_differences(toy_settings):
    turn(toy_settings(), router=False)
    differences = r"(?s)model\.width: the run has 32, the settings say 64.*tokenizer\.vocab_size: the run has 320, the settings say 330"
    with pytest.raises(RunMismatch, match=differences), open_run(toy_settings("model.width=64", "tokenizer.vocab_size=330")):
        pass


def test_loop_first_version_comes_early_and_is_replaced(toy_settings):
    """With first_answer_s almost zero the root's early version is up before its training ends."""
    _, events = turn(toy_settings("loop.first_answer_s=0.001", "loop.steps=60"), router=False)
    roots = [event for event in events if event.node == "generalist" and event.kind in {"promoted", "refused"}]
    assert "early, after" in roots[0].facts["reason"]
    assert len(roots) >= 2
    assert "more of the same training" in roots[-1].facts["reason"]


class FullFor(durable.Disk):
    """A disk that is full for the next effects from the first state of a training on."""

    def __init__(self, effects):
        self.left = effects

    def replace(self, source, target):
        if "state-" in target.name and self.left > 0:
            self.left -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        super().replace(source, target)


def test_loop_full_disk_waits_and_goes_on_with_nothing_lost(toy_settings, monkeypatch, capsys):
    whole, _ = turn(toy_settings(run="whole"), router=False)
    monkeypatch.setattr(loop_module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(durable, "disk", FullFor(3))
    registry, events = turn(toy_settings(run="full"), router=False)
    assert capsys.readouterr().out.count("the loop goes on in") == 3
    assert [event.facts["cycle"] for event in events if event.kind == "cycle_ended"] == [0]
    assert {node: _weights(registry, node) for node in registry.pointer().nodes} == {node: _weights(whole, node) for node in whole.pointer().nodes}


def test_loop_raises_the_level_of_what_was_promoted_and_teaches_it_next(toy_settings):
    """With no threshold every promoted domain of the curriculum moves on; the next cycle's records hold the new level."""
    chosen = toy_settings("data.curriculum=auto", "data.curriculum_records=150", "data.curriculum_level=1", "loop.level_pass=0", "loop.level_floor=0",
                          "model.context_tokens=256", "loop.steps=240", data=None)
    registry, events = turn(chosen, cycles=1, router=False)
    raised = {event.node: event.facts["level"] for event in events if event.kind == "level_raised"}
    assert raised
    assert {event.facts["tasks"] for event in events if event.kind == "level_raised"} == {40}  # an exam of ten asks each level too little
    assert raised == {node: 2 for node in registry.pointer().nodes if node in {"math", "reasoning", "conversation", "knowledge", "code"}}
    turn(chosen, cycles=1, router=False)
    corpus = open_corpus(chosen, Tree.from_settings(chosen.tree))
    domain = next(iter(raised))
    assert {row.meta["level"] for row in corpus.examples(domain, "train")} == {1, 2}


def test_loop_gives_a_root_that_has_read_little_more_of_a_short_cycle(toy_settings, monkeypatch, capsys):
    """20 steps hold far fewer tokens than 3.5 a weight: the root gets loop.root_share_records, 18 in place of 8, and the expert what is left.

    2 of 20 steps come after it, so the root's rate ends at a tenth, and the expert begins at four times that.
    """
    plans = {}
    plan = JobRunner._plan
    monkeypatch.setattr(JobRunner, "_plan", lambda self, job, **about: plans.setdefault(job.node, plan(self, job, **about)))
    chosen = toy_settings("tree.branches={technical=[\"code\"]}", "loop.root_share_records=0.9", "loop.leaf_lr_share=0.5", "train.lr=0.003")
    _, events = turn(chosen, router=False)
    assert [(event.node, event.facts["steps"]) for event in events if event.kind == "training_started"] == [("generalist", 18), ("code", 2)]
    assert {node: (plan.lr, plan.final_lr_share) for node, plan in plans.items()} == {
        "generalist": (0.003, pytest.approx(0.1)), "code": (pytest.approx(0.4 * 0.003), chosen.train.final_lr_share)}
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("cycle 0: ")] == ["cycle 0: generalist 18 steps, code 2 steps"]


def test_loop_on_the_curriculum_leaves_more_to_the_expert(toy_settings, capsys):
    """Of the same 20 steps the root gets loop.root_share_most, 15."""
    turn(toy_settings("tree.branches={technical=[\"code\"]}", "data.curriculum=auto", "data.curriculum_records=150", "model.context_tokens=256",
                      "loop.root_share_most=0.75", "loop.root_share_records=0.9", data=None), router=False)
    assert "cycle 0: generalist 15 steps, code 5 steps" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("pace", "made"), [(0.5, (90, 30)), (2.5, (18, 6)), (0.3, (150, 50))])
def test_loop_of_minutes_shares_them_out_once_keeps_that_over_a_stop_and_follows_the_clock(toy_settings, monkeypatch, pace, made):
    """A minute at half a second a step is planned with 120 steps: the root's 75 % are 90 of them, and after a stop the expert still has its 15 s, 30 steps.

    When the steps then take another time than those that were measured, their number changes, not the minute.
    """
    FakeClock(monkeypatch, lambda plan, step: 0.5 if plan.seconds is None else pace)  # the steps that are measured have no time to fill
    asked = []
    part = JobRunner.root_part
    monkeypatch.setattr(JobRunner, "root_part", lambda self, corpus: asked.append(part(self, corpus)) or asked[-1])
    chosen = toy_settings("tree.branches={technical=[\"code\"]}", "loop.first_answer_s=1000", "loop.root_share_records=0.75")
    chosen = chosen.model_copy(update={"loop": chosen.loop.model_copy(update={"steps": None, "minutes": 1.0})})
    turn(chosen, router=False, should_stop=Stop(after=6))
    since = chosen.model_copy(update={"train": chosen.train.model_copy(update={"lr": 0.004})})  # as another version's default
    _, events = turn(since, router=False)  # what has begun goes on as it began
    started = [(event.node, event.facts["steps"]) for event in events if event.kind == "training_started"]
    assert started == [("generalist", 90), ("generalist", 90), ("code", 30)]
    assert [part.share for part in asked] == [0.75]
    trained = {event.node: event.facts["training"] for event in events if event.kind in {"promoted", "refused"}}
    assert {node: (facts["steps"], facts["train_s"]) for node, facts in trained.items()} == {
        "generalist": (made[0], pytest.approx(45.0)), "code": (made[1], pytest.approx(15.0))}


@pytest.mark.parametrize(("pace", "made", "seconds"), [(0.4, (75, 75), (30.0, 30.0)), (0.6, (60, 40), (36.0, 24.0)), (1.0, (45, 15), (45.0, 15.0))])
def test_loop_of_minutes_lets_a_root_slower_than_measured_make_its_steps(toy_settings, monkeypatch, capsys, pace, made, seconds):
    """Of a minute at half a second a step the root needs 60 steps, 30 s. At 0.6 s it takes 36 s for them and the expert has 24 in place of 30; at 1 s it has
    its most, three quarters of the minute."""
    FakeClock(monkeypatch, lambda plan, step: 0.5 if plan.seconds is None else pace)
    monkeypatch.setattr(JobRunner, "root_part", lambda self, corpus: RootPart(share=0.5, steps=60, most=0.75))
    chosen = toy_settings("tree.branches={technical=[\"code\"]}", "loop.first_answer_s=1000")
    chosen = chosen.model_copy(update={"loop": chosen.loop.model_copy(update={"steps": None, "minutes": 1.0})})
    turn(chosen, router=False, should_stop=Stop(after=6))
    _, events = turn(chosen, router=False)  # over a stop as well
    trained = {event.node: event.facts["training"] for event in events if event.kind in {"promoted", "refused"}}
    assert {node: (facts["steps"], facts["train_s"]) for node, facts in trained.items()} == {
        node: (steps, pytest.approx(took, abs=pace)) for node, steps, took in zip(("generalist", "code"), made, seconds, strict=True)}
    told = [line for line in capsys.readouterr().out.splitlines() if "slower than measured" in line]
    late = f"generalist took {seconds[0]:.0f} s in place of 30, the machine is slower than measured; left: code {seconds[1]:.0f} s"
    assert told == ([] if pace < 0.5 else [late])


def test_loop_without_a_root_trains_nothing_below_it(toy_settings):
    registry, events = turn(toy_settings("train.lr=1e-9", "train.muon_lr=1e-9"), router=False)
    assert [event.node for event in events if event.kind == "training_started"] == ["generalist"]
    assert "no better than guessing" in next(event for event in events if event.kind == "refused").facts["reason"]
    assert registry.pointer().nodes == {}


def test_loop_writes_curves_of_every_training_unless_told_not_to(toy_settings):
    chosen = toy_settings("tree.branches={technical=[\"code\"]}", "train.validate_every_steps=5", "loop.root_reads=0")
    turn(chosen, router=False)
    home = Path(chosen.run.dir) / "tensorboard"
    assert {folder.name for folder in home.iterdir()} == {"generalist-cycle00000", "code-cycle00000"}
    reader = EventAccumulator(str(home / "code-cycle00000"))
    reader.Reload()
    assert {"train/loss", "train/clipped_share", "validation/code", "exam_bits_per_byte/code"} <= set(reader.Tags()["scalars"])
    assert [event.step for event in reader.Scalars("train/loss")] == list(range(1, 13))
    silent = toy_settings("tree.branches={technical=[\"code\"]}", "run.tensorboard=false", run="silent")
    turn(silent, router=False)
    assert not (Path(silent.run.dir) / "tensorboard").exists()


def test_loop_resumed_and_three_times_worse_keeps_the_best(toy_settings, monkeypatch):
    """Nexus forgot its best at a resume and let a worse model overwrite it: here the record lives in the card of what is served."""
    chosen = toy_settings("loop.cycle_steps=3")
    registry, _ = turn(chosen, router=False)
    best = dict(registry.pointer().nodes)
    scores = {node: registry.card(node, version)["scorecard"] for node, version in best.items()}

    def spoiled(model, **more):
        trained = train(model, **more)
        with torch.no_grad():
            for param in model.parameters():
                param.normal_(generator=torch.Generator().manual_seed(1))
        return trained

    monkeypatch.setattr(job_module, "train", spoiled)
    registry, events = turn(chosen, cycles=3, router=False)  # a new process as far as the loop knows: nothing is left in memory
    refused = [event for event in events if event.kind == "refused" and event.node != "router"]
    assert len([event for event in events if event.kind == "cycle_ended"]) == 4
    assert len(refused) >= 3
    for node, version in best.items():
        assert registry.pointer().nodes[node] == version
        assert registry.card(node, version)["scorecard"] == scores[node]
    assert registry.served("generalist").name == best["generalist"]


@pytest.fixture
def overshot(monkeypatch):
    """Trainings from the root overshoot what they found sixteen times, so that the way back leads through it; the list gets the weights of each end."""
    ends = []

    def beyond(model, **arguments):
        trained = train(model, **arguments)
        with torch.no_grad():
            for name, param in model.named_parameters() if ends else ():
                param.copy_(ends[0][name] + 16 * (param - ends[0][name]))
        ends.append({name: param.detach().clone() for name, param in model.named_parameters()})
        return trained

    monkeypatch.setattr(job_module, "train", beyond)
    return ends


def test_loop_offers_a_point_on_the_way_back_where_what_was_trained_is_refused(toy_settings, overshot):
    registry, events = turn(toy_settings("loop.steps=100", "loop.branch_share=0", "loop.root_reads=0"), router=False)
    offers = [event for event in events if event.kind in {"promoted", "refused"}]
    assert len(offers) == len(overshot) == 6
    shares = [event.facts["training"]["kept_share"] for event in offers]
    assert shares[0] == 1.0
    assert sum(share < 1 for share in shares[1:]) >= 3
    root = dict(Expert.load(registry.path("generalist", "v000001"), device=choose("cpu")).model.named_parameters())
    for event, end, share in ((event, end, share) for event, end, share in zip(offers, overshot, shares, strict=True) if share < 1):
        assert event.kind == "promoted"
        served = dict(Expert.load(registry.served(event.node), device=choose("cpu")).model.named_parameters())
        assert all(torch.allclose(weight, root[name] + share * (end[name] - root[name]), atol=1e-5) for name, weight in served.items())


def test_loop_killed_after_a_promotion_walks_the_same_way_again(toy_settings, overshot, monkeypatch):
    """What a job begins with is on disk: the version just promoted doesn't take its place."""
    chosen = toy_settings("loop.steps=100", "loop.branch_share=0", "loop.root_reads=0")
    promote, seen, starts = JobRunner._promote, [], []

    def noted(model, *, start, **more):
        starts.append(start.state_dict())
        return settle(model, start=start, **more)

    def dies(self, node, expert, **arguments):
        promote(self, node, expert, **arguments)
        if arguments["training"].get("kept_share", 1.0) < 1 and not seen:
            seen.append((node, len(starts)))
            raise KeyboardInterrupt

    monkeypatch.setattr(job_module, "settle", noted)
    monkeypatch.setattr(JobRunner, "_promote", dies)
    with pytest.raises(KeyboardInterrupt):
        turn(chosen, router=False)
    registry, events = turn(chosen, router=False)
    (node, number), = seen
    first, again = starts[number - 1:number + 1]
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert registry.pointer().nodes[node] == "v000001"
    assert [event.kind for event in events if event.node == node and event.kind in {"promoted", "refused"}] == ["promoted", "refused"]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_loop_refuses_for_the_first_reason_where_the_way_back_helps_nothing(toy_settings, overshot, monkeypatch, share):
    """At 0 nothing of the training is left to offer; at 0.5 the second exam, of weights that nobody moved, refuses as well."""
    monkeypatch.setattr(job_module, "settle", lambda model, **others: share)
    _, events = turn(toy_settings("loop.steps=100", "loop.branch_share=0", "loop.root_reads=0"), router=False)
    refused = [event for event in events if event.kind == "refused"]
    assert len(refused) >= 3
    assert all("no longer models its domain" in event.facts["reason"] and event.facts["training"]["kept_share"] == 1.0 for event in refused)


def test_loop_leaves_a_promoted_node_as_it_was_trained(toy_settings, monkeypatch):
    def never(model, **others):
        raise AssertionError("it was promoted at once")

    monkeypatch.setattr(job_module, "settle", never)
    monkeypatch.setattr(job_module, "READINGS", 1000)  # toys read their few records over and over
    _, events = turn(toy_settings("loop.steps=100", "loop.branch_share=0", "loop.root_reads=0"), router=False)
    offers = [event for event in events if event.kind in {"promoted", "refused"}]
    assert [(event.kind, event.facts["training"]["kept_share"]) for event in offers] == [("promoted", 1.0)] * 6


def test_loop_goes_on_where_the_start_of_a_refused_node_cannot_be_read(toy_settings, overshot, monkeypatch):
    def broken(folder, **others):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(job_module, "opened", broken)
    _, events = turn(toy_settings("loop.steps=100", "loop.branch_share=0", "loop.root_reads=0"), router=False)
    assert len([event for event in events if event.kind == "refused"]) >= 3
    assert events[-1].kind == "cycle_ended"
