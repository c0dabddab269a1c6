"""The second look at a refused training, over real parts at toy size: what the walk back looks at, what is written down, and where it stops."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data_prep.corpus import prepare
from data_prep.records import Example, content_key
from experts.checkpoint import save_state
from experts.device import choose
from experts.durable import ensure_folder, write_json
from experts.registry import Registry
from training import examiner as examiner_module
from training import job as job_module
from training.agenda import Job
from training.exam import Exam, stratified
from training.examiner import Examiner, left_over
from training.interpolation import settle
from training.job import JobRunner
from training.loop import Loop
from training.progress import Reporter
from training.promote import Decision
from training.run_folder import open_run, recipe_fingerprint
from training.trainer import train

SMALL = ("loop.steps=100", "loop.root_share=0.15", "loop.root_reads=0", "loop.branch_share=0", 'tree.branches={technical=["code"]}')


class Rows:
    """A source of so many validation rows a domain, half of them on level 2, and ten exam rows."""

    def __init__(self, **counts):
        self.counts = counts

    def examples(self, domain, split):
        count = self.counts[domain] if split == "validation" else 10
        return [Example(domain, f"{split} {n}?", f"{n}", "toy", content_key(domain, f"{split} {n}?", f"{n}"), {"level": 1 + n % 2}) for n in range(count)]


def left(source, *, bits_rows):
    domains = list(source.counts)
    exam = Exam.of(source, domains, tasks=10, bits_rows=bits_rows)
    return exam, left_over(exam, source, bits_rows=bits_rows)


def test_left_over_takes_rows_that_the_exam_does_not_use_spread_like_them():
    source = Rows(math=50, code=120)
    exam, rows = left(source, bits_rows=20)
    for domain, count in (("math", 30), ("code", 100)):
        keys = {row.key for row in exam.held_out[domain]}
        others = [row for row in source.examples(domain, "validation") if row.key not in keys]
        assert len(others) == count
        assert rows[domain] == stratified(others, count=20)
        assert [row.meta["level"] for row in rows[domain]] == [1, 2] * 10


@pytest.mark.parametrize(("validation", "own"), [(49, True), (50, False)])
def test_left_over_is_the_exams_own_rows_where_a_domain_has_too_few_others(validation, own):
    """29 beside the exam's 20 are too few, 30 are enough; a domain with many doesn't help one with few."""
    exam, rows = left(Rows(math=validation, code=120), bits_rows=20)
    assert (rows == exam.held_out) == own


@pytest.mark.parametrize(("bits_rows", "disjoint"), [(4, True), (40, False)])
def test_walk_back_chooses_by_rows_that_the_exam_of_the_node_is_not_judged_by(toy_settings, tmp_path, write_records, monkeypatch, bits_rows, disjoint):
    chosen = toy_settings(f"exam.bits_rows={bits_rows}", 'tree.branches={technical=["code"]}',
                          data=write_records(tmp_path / "records", domains=["code"], count=600))
    asked = []
    monkeypatch.setattr(examiner_module, "bits_per_byte", lambda expert, rows, *, settings: asked.append([row.key for row in rows]) or float(len(asked)))
    with open_run(chosen) as run:
        corpus = prepare(chosen, run.tree, cycle=0, log=lambda text: None)
        cost = Examiner(run, device=choose("cpu")).held_out_cost("code", None, corpus)
        assert (cost(), cost()) == (1.0, 2.0)
        exam = {row.key for row in Exam.of(corpus, ["code"], tasks=10, bits_rows=bits_rows).held_out["code"]}
    assert asked[0] == asked[1]
    assert len(asked[0]) == bits_rows
    assert exam.isdisjoint(asked[0]) == disjoint
    assert (set(asked[0]) == exam) != disjoint


def turn(chosen, *, should_stop=lambda: False):
    """One cycle of a loop over a root and one expert; the registry and the journal's events afterwards."""
    with open_run(chosen) as run:
        Loop(run, device=choose("cpu"), fit_router=None, reporter=Reporter(quiet=True), should_stop=should_stop).run(cycles=1)
        return run.registry, run.journal.events()


@pytest.fixture
def overshot(monkeypatch):
    """The expert's training ends three times as far from the root as it found, so that the way back leads through it."""
    root = {}

    def beyond(model, *, mix, **more):
        trained = train(model, mix=mix, **more)
        with torch.no_grad():
            for name, param in model.named_parameters():
                if not trained.stopped and mix.prompts:  # the root, which learns from prompts, too
                    root[name] = param.detach().clone()
                elif not trained.stopped:
                    param.copy_(root[name] + 3 * (param - root[name]))
        return trained

    monkeypatch.setattr(job_module, "train", beyond)


