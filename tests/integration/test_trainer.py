"""The trainer's numbers against a plain loop over single documents; stopping, rollback, divergence, facts, validation."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_clock import FakeClock
from toy_corpus import MemoryCorpus, counting_corpus, counting_documents, shard_of, toy_model, toy_training

from experts import allocator
from experts.checkpoint import load_newest
from experts.device import choose
from training import execution, optim
from training.optim import orthogonalized
from training.plan import Mix, Plan, TrainingDiverged
from training.threads import ThreadShare
from training.trainer import measure_step_s, train

BOTH = Mix({"up": 0.5, "down": 0.5})


def run(model, folder, *, settings, steps=6, seconds=None, corpus=None, mix=BOTH, seed=3, on_step=lambda facts: None, should_stop=lambda: False, dropout=None,
        **more):
    plan = replace(Plan.from_settings(settings, steps=steps, seed=seed, seconds=seconds), dropout=dropout)
    return train(model, corpus=corpus or counting_corpus(), mix=mix, plan=plan, device=choose("cpu"), state_folder=folder, settings=settings,
                 on_step=on_step, should_stop=should_stop, **more)


def plain_cost(model, documents):
    """Sum of answer costs in nats and their count: one document at a time, transformers' own forward."""
    total, count = torch.zeros(()), 0
    for tokens, answer in documents:
        logits = model(input_ids=torch.tensor([tokens])).logits[0].float()
        costs = torch.nn.functional.cross_entropy(logits[answer - 1:-1], torch.tensor(tokens[answer:]), reduction="sum")
        total, count = total + costs, count + len(tokens) - answer
    return total, count


def test_train_steps_equal_a_plain_loop_over_single_documents(tmp_path):
    documents = counting_documents(6, seed=5)
    corpus = MemoryCorpus({("up", "train"): shard_of(documents), ("up", "validation"): shard_of([])})
    rows = sum(len(tokens) - 1 for tokens, _ in documents)
    settings = toy_training(optimizer="adamw", row_tokens=64, batch_rows=-(-rows // 64), clip_norm=0.5, lr=0.01, warmup_share=0.0, schedule="cosine")
    ours, plain = toy_model(), toy_model()
    trained = run(ours, tmp_path, settings=settings, steps=4, corpus=corpus, mix=Mix({"up": 1.0}))
    assert trained.tokens == 4 * rows  # every step had all six documents
    matrices = [param for name, param in plain.named_parameters() if name.endswith("_proj.weight")]
    rest = [param for name, param in plain.named_parameters() if not name.endswith("_proj.weight")]
    adamw = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.95))
    for step in range(4):
        total, count = plain_cost(plain, documents)
        (total / count).backward()
        assert trained.losses[step] == pytest.approx(float(total.detach()) / count, rel=1e-4)
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        for group in adamw.param_groups:
            group["lr"] = 0.01 * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / 3)))
        adamw.step()
        adamw.zero_grad()
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_train_learns_to_count(tmp_path, optimizer):
    settings = toy_training(optimizer=optimizer, lr=0.02, row_tokens=64, batch_rows=8)
    trained = run(toy_model(), tmp_path, settings=settings, steps=120, mix=Mix({"up": 1.0}))
    assert trained.losses[0] == pytest.approx(np.log(40), abs=0.2)
    assert trained.best.val_loss < 0.5


def test_train_accumulating_two_batches_is_one_batch_of_twice_the_rows(tmp_path):
    once, twice = toy_model(), toy_model()
    whole = run(once, tmp_path / "once", settings=toy_training(optimizer="adamw", batch_rows=4, accumulate=1))
    parts = run(twice, tmp_path / "twice", settings=toy_training(optimizer="adamw", batch_rows=2, accumulate=2))
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    assert (parts.tokens, parts.targets) == (whole.tokens, whole.targets)


