"""Schedules, losses beside the main one, readings, bias balancing and auto-heal of a routed model; what is written down and reported."""

import copy
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from toy_corpus import VOCABULARY, counting_corpus, toy_training

import settings
from experts.architectures import build
from experts.device import choose
from experts.device_rules import RULES
from experts.extras import PackageMissing
from experts.journal import Journal
from experts.moe.__main__ import main
from experts.moe.block import expert_parameters, router_parameters
from experts.moe.control import attach, control_of
from experts.moe.recorder import HealthRecorder, readings_of
from settings import ModelSettings, MoeSettings, Settings, SettingsError
from training.optim import BatchedMuon, Optimizers
from training.plan import Mix, Plan
from training.trainer import train


def model(**parts):
    shape = {"layers": 2, "width": 16, "heads": 4, "kv_heads": 2, "intermediate": 16, "context_tokens": 64, "experts": 4}
    return build(ModelSettings(architecture="qwen3_moe", **shape, **parts), vocab_size=VOCABULARY, end_id=0, pad_id=1, seed=0)


def trained(made, folder, *, steps, seen=None, stop_after=None, **changes):
    toy = toy_training(validate_every_steps=10, **changes)
    seen = [] if seen is None else seen
    return train(made, corpus=counting_corpus(), mix=Mix({"up": 1.0}), plan=Plan.from_settings(toy, steps=steps, seed=0), device=choose("cpu"),
                 state_folder=folder, settings=toy, on_step=seen.append, should_stop=lambda: stop_after is not None and len(seen) >= stop_after)


def test_dials_follow_the_schedule_in_a_straight_line():
    control = attach(model(), MoeSettings(temperature=2.2, final_temperature=1.2, noise_std=0.8, anneal_steps=100))
    seen = []
    for step in (1, 51, 101, 500):
        control.begin_step(step)
        seen.append((control.dials.temperature, control.dials.noise_std))
    assert [value for pair in seen for value in pair] == pytest.approx([2.2, 0.8, 1.7, 0.4, 1.2, 0.0, 1.2, 0.0])


def test_cost_is_the_weighted_losses_summed_over_layers():
    made = model().train()
    control = attach(made, MoeSettings(balance_weight=0.5, z_weight=0.25))
    made(torch.arange(20)[None], use_cache=False)
    blocks = [layer.mlp for layer in made.model.layers]
    wanted = sum(0.5 * float(block.balance.detach()) + 0.25 * float(block.z.detach()) for block in blocks)
    assert float(control.cost().detach()) == pytest.approx(wanted)
    control.cost().backward()
    assert all(float(block.gate.weight.grad.abs().sum()) > 0 for block in blocks)


def test_places_without_a_token_count_neither_in_tallies_nor_in_losses():
    made = model().train()
    control = attach(made, MoeSettings())
    ids = torch.arange(20)[None]
    control.begin_batch(torch.arange(20)[None] < 15)
    made(ids, use_cache=False)
    block = made.model.layers[0].mlp
    assert (float(block.demand_E.sum()), float(block.sums[0])) == (15, 15)
    balance = float(block.balance.detach())
    control.begin_batch(None)
    made(ids[:, :15], use_cache=False)
    assert float(made.model.layers[0].mlp.balance.detach()) == pytest.approx(balance)


def test_training_gives_a_reading_every_few_steps_that_counts_every_token(tmp_path):
    made, seen = model(), []
    attach(made, MoeSettings(health_every_steps=4))
    trained(made, tmp_path, steps=10, seen=seen)
    readings = [facts.routing for facts in seen if facts.routing is not None]
    assert [reading.step for reading in readings] == [4, 8]
    assert sum(readings[0].metrics[f"router/frac_dem_e{expert}"] for expert in range(4)) == pytest.approx(1.0)
    assert float(made.model.layers[0].mlp.sums[0]) == seen[-1].tokens - seen[7].tokens  # the window that began at step 9


def test_trained_routed_model_can_be_copied_as_a_merge_of_adapters_does(tmp_path):
    made = model()
    attach(made, MoeSettings())
    trained(made, tmp_path, steps=1)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(copy.deepcopy(made)(ids).logits, made(ids).logits)


