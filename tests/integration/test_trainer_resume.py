"""A stopped or killed run goes on bit for bit: N + N steps equal 2 N; a state of another run is refused."""

import dataclasses
import logging

import pytest
import torch
from toy_corpus import VOCABULARY, counting_corpus, toy_model, toy_training
from transformers import GPT2Config, GPT2LMHeadModel

from experts.adapters import add_adapters
from experts.checkpoint import load_newest
from experts.device import choose
from training import execution
from training.plan import Mix, Plan, StateMismatch
from training.trainer import train
from training.trainer_state import saved_plan

MIX = Mix({"up": 0.7, "down": 0.3})


def run(model, folder, *, settings, plan, corpus=None, mix=MIX, stop_at=None, on_step=None):
    seen = []

    def note(facts):
        seen.append(facts.step)
        if on_step is not None:
            on_step(facts)

    return train(model, corpus=corpus or counting_corpus(), mix=mix, plan=plan, device=choose("cpu"), state_folder=folder, settings=settings,
                 on_step=note, should_stop=lambda: stop_at is not None and bool(seen) and seen[-1] >= stop_at)


def weights(model):
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def assert_same_end(folder, resumed_folder, *, trained, resumed, model, other):
    assert resumed.losses == trained.losses
    assert all(torch.equal(param, weights(other)[name]) for name, param in weights(model).items())
    states = [load_newest(place).tensors for place in (folder, resumed_folder)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert any(name.startswith("optimizer/") for name in states[0])


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_then_decay"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resume_after_half_the_steps_equals_the_straight_run(tmp_path, optimizer, schedule, accumulate):
    settings = toy_training(optimizer=optimizer, schedule=schedule, accumulate=accumulate)
    plan = Plan.from_settings(settings, steps=12, seed=3)
    straight, halved, other = toy_model(), toy_model(), toy_model(seed=9)
    trained = run(straight, tmp_path / "straight", settings=settings, plan=plan)
    first = run(halved, tmp_path / "halved", settings=settings, plan=plan, stop_at=6)
    assert (first.stopped, first.step, first.losses) == (True, 6, trained.losses[:6])
    torch.rand(5)  # whatever else drew numbers meanwhile
    resumed = run(other, tmp_path / "halved", settings=settings, plan=plan)  # other weights: all must come from the state
    assert_same_end(tmp_path / "straight", tmp_path / "halved", trained=trained, resumed=resumed, model=straight, other=other)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resume_of_a_model_with_dropout_equals_the_straight_run(tmp_path, precision):
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.2, embd_pdrop=0.2, attn_pdrop=0.2,
                        bos_token_id=0, eos_token_id=0)
    settings = toy_training(precision=precision)
    plan = Plan.from_settings(settings, steps=8, seed=3)
    torch.manual_seed(1)
    straight = GPT2LMHeadModel(config)
    start = torch.get_rng_state()
    halved = GPT2LMHeadModel(config)
    halved.load_state_dict(straight.state_dict())
    torch.set_rng_state(start)
    trained = run(straight, tmp_path / "straight", settings=settings, plan=plan)
    torch.set_rng_state(start)
    run(halved, tmp_path / "halved", settings=settings, plan=plan, stop_at=3)
    torch.rand(5)
    resumed = run(halved, tmp_path / "halved", settings=settings, plan=plan)
    assert_same_end(tmp_path / "straight", tmp_path / "halved", trained=trained, resumed=resumed, model=straight, other=halved)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_resume_with_compiled_layers_equals_the_straight_run(tmp_path, monkeypatch):
    """The second half is compiled anew, as in another process."""
    if not execution.can_compile(toy_model(), device=choose("cpu"), attention="documents"):
        pytest.skip("no C++ compiler here, or a torch that doesn't share a graph among layers")
    monkeypatch.setattr(execution, "_COMPILE_PAYS_AFTER_S", 0.0)
    monkeypatch.setattr(execution, "_fastest", lambda model, ways, **_: (ways[-1], 1.0))  # whatever is faster here: the compiled one
    settings = toy_training(compile="auto")
    plan = dataclasses.replace(Plan.from_settings(settings, steps=8, seed=3), dropout=0.2)
    straight, halved, other = toy_model(), toy_model(), toy_model(seed=9)
    torch.manual_seed(5)
    trained = run(straight, tmp_path / "straight", settings=settings, plan=plan)
    torch.manual_seed(5)
    run(halved, tmp_path / "halved", settings=settings, plan=plan, stop_at=4)
    torch.rand(5)  # whatever else drew numbers meanwhile
    torch.compiler.reset()
    monkeypatch.setattr(execution, "_compiled", {})
    resumed = run(other, tmp_path / "halved", settings=settings, plan=plan)
    assert (trained.compiled, resumed.compiled) == (True, True)
    assert_same_end(tmp_path / "straight", tmp_path / "halved", trained=trained, resumed=resumed, model=straight, other=other)