def test_train_reports_what_each_step_did(tmp_path):
    documents = [([5, 6, 7, 8, 9], 2), ([11, 12, 13], 1)]
    corpus = MemoryCorpus({("up", "train"): shard_of(documents), ("up", "validation"): shard_of([])})
    seen = []
    settings = toy_training(row_tokens=16, batch_rows=2, lr=0.004, muon_lr=0.02, warmup_share=0.5, clip_norm=1e-3)
    trained = run(toy_model(), tmp_path, settings=settings, steps=4, corpus=corpus, mix=Mix({"up": 1.0}), on_step=seen.append)
    assert [(facts.step, facts.steps, facts.tokens, facts.targets) for facts in seen] == [(1, 4, 12, 10), (2, 4, 24, 20), (3, 4, 36, 30), (4, 4, 48, 40)]
    assert [facts.lr for facts in seen] == pytest.approx([0.004 / 3, 0.008 / 3, 0.004, 0.004 * 0.02])
    assert [facts.muon_lr / facts.lr for facts in seen] == pytest.approx([5.0] * 4)
    assert all(facts.clipped and facts.grad_norm > 1e-3 for facts in seen)
    assert seen[-1].eta_s == 0.0
    assert seen[0].eta_s == pytest.approx(3 * seen[0].train_s)
    assert trained.clipped_share == 1.0
    assert trained.tokens_per_s == pytest.approx(48 / trained.train_s)
    assert (trained.losses[-1], trained.validations, trained.best) == (seen[-1].loss, (), None)


def test_train_with_a_high_limit_clips_nothing(tmp_path):
    assert run(toy_model(), tmp_path, settings=toy_training(clip_norm=1e6)).clipped_share == 0.0


def test_train_told_to_stop_finishes_the_step_and_saves_it(tmp_path):
    seen = []
    trained = run(toy_model(), tmp_path, settings=toy_training(), on_step=seen.append, should_stop=lambda: len(seen) == 2)
    assert (trained.stopped, trained.step, len(seen)) == (True, 2, 2)
    assert load_newest(tmp_path).facts["step"] == 2


def test_validation_loss_equals_that_of_single_documents(tmp_path):
    settings, history, model = toy_training(validate_every_steps=2, validation_rows=100), [], toy_model()
    trained = run(model, tmp_path, settings=settings, steps=5, on_validation=history.append)
    assert [one.step for one in history] == [2, 4, 5]
    assert tuple(history) == trained.validations
    costs = {}
    with torch.no_grad():
        for number, domain in enumerate(("up", "down")):
            total, count = plain_cost(model, counting_documents(12, seed=100 + number, step=number * 2 + 1))
            costs[domain] = (float(total), count)
    assert history[-1].by_domain == pytest.approx({domain: total / count for domain, (total, count) in costs.items()}, rel=1e-5)
    assert history[-1].val_loss == pytest.approx(sum(total for total, _ in costs.values()) / sum(count for _, count in costs.values()), rel=1e-5)
    assert history[-1].train_loss == pytest.approx(np.mean(trained.losses[-2:]))
    assert trained.best == min(history, key=lambda one: one.val_loss)


def spoil(model):
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")


def test_loss_not_a_number_is_not_applied_and_the_run_goes_back_with_half_the_rate(tmp_path):
    model, seen = toy_model(), []

    def on_step(facts):
        seen.append(facts)
        if len(seen) == 4:
            spoil(model)

    trained = run(model, tmp_path, settings=toy_training(schedule="constant_then_decay", warmup_share=0.0, decay_share=0.0), on_step=on_step)
    assert [facts.step for facts in seen] == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6]
    assert [facts.lr for facts in seen] == pytest.approx([0.01] * 4 + [0.005] * 6)
    assert [facts.rollbacks for facts in seen] == [0] * 4 + [1] * 6
    assert (trained.rollbacks, len(trained.losses), trained.stopped) == (1, 6, False)
    assert trained.losses[0] == seen[0].loss  # the same batches again
    assert all(bool(torch.isfinite(param).all()) for param in model.parameters())