def offers(events):
    return {event.node: event for event in events if event.kind in {"promoted", "refused"}}


def test_card_of_a_walked_back_version_says_what_it_lies_between_and_whose_its_losses_are(toy_settings, overshot):
    chosen = toy_settings(*SMALL)
    registry, events = turn(chosen)
    root, expert = (registry.card(node, "v000001")["training"] for node in ("generalist", "code"))
    assert (root["begun_with"], root["kept_share"]) == (None, 1.0)
    assert root["train_loss"] is not None
    assert not [key for key in root if key.endswith("_at_end")]
    assert expert["begun_with"] == "generalist/v000001"
    assert 0 < expert["kept_share"] < 1
    assert not {"train_loss", "val_loss"} & set(expert)
    assert expert["train_loss_at_end"] > 0
    assert expert["val_loss_at_end"] > 0
    assert root["recipe"] == expert["recipe"] == recipe_fingerprint(chosen)
    assert offers(events)["code"].facts["training"] == expert


@pytest.mark.parametrize(("share", "reason"), [
    (0.5, "accuracy ties and bits per byte are not lower"), (0.0, "held-out answers are cheapest where the training began"),
    (1.0, "held-out answers get no cheaper on the way back")])
def test_refusal_after_a_second_look_says_what_came_of_it(toy_settings, overshot, monkeypatch, share, reason):
    monkeypatch.setattr(job_module, "settle", lambda model, **others: share)
    monkeypatch.setattr(job_module, "interpolate", lambda model, **others: None)
    refused = offers(turn(toy_settings(*SMALL))[1])["code"]
    assert (refused.kind, refused.facts["second_look"]["share"]) == ("refused", share)
    assert reason in refused.facts["second_look"]["reason"]
    assert refused.facts["training"]["kept_share"] == 1.0
    assert refused.facts["training"]["begun_with"] == "generalist/v000001"


def test_promoted_training_that_made_held_out_answers_dearer_keeps_the_better_of_its_end_and_the_way_to_it(toy_settings, overshot, monkeypatch):
    """The expert's first exam is made to pass. Its end stays, bit for bit, where nothing got dearer and where no point on the way is preferred."""
    judge, prefers, found = Examiner.judge, Examiner.prefers, {}
    by_heart = []
    monkeypatch.setattr(JobRunner, "_may_learn_by_heart", lambda self, job, corpus: bool(by_heart))
    for case, dearer, preferred in (("not dearer", False, []), ("dearer", True, []), ("not preferred", True, [False] * 3), ("second try", True, [False, True]),
                                    ("by heart", False, [])):
        by_heart += ["yes"] * (case == "by heart")
        judged, answers = [], iter(preferred)

        def judging(self, node, *rest, judged=judged, dearer=dearer):
            verdict = judge(self, node, *rest)
            if node == "generalist" or judged:
                return verdict
            judged.append(verdict)
            return replace(verdict, decision=Decision(True, "promoted: let through"), dearer=dearer)

        monkeypatch.setattr(Examiner, "judge", judging)
        monkeypatch.setattr(Examiner, "prefers", (lambda self, one, other, answers=answers: next(answers)) if preferred else prefers)
        registry, events = turn(toy_settings(*SMALL, run=case.replace(" ", "-")))
        assert judged[0].dearer
        assert offers(events)["code"].kind == "promoted"
        found[case] = (registry.card("code", "v000001")["training"]["kept_share"], (registry.served("code") / "model.safetensors").read_bytes())
    assert found["not dearer"][0] == 1.0
    assert 0 < found["dearer"][0] < 1
    assert found["not preferred"] == found["not dearer"]
    assert found["by heart"][0] == found["dearer"][0]  # looked at whether or not anything got dearer
    assert found["dearer"][1] != found["not dearer"][1]
    assert found["second try"][0] == found["dearer"][0] + 0.25 < 1


def test_refusal_without_a_second_look_says_nothing_of_one(toy_settings):
    refused = offers(turn(toy_settings(*SMALL, "train.lr=1e-9", "train.muon_lr=1e-9"))[1])["generalist"]
    assert refused.kind == "refused"
    assert "second_look" not in refused.facts