def test_resume_of_adapters_equals_the_straight_run(tmp_path):
    settings = toy_training(optimizer="adamw", lora_rank=2)
    plan = Plan.from_settings(settings, steps=8, seed=3)
    straight, halved, other = (add_adapters(toy_model(), rank=2, alpha=4.0, seed=seed, train_embeddings=False) for seed in (0, 0, 5))
    trained = run(straight, tmp_path / "straight", settings=settings, plan=plan)
    run(halved, tmp_path / "halved", settings=settings, plan=plan, stop_at=4)
    resumed = run(other, tmp_path / "halved", settings=settings, plan=plan)
    assert_same_end(tmp_path / "straight", tmp_path / "halved", trained=trained, resumed=resumed, model=straight, other=other)
    assert torch.equal(dict(straight.named_parameters())["model.embed_tokens.weight"], toy_model().model.embed_tokens.weight)  # frozen
    with pytest.raises(StateMismatch, match=r"settings\.lora_alpha was 32\.0, is 16\.0"):
        run(other, tmp_path / "halved", settings=toy_training(optimizer="adamw", lora_rank=2, lora_alpha=16.0), plan=plan)


@pytest.mark.filterwarnings("ignore:.torch.cpu.amp.autocast:FutureWarning")  # torch 2.4's own checkpoint
def test_resume_with_layers_computed_again_equals_the_straight_run_without(tmp_path):
    """Which activations are kept changes no number, so a resume may switch it on when memory ran out."""
    plan = Plan.from_settings(toy_training(), steps=8, seed=3)
    straight, halved = toy_model(), toy_model()
    trained = run(straight, tmp_path / "straight", settings=toy_training(), plan=plan)
    run(halved, tmp_path / "halved", settings=toy_training(gradient_checkpointing=True), plan=plan, stop_at=4)
    resumed = run(halved, tmp_path / "halved", settings=toy_training(gradient_checkpointing=True), plan=plan)
    assert resumed.losses == pytest.approx(trained.losses, rel=1e-4)  # torch 2.13: equal bits; 2.4 rounds otherwise, by 2e-5


def test_resume_after_a_crash_goes_on_from_the_last_saved_state(tmp_path):
    settings = toy_training(checkpoint_every_s=1e-9, checkpoints_keep=2)
    plan = Plan.from_settings(settings, steps=10, seed=3)
    straight, crashed = toy_model(), toy_model()
    trained = run(straight, tmp_path / "straight", settings=settings, plan=plan)

    def crash(facts):
        if facts.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(crashed, tmp_path / "crashed", settings=settings, plan=plan, on_step=crash)
    assert load_newest(tmp_path / "crashed").facts["step"] == 4
    resumed = run(crashed, tmp_path / "crashed", settings=settings, plan=plan)
    assert_same_end(tmp_path / "straight", tmp_path / "crashed", trained=trained, resumed=resumed, model=straight, other=crashed)
    assert len(list((tmp_path / "crashed").glob("state-*"))) == 2


def test_resume_keeps_validations_and_the_best_of_before(tmp_path):
    settings = toy_training(validate_every_steps=3)
    plan = Plan.from_settings(settings, steps=12, seed=3)
    straight = run(toy_model(), tmp_path / "straight", settings=settings, plan=plan)
    model = toy_model()
    run(model, tmp_path / "halved", settings=settings, plan=plan, stop_at=7)
    resumed = run(model, tmp_path / "halved", settings=settings, plan=plan)
    assert [one.step for one in resumed.validations] == [3, 6, 9, 12]
    assert [one.val_loss for one in resumed.validations] == [one.val_loss for one in straight.validations]
    assert resumed.best.val_loss == min(one.val_loss for one in straight.validations)


def test_finished_run_called_again_takes_no_step_and_restores_the_weights(tmp_path):
    settings = toy_training()
    plan = Plan.from_settings(settings, steps=3, seed=3)
    model, fresh = toy_model(), toy_model(seed=9)
    trained = run(model, tmp_path, settings=settings, plan=plan)
    again = run(fresh, tmp_path, settings=settings, plan=plan, on_step=lambda facts: pytest.fail("a step was taken"))
    assert (again.step, again.losses, again.stopped) == (3, trained.losses, False)
    assert all(torch.equal(param, weights(fresh)[name]) for name, param in weights(model).items())