def test_main_loss_of_training_is_without_the_losses_beside_it(tmp_path):
    losses = []
    for weight in (0.0, 50.0):
        made = model()
        attach(made, MoeSettings(balance_weight=weight, z_weight=0.0))
        losses.append(trained(made, tmp_path / str(weight), steps=1).losses[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_resumed_training_of_a_routed_model_takes_the_same_steps(tmp_path):
    dials = MoeSettings(noise_std=0.7, anneal_steps=30, dropout=0.1, health_every_steps=4)
    whole = model(choice_bias=True)
    attach(whole, dials)
    torch.manual_seed(5)
    wanted = trained(whole, tmp_path / "whole", steps=12)
    for stop in (6, None):
        torch.manual_seed(5 if stop else 77)  # what the process drew before a resume doesn't matter
        parts = model(choice_bias=True)
        attach(parts, dials)
        seen = []
        got = trained(parts, tmp_path / "parts", steps=12, seen=seen, stop_after=stop)
    assert got.losses == wanted.losses
    for (name, ours), (_, theirs) in zip(parts.state_dict().items(), whole.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    assert [facts.routing.step for facts in seen if facts.routing] == [8, 12]


def test_choice_bias_moves_against_the_load_and_carries_no_gradient(tmp_path):
    made = model(choice_bias=True)
    attach(made, MoeSettings(bias_rate=0.01, balance_weight=0.0, z_weight=0.0))
    trained(made, tmp_path, steps=1)
    block = made.model.layers[0].mlp
    moved = 0.01 * torch.sign(block.step_demand_E.mean() - block.step_demand_E)
    torch.testing.assert_close(block.choice_bias, moved)
    assert float(block.choice_bias.abs().max()) > 0


def crowd(made):
    """Routers that send every token to expert 0."""
    with torch.no_grad():
        for one in made.model.layers:
            one.mlp.gate.weight.zero_()
            one.post_attention_layernorm.weight.zero_()  # the router sees nothing, ties go to one expert
    return made


def test_auto_heal_raises_the_balance_weight_after_a_sustained_alarm_and_says_so(caplog):
    control = attach(crowd(model()), MoeSettings(balance_weight=0.02, auto_heal=True, sustained_readings=2, health_every_steps=1))
    blocks = control._blocks
    healed = []
    for step in range(1, 5):
        control.begin_step(step)
        for block in blocks:
            block.demand_E += torch.tensor([100.0, 0, 0, 0])
            block.served_E += torch.tensor([100.0, 0, 0, 0])
            block.sums += torch.tensor([100.0, 30.0, 130.0, 3.0, 1.0])
        healed.append(control.end_step(step, clipped=0).healed)
    assert healed == [(), ("moe.balance_weight x 1.5",), (), ("moe.balance_weight x 2.25",)]
    control.begin_step(5)
    assert control.dials.balance_weight == pytest.approx(0.02 * 2.25)
    assert "step 2: router alarm for 2 readings, raised: moe.balance_weight x 1.5" in caplog.text


def test_auto_heal_raises_the_temperature_of_a_sharp_router():
    control = attach(model(), MoeSettings(auto_heal=True, sustained_readings=1, health_every_steps=1))
    for block in control._blocks:
        block.demand_E += 25.0
        block.served_E += 25.0
        block.sums += torch.tensor([100.0, 95.0, 5.0, 1.0, 1.0])
    assert control.end_step(1, clipped=0).healed == ("moe.temperature x 1.25",)


def test_nothing_is_healed_unless_told_to():
    control = attach(model(), MoeSettings(sustained_readings=1, health_every_steps=1))
    for block in control._blocks:
        block.demand_E += torch.tensor([100.0, 0, 0, 0])
        block.served_E += torch.tensor([100.0, 0, 0, 0])
    assert control.end_step(1, clipped=0).healed == ()
    control.begin_step(2)
    assert control.dials.balance_weight == MoeSettings().balance_weight


def test_muon_takes_experts_slice_by_slice_with_gate_and_up_apart():
    made = model()
    attach(made, MoeSettings())
    optimizers = Optimizers(made, settings=toy_training(optimizer="muon"), rules=RULES["cpu"])
    in_muon = {param for group in optimizers.muon.param_groups for param in group["params"]}
    gate_up, down = expert_parameters(made)
    assert gate_up | down <= in_muon
    assert all(param in in_muon for name, param in made.named_parameters() if ".experts." in name)
    assert not router_parameters(made) & in_muon
    stack, apart = nn.Parameter(torch.zeros(2, 8, 6)), [nn.Parameter(torch.zeros(4, 6)) for _ in range(4)]
    stack.grad = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0))
    for param, grad in zip(apart, stack.grad.view(4, 4, 6), strict=True):
        param.grad = grad.clone()
    BatchedMuon([stack], lr=0.1, weight_decay=0.0, pairs=[stack]).step()
    BatchedMuon(apart, lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(stack.detach().view(4, 4, 6), torch.stack([param.detach() for param in apart]))


def written(tmp_path, *, overrides=(), steps=12, **dials):
    chosen = settings.load(overrides=overrides)
    made = model()
    attach(made, MoeSettings(health_every_steps=4, **dials))
    with Journal(tmp_path / "journal.db") as journal, HealthRecorder(journal, node="text", settings=chosen.moe) as health:
        seen = []
        trained(made, tmp_path / "states", steps=steps, seen=seen)
        for facts in seen:
            if facts.routing is not None:
                health.write(facts.routing)
    return [facts.routing for facts in seen if facts.routing]


def test_recorder_keeps_readings_in_the_journal_and_later_ones_of_a_step_count(tmp_path):
    readings = written(tmp_path)
    with Journal(tmp_path / "journal.db") as journal:
        assert readings_of(journal)["text"] == readings
        HealthRecorder(journal, node="text", settings=MoeSettings()).write(readings[0])  # back to step 4, and again from there
        assert [reading.step for reading in readings_of(journal)["text"]] == [4]


def test_recorder_sends_readings_to_weights_and_biases_where_asked(tmp_path, monkeypatch):
    sent, ended = [], []
    run = SimpleNamespace(log=lambda metrics, step: sent.append((step, metrics["router/collapsed"])), finish=lambda: ended.append(True))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda project, name: run))
    written(tmp_path, overrides=["moe.wandb_project=routers"], steps=8)
    assert sent == [(4, 0.0), (8, 0.0)]
    assert ended == [True]