def test_gradient_not_finite_is_not_applied_either(tmp_path):
    model, seen, spoiled = toy_model(), [], []

    def explode(grad):
        if len(seen) == 2 and not spoiled:
            spoiled.append(True)
            return grad * float("inf")
        return grad

    model.model.norm.weight.register_hook(explode)
    trained = run(model, tmp_path, settings=toy_training(), on_step=seen.append)
    assert trained.rollbacks == 1
    assert [facts.step for facts in seen] == [1, 2, 1, 2, 3, 4, 5, 6]
    assert all(bool(torch.isfinite(param).all()) for param in model.parameters())


def test_rollback_survives_a_kill_with_its_lower_rate(tmp_path):
    model, seen = toy_model(), []

    def on_step(facts):
        seen.append(facts)
        if len(seen) == 2:
            spoil(model)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path, settings=toy_training(), on_step=on_step)
    trained = run(toy_model(), tmp_path, settings=toy_training(), on_step=seen.append)
    assert trained.rollbacks == 1
    assert [facts.rollbacks for facts in seen] == [0, 0, 1, 1, 1, 1, 1, 1, 1]
    assert seen[3].lr == seen[2].lr


def test_loss_that_stays_not_a_number_ends_the_training_with_the_repair(tmp_path):
    model = toy_model()
    with pytest.raises(TrainingDiverged, match=r"step 2: .* after 2 returns to the last good state; lower train\.lr and train\.muon_lr"):
        run(model, tmp_path, settings=toy_training(max_rollbacks=2), on_step=lambda facts: spoil(model))
    assert load_newest(tmp_path).facts["step"] == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_asked_for_is_used_and_recorded(tmp_path, precision):
    dtypes, model = set(), toy_model()
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    trained = run(model, tmp_path, settings=toy_training(precision=precision), steps=2)
    assert trained.precision == precision
    assert torch.float32 in dtypes  # the trial at the start
    assert (torch.bfloat16 in dtypes) == (precision == "bf16")


@pytest.fixture
def cpu_of(monkeypatch):
    """A function (ms in bfloat16): from now on a product of matrices takes 1 ms in fp32 and that in bfloat16; returns the precisions Muon works in."""
    used = []
    monkeypatch.setattr(optim, "orthogonalized", lambda update, *, dtype: used.append(dtype) or orthogonalized(update, dtype=dtype))

    def make(bf16_ms):
        monkeypatch.setattr(execution, "_product_s", lambda place, dtype: {torch.float32: 1e-3, torch.bfloat16: bf16_ms * 1e-3}[dtype])
        monkeypatch.setattr(execution, "_plain", {})
        execution._multiplies_bf16.cache_clear()
        return used

    yield make
    execution._multiplies_bf16.cache_clear()


@pytest.mark.parametrize(("bf16_ms", "muon", "tried"), [
    (100.0, torch.float32, False), (4.0, torch.float32, False), (1.1, torch.bfloat16, True), (0.5, torch.bfloat16, True)])
def test_cpu_without_bfloat16_trains_and_orthogonalizes_in_fp32(tmp_path, cpu_of, bf16_ms, muon, tried):
    used, computed, model = cpu_of(bf16_ms), set(), toy_model()
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda module, inputs, output: computed.add(output.dtype))
    run(model, tmp_path, settings=toy_training(optimizer="muon", precision="auto"), steps=2)
    assert set(used) == {muon}
    assert (torch.bfloat16 in computed) == tried


def test_resumed_run_keeps_the_precision_of_its_orthogonalization(tmp_path, cpu_of):
    used, stop = cpu_of(100.0), iter([False, False, True])
    settings = toy_training(optimizer="muon", precision="auto")
    assert run(toy_model(), tmp_path, settings=settings, steps=4, should_stop=lambda: next(stop)).step == 2
    cpu_of(0.5)
    assert run(toy_model(), tmp_path, settings=settings, steps=4).step == 4
    assert set(used) == {torch.float32}