@pytest.mark.parametrize(("changed", "words"), [
    ({"mix": Mix({"up": 1.0})}, r"mix\.down was 0\.3, is None; mix\.up was 0\.7, is 1\.0"),
    ({"settings": toy_training(batch_rows=4)}, r"settings\.batch_rows was 3, is 4"),
    ({"corpus": dataclasses.replace(counting_corpus(), fingerprint="other")}, "data was 'in memory', is 'other'"),
    ({"plan": Plan.from_settings(toy_training(), steps=7, seed=3)}, r"plan\.steps was 6, is 7"),
])
def test_resume_of_another_run_is_refused_with_each_difference(tmp_path, changed, words):
    wanted = {"settings": toy_training(), "plan": Plan.from_settings(toy_training(), steps=6, seed=3)}
    run(toy_model(), tmp_path, **wanted, stop_at=2)
    with pytest.raises(StateMismatch, match=f"belongs to another run: .*{words}.*delete that folder"):
        run(toy_model(), tmp_path, **{**wanted, **changed})


def test_resume_of_another_model_size_is_refused(tmp_path):
    settings = toy_training()
    plan = Plan.from_settings(settings, steps=6, seed=3)
    run(toy_model(layers=1), tmp_path, settings=settings, plan=plan, stop_at=2)
    with pytest.raises(StateMismatch, match=r"parameters\.model\.layers\.1\.[a-z_.]+ was None, is \["):
        run(toy_model(layers=2), tmp_path, settings=settings, plan=plan)


def test_resume_with_other_threads_is_done_and_said(tmp_path, caplog, monkeypatch):
    settings = toy_training()
    plan = Plan.from_settings(settings, steps=4, seed=3)
    model = toy_model()
    run(model, tmp_path, settings=settings, plan=plan, stop_at=2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with caplog.at_level(logging.WARNING):
        assert run(model, tmp_path, settings=settings, plan=plan).step == 4
    assert "not bit-exact: threads was 1, is 2" in caplog.text


def test_saved_plan_is_the_plan_of_the_run_and_none_before(tmp_path):
    plan = Plan.from_settings(toy_training(), steps=6, seed=3)
    assert saved_plan(tmp_path) is None
    run(toy_model(), tmp_path, settings=toy_training(), plan=plan, stop_at=1)
    assert saved_plan(tmp_path) == plan


def test_plan_with_dropout_trains_with_it_and_goes_on_with_it(tmp_path):
    settings = toy_training()
    plain = Plan.from_settings(settings, steps=6, seed=3)
    plan = dataclasses.replace(plain, dropout=0.3)
    straight, halved, without = toy_model(), toy_model(), toy_model()
    trained = run(straight, tmp_path / "straight", settings=settings, plan=plan)
    torch.rand(5)  # what the process drew before has no part in it, either
    run(halved, tmp_path / "halved", settings=settings, plan=plan, stop_at=3)
    torch.rand(5)
    assert saved_plan(tmp_path / "halved") == plan
    resumed = run(halved, tmp_path / "halved", settings=settings, plan=plan)
    assert_same_end(tmp_path / "straight", tmp_path / "halved", trained=trained, resumed=resumed, model=straight, other=halved)
    assert run(without, tmp_path / "without", settings=settings, plan=plain).losses[0] != pytest.approx(trained.losses[0], rel=1e-6)
    with pytest.raises(StateMismatch, match=r"plan\.dropout was 0\.3, is None"):
        run(halved, tmp_path / "straight", settings=settings, plan=plain)


def test_train_of_a_model_with_dropout_is_the_same_whether_the_way_was_measured_now_or_before(tmp_path, monkeypatch):
    """Timing a batch runs its dropout; the numbers it draws must not be missing from the training."""
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.2, bos_token_id=0, eos_token_id=0)
    settings = toy_training(precision="fp32")
    plan = Plan.from_settings(settings, steps=3, seed=3)
    torch.manual_seed(1)
    model = GPT2LMHeadModel(config)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    monkeypatch.setattr(execution, "_plain", {})
    losses = []
    for number in range(2):
        model.load_state_dict(start)
        torch.manual_seed(5)
        losses.append(run(model, tmp_path / str(number), settings=settings, plan=plan).losses)
    assert losses[0] == losses[1]