def test_recorder_refuses_weights_and_biases_that_are_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(PackageMissing, match=r"moe.wandb_project = 'routers' needs the package wandb.*pip install wandb, or unset it"):
        written(tmp_path, overrides=["moe.wandb_project=routers"])


def test_report_prints_every_metric_with_range_verdict_and_lever_and_writes_json(tmp_path, capsys):
    written(tmp_path, steps=12)
    code = main(["report", str(tmp_path), "--json", str(tmp_path / "report.json")])
    printed, (found,) = capsys.readouterr().out, json.loads((tmp_path / "report.json").read_text())
    by_name = {row["name"]: row for row in found["metrics"]}
    for name in ("top1_p_mean", "max_frac_mean", "max_frac_max", "frac_dem_max", "frac_srv_max", "frac_dem_e3", "frac_srv_e0", "entropy_mean", "aux_mean",
                 "active_min", "drop_frac_mean", "collapsed"):
        assert f"router/{name} " in printed
        assert f"router/{name}" in by_name
    assert "grad/clipped_cum" in printed
    assert by_name["router/active_min"]["healthy"] == "4 or 3"
    assert (found["node"], found["step"], found["experts"], found["stage"], len(found["by_layer"])) == ("text", 12, 4, "exploring", 2)
    assert f"verdict: {found['verdict']}" in printed
    assert code == (found["verdict"] == "alarm")


def test_report_of_a_collapsed_router_says_so_and_ends_with_one(tmp_path, capsys):
    control = attach(model(), MoeSettings(health_every_steps=1))
    with Journal(tmp_path / "journal.db") as journal:
        health = HealthRecorder(journal, node="text", settings=MoeSettings())
        for step in (1, 2, 3):
            control.begin_step(step)
            for block in control._blocks:
                block.demand_E += torch.tensor([97.0, 3.0, 0, 0])
                block.served_E += torch.tensor([97.0, 3.0, 0, 0])
                block.sums += torch.tensor([100.0, 90.0, 30.0, 3.4, 1.0])
            health.write(control.end_step(step, clipped=0))
    assert main(["report", str(tmp_path)]) == 1
    assert "verdict: alarm, collapsed in 3 of 3 readings" in capsys.readouterr().out


@pytest.mark.parametrize("make", [False, True])
def test_report_of_nothing_says_what_to_do(tmp_path, make, capsys):
    folder = tmp_path / "run"
    if make:
        folder.mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["report", str(folder)])
    assert ended.value.code == 2
    assert ("no readings of a router" if make else "no folder") in capsys.readouterr().err


@pytest.mark.parametrize(("overrides", "message"), [
    (("model.experts=4", "model.top_k=5"), "model.top_k = 5 is more than model.experts = 4"),
    (("model.experts=1",), "model.experts = 1: input should be greater than or equal to 2"),
    (("moe.capacity_factor=0",), "moe.capacity_factor = 0: input should be greater than 0"),
    (("moe.capacity_factor=-1.5",), "moe.capacity_factor = -1.5: input should be greater than 0"),
    (("model.width=100", "model.heads=8"), "model.width = 100 isn't a multiple of model.heads = 8"),
    (("model.normalize_top_k=true",), "the router learns nothing"),
    (("moe.temperature=1.0", "moe.final_temperature=2.0"), "moe.final_temperature = 2.0 is more than moe.temperature = 1.0"),
])
def test_settings_that_do_not_fit_are_refused_with_the_numbers(overrides, message):
    with pytest.raises(SettingsError, match=message):
        settings.load(overrides=["model.architecture=qwen3_moe", *overrides])


def test_parts_of_routed_models_are_refused_for_others():
    with pytest.raises(SettingsError, match="parts of architecture qwen3_moe, not of 'qwen3'"):
        settings.load(overrides=["model.head_gate=true"])


def test_control_is_found_on_its_model_alone():
    made = model()
    assert control_of(made) is None
    assert attach(made, Settings().moe) is control_of(made)