def test_recipe_fingerprint_is_of_what_made_a_version_not_of_where_it_runs(toy_settings):
    here = recipe_fingerprint(toy_settings())
    assert len(here) == 16
    same = ("run.dir=elsewhere", "run.device=auto", "data.path=moved", "serve.port=1", "router.rows=20", "registry.keep=9")
    assert {recipe_fingerprint(toy_settings(one)) for one in same} == {here}
    other = ("run.seed=1", "train.lr=0.5", "data.exam_share=0.2", "exam.tasks=11", "promote.confidence=0.9", "model.width=64")
    assert len({here, *(recipe_fingerprint(toy_settings(one)) for one in other)}) == 7


def test_training_whose_states_are_all_damaged_begins_with_what_is_served_now(toy_settings, tmp_path):
    """Begun from the root, stopped, its one state damaged, an expert promoted meanwhile: what begins anew begins from that."""
    with open_run(toy_settings(*SMALL)) as run:
        runner = JobRunner(run, device=choose("cpu"), reporter=Reporter(quiet=True), should_stop=lambda: True)
        states = tmp_path / "states"
        served = [("generalist", "v000001"), ("code", "v000001"), ("code", "v000002")]
        runner._examiner.incumbent = lambda node: served[0]
        assert runner.begun_with("code", states) == "generalist/v000001"
        state = save_state(states, tensors={"weight": torch.zeros(3)}, facts={})
        del served[0]
        assert runner.begun_with("code", states) == "generalist/v000001"
        state.rename(state.with_name(f"{state.name}.damaged-1"))
        assert runner.begun_with("code", states) == "code/v000001"
        (save_state(states, tensors={"weight": torch.zeros(3)}, facts={}) / "state.json").write_text("{", encoding="utf-8")
        del served[0]
        assert runner.begun_with("code", states) == "code/v000002"


@pytest.mark.parametrize("saved", [False, True])
def test_fast_train_reads_its_files_anew_unless_a_state_is_there_to_go_on_from(toy_settings, monkeypatch, saved):
    """A folder of states without a state, as a failure before the first one leaves it, is no training to go on with."""
    import fast_train
    from data_prep import corpus as corpus_module

    chosen, asked = toy_settings(), []
    states = Path(chosen.run.dir) / "work" / "code" / "fast"
    ensure_folder(states)
    write_json(states / "start.json", {"version": ""})
    if saved:
        save_state(states, tensors={"weight": torch.zeros(3)}, facts={})

    class Enough(Exception):
        """Nothing is trained here."""

    def prepared(settings, tree, *, cycle, log, resume, training):
        asked.append(resume)
        assert training == "fast code"
        raise Enough

    monkeypatch.setattr(corpus_module, "prepare", prepared)
    with pytest.raises(Enough):
        fast_train._train(chosen, node="code", epochs=None, quiet=True)
    assert asked == [saved]


def test_fast_train_of_the_root_goes_on_after_its_early_version_is_served(toy_settings, monkeypatch):
    """Stopped then: the version that answers is of this very training, which began with new weights and goes on at their rates."""
    import fast_train
    from training import command

    chosen = toy_settings("loop.first_answer_s=0.001", "loop.cycle_steps=60")
    registry, stopped = Registry(Path(chosen.run.dir)), []

    def is_set():
        if registry.pointer().nodes and not stopped:
            stopped.append(registry.pointer().nodes["generalist"])
        return bool(stopped)

    with monkeypatch.context() as patched:
        patched.setattr(command, "stop_signal", lambda: nullcontext(SimpleNamespace(is_set=is_set)))
        assert fast_train._train(chosen, node="generalist", epochs=None, quiet=True)["status"] == "pending"
    assert stopped == ["v000001"]
    facts = fast_train._train(chosen, node="generalist", epochs=None, quiet=True)
    assert facts["status"] in {"promoted", "refused"}
    assert facts["history"][-1]["step"] == 60


def test_fast_train_of_an_expert_goes_on_at_its_rates_where_the_note_of_its_start_is_torn(toy_settings, monkeypatch):
    import fast_train
    from training import command

    chosen = toy_settings(*SMALL, "loop.cycle_steps=20")
    turn(chosen)
    states, asked = Path(chosen.run.dir) / "work" / "code" / "fast", []

    def is_set():
        asked.append("?")
        return len(asked) > 10

    with monkeypatch.context() as patched:
        patched.setattr(command, "stop_signal", lambda: nullcontext(SimpleNamespace(is_set=is_set)))
        assert fast_train._train(chosen, node="code", epochs=None, quiet=True)["status"] == "pending"
    (states / "start.json").write_text("{", encoding="utf-8")
    assert fast_train._train(chosen, node="code", epochs=None, quiet=True)["status"] in {"promoted", "refused"}