def test_model_examined_between_steps_trains_on_in_training_mode(tmp_path):
    model, modes = toy_model(), []
    model.model.layers[0].register_forward_hook(lambda module, inputs, output: modes.append(module.training) if torch.is_grad_enabled() else None)
    trained = run(model, tmp_path, settings=toy_training(), steps=3, on_step=lambda facts: model.eval())
    assert modes == [True, True, True]
    assert not model.training
    assert trained.step == 3


def test_measure_step_s_is_positive_and_leaves_model_and_randomness_alone():
    model = toy_model()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    seconds = measure_step_s(model, corpus=counting_corpus(), mix=BOTH, settings=toy_training(), device=choose("cpu"))
    assert 0 < seconds < 60
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_measure_step_s_is_the_shortest_of_three_after_one_untimed(monkeypatch):
    FakeClock(monkeypatch, lambda plan, step: {1: 0.5, 2: 9.0, 3: 1.0, 4: 2.0}[step])
    assert measure_step_s(toy_model(), corpus=counting_corpus(), mix=BOTH, settings=toy_training(), device=choose("cpu")) == 1.0


PACES = {"as expected": lambda step: 1.0, "slower": lambda step: 1.09, "faster": lambda step: 0.8, "slower from the middle on": lambda step: 1.0 + (step > 30),
         "slow at first": lambda step: 1.0 + (step < 15), "by turns": lambda step: 0.6 + step % 3}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_then_decay"])
@pytest.mark.parametrize("pace", PACES.values(), ids=PACES)
def test_train_for_a_time_ends_within_a_step_of_it_with_the_rate_at_its_end(tmp_path, monkeypatch, pace, schedule):
    FakeClock(monkeypatch, lambda plan, step: pace(step))
    settings, seen = toy_training(optimizer="adamw", schedule=schedule, lr=1e-3, warmup_share=0.1, decay_share=0.3, validate_every_steps=25), []
    trained = run(toy_model(), tmp_path, settings=settings, steps=60, seconds=60.0, on_step=seen.append)  # a second a step was promised
    longest = max(pace(step) for step in range(1, trained.step + 1))
    assert abs(trained.train_s - 60.0) <= longest
    if longest <= 1.2:
        assert trained.train_s == pytest.approx(60.0, rel=0.02)
    assert (trained.stopped, trained.validations[-1].step, seen[-1].steps, seen[-1].eta_s) == (False, trained.step, trained.step, 0.0)
    rates = [facts.lr for facts in seen]
    assert max(rates) == pytest.approx(1e-3, rel=0.05)
    assert rates[-1] < 0.2 * max(rates)
    assert all(later <= before + 1e-4 for before, later in itertools.pairwise(rates[15:]))  # never up again but for the noise of a step


def test_train_for_a_time_stopped_and_resumed_takes_the_time_once(tmp_path, monkeypatch):
    FakeClock(monkeypatch, lambda plan, step: 1.5)
    settings, seen = toy_training(optimizer="adamw"), []
    first = run(toy_model(), tmp_path, settings=settings, steps=60, seconds=60.0, on_step=seen.append, should_stop=lambda: len(seen) == 20)
    trained = run(toy_model(), tmp_path, settings=settings, steps=60, seconds=60.0, on_step=seen.append)
    assert (first.stopped, first.train_s) == (True, 30.0)
    assert (trained.step, trained.train_s, [facts.step for facts in seen]) == (40, 60.0, list(range(1, 41)))