@pytest.mark.parametrize("when", ["exam", "look", "walk"])
def test_stop_in_a_second_look_leaves_the_job_pending_and_a_restart_ends_alike(toy_settings, overshot, monkeypatch, when):
    """Ctrl-C while the expert's first exam runs, during the first look of its walk (other looks and an exam are ahead), or during the last one."""
    whole, events = turn(toy_settings(*SMALL, run="whole"))
    wanted = offers(events)["code"]
    assert 0 < wanted.facts["training"]["kept_share"] < 1
    judge, cost, judged, looked, stop = Examiner.judge, Examiner.held_out_cost, [], [], []

    def happened(what):
        if what == when:
            stop.append(what)

    def judging(self, node, *rest):
        judged.append(node)
        if node == "code":
            happened("exam")
        return judge(self, node, *rest)

    def looking(self, *rest):
        found = cost(self, *rest)
        return lambda: looked.append(happened("look")) or found()

    def walking(model, **more):
        share = settle(model, **more)
        happened("walk")
        return share

    with monkeypatch.context() as patch:
        patch.setattr(Examiner, "judge", judging)
        patch.setattr(Examiner, "held_out_cost", looking)
        patch.setattr(job_module, "settle", walking)
        chosen = toy_settings(*SMALL, run="stopped")
        _, events = turn(chosen, should_stop=lambda: bool(stop))
    assert judged == ["generalist", "code"]
    assert {"exam": len(looked) == 0, "look": len(looked) == 1, "walk": len(looked) > 2}[when]
    assert "code" not in offers(events)
    registry, events = turn(chosen)
    found = offers(events)["code"]
    for facts in (found.facts, wanted.facts):
        facts["training"].pop("train_s"), facts["training"].pop("tokens_per_s"), facts["scorecard"].pop("seconds_per_answer")
    assert (found.kind, found.facts) == (wanted.kind, wanted.facts)
    assert (registry.served("code") / "model.safetensors").read_bytes() == (whole.served("code") / "model.safetensors").read_bytes()


def test_dropout_is_of_experts_that_read_their_records_more_than_two_and_a_half_times(toy_settings, tmp_path):
    """A step reads 2 x 100 places, nine tenths of them of the expert's own 900 tokens: five steps are one reading."""
    two = ("train.row_tokens=100", "train.batch_rows=2", "loop.replay_share=0.1", 'tree.branches={technical=["code", "math"]}')

    def shares(*overrides, of_records=("code",), steps=13, **base):
        chosen = toy_settings(*SMALL, *two, *overrides)
        with open_run(chosen) as run:
            run_of_base = replace(run, settings=chosen.model_copy(update={"model": chosen.model.model_copy(update=base)}))
            runner = JobRunner(run_of_base, device=choose("cpu"), reporter=Reporter(quiet=True), should_stop=lambda: True)
            corpus = SimpleNamespace(of_records=frozenset(of_records), shard=lambda domain, split: SimpleNamespace(tokens=range(900)))
            return {node: runner._plan(Job(node, 0.5, steps=steps), cycle=1, states=tmp_path, corpus=corpus).dropout for node in run.tree.trainable}

    everyone = dict.fromkeys(("generalist", "technical", "code", "math"))
    assert shares() == {**everyone, "code": 0.1}
    assert shares("loop.leaf_dropout=0.25") == {**everyone, "code": 0.25}
    for none in (shares(steps=12), shares("loop.leaf_dropout=0"), shares(of_records=()), shares("moe.dropout=0.2"), shares(base="somewhere/base")):
        assert none == everyone


def test_training_of_steps_goes_on_with_the_dropout_that_it_began_with(toy_settings, tmp_path):
    """Begun by a version of the program that knew none."""
    with open_run(toy_settings(*SMALL)) as run:
        runner = JobRunner(run, device=choose("cpu"), reporter=Reporter(quiet=True), should_stop=lambda: True)
        corpus = SimpleNamespace(of_records=frozenset({"code"}), shard=lambda domain, split: SimpleNamespace(tokens=range(9)))

        def plan():
            return runner._plan(Job("code", 0.5, steps=40), cycle=1, states=tmp_path, corpus=corpus)

        begun = plan()
        assert begun.dropout == 0.1
        old = {key: value for key, value in begun.to_json().items() if key != "dropout"}
        save_state(tmp_path, tensors={"weight": torch.zeros(3)}, facts={"identity": {"plan": old}})
        assert plan() == replace(begun, dropout=None)