def test_train_for_a_time_leaves_out_a_pause_of_the_machine(tmp_path, monkeypatch, caplog):
    FakeClock(monkeypatch, lambda plan, step: 3600.0 if step == 10 else 1.0)
    trained = run(toy_model(), tmp_path, settings=toy_training(optimizer="adamw"), steps=60, seconds=60.0)
    assert (trained.step, trained.train_s) == (60, 60.0)
    assert "step 10 took 3600 s, others 1.00 s: a pause, which doesn't count as training" in caplog.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_train_with_compiled_layers_gives_the_losses_of_the_plain_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "_COMPILE_PAYS_AFTER_S", 0.0)
    monkeypatch.setattr(execution, "_fastest", lambda model, ways, **_: (ways[-1], 1.0))  # whatever is faster here: the compiled one
    plain, compiled = toy_model(), toy_model()
    wanted = run(plain, tmp_path / "plain", settings=toy_training(compile="off", validate_every_steps=2))
    found = run(compiled, tmp_path / "compiled", settings=toy_training(compile="auto", validate_every_steps=2))
    assert (wanted.compiled, found.compiled) == (False, True)
    assert found.losses == pytest.approx(wanted.losses, rel=1e-4)
    assert found.best.val_loss == pytest.approx(wanted.best.val_loss, rel=1e-4)
    assert "forward" not in vars(compiled.model.layers[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_dropout_reaches_layers_that_were_compiled_without_it_and_stays_with_its_plan(tmp_path, monkeypatch):
    """As an expert's training does after its root's, in one process; layers share a graph, which knows of hooks only if it is asked to. The same places
    fall as without a compiler, backward too."""
    monkeypatch.setattr(execution, "_COMPILE_PAYS_AFTER_S", 0.0)
    monkeypatch.setattr(execution, "_fastest", lambda model, ways, **_: (ways[-1], 1.0))  # whatever is faster here: the compiled one
    losses = [run(toy_model(), tmp_path / str(number), settings=toy_training(compile="auto"), steps=4, dropout=share).losses
              for number, share in enumerate([None, 0.5, None, 0.5])]
    assert losses[0] == losses[2]
    assert losses[1] == losses[3]
    assert losses[1][0] != pytest.approx(losses[0][0], rel=1e-5)
    eager = run(toy_model(), tmp_path / "eager", settings=toy_training(compile="off"), steps=4, dropout=0.5)
    assert losses[1] == pytest.approx(eager.losses, rel=1e-5)


def test_train_where_compiling_fails_goes_on_without(tmp_path, monkeypatch, caplog):
    def broken(forward, **_):
        def fail(*_, **__):
            raise RuntimeError("no compiler worth the name")
        return fail

    monkeypatch.setattr(execution, "_COMPILE_PAYS_AFTER_S", 0.0)
    monkeypatch.setattr(execution, "can_compile", lambda *_, **__: True)
    monkeypatch.setattr(torch, "compile", broken)
    execution._compiled.clear()
    trained = run(toy_model(), tmp_path, settings=toy_training(compile="auto"))
    execution._compiled.clear()
    assert (trained.compiled, trained.step) == (False, 6)
    assert "goes on without it: RuntimeError: no compiler worth the name" in caplog.text


def test_memory_is_given_back_while_it_trains(tmp_path, monkeypatch):
    given, steps = [], []
    monkeypatch.setattr(allocator, "EVERY_S", 0.0)
    monkeypatch.setattr(allocator, "give_back", lambda: given.append(len(steps)))
    run(toy_model(), tmp_path, settings=toy_training(), steps=3, on_step=steps.append)
    assert given == [0, 1, 2]


@pytest.mark.parametrize(("seconds", "seen"), [(20.0, {2, 1}), (None, {2})])
def test_train_for_seconds_gives_a_thread_up_for_a_busy_program_and_for_steps_none(tmp_path, monkeypatch, seconds, seen):
    """A step takes 2 s of a clock by hand, of which another program uses one of two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    clock = FakeClock(monkeypatch, lambda plan, step: 2.0)
    share = ThreadShare(cores=2, clock=lambda: clock.now, seconds=lambda: (2 * clock.now, clock.now))
    found = []
    try:
        monkeypatch.setattr("training.threads.WINDOW_S", 4.0)
        trained = run(toy_model(), tmp_path, settings=toy_training(), steps=10, seconds=seconds, threads=share,
                      on_step=lambda facts: found.append(torch.get_num_threads()))
    finally:
        torch.set_num_threads(before)
    assert trained.step == 10
    assert set(found) == seen
    assert found == sorted(found, reverse=True)
