"""The trainer itself under DirectML's rules, on a simulated card: only kernels that the card has, and the CPU's losses."""

import threading
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from simulated_card import CARD, SimulatedCard, transformers_fits
from toy_corpus import VOCABULARY, counting_corpus, toy_model, toy_training
from transformers import PreTrainedModel

from experts.architectures import build
from experts.checkpoint import load_newest
from experts.device import RULES, Device, cpu_device
from experts.moe.control import attach
from settings import ModelSettings, MoeSettings
from training import execution
from training.plan import Mix, Plan, Trained
from training.trainer import train

pytestmark = transformers_fits


def routed_model() -> PreTrainedModel:
    """Four experts, two a token, with everything that training adds."""
    shape = ModelSettings(architecture="qwen3_moe", layers=2, width=16, heads=4, kv_heads=2, intermediate=16, context_tokens=64, experts=4, top_k=2,
                          normalize_top_k=True, head_gate=True, choice_bias=True)
    model = build(shape, vocab_size=VOCABULARY, end_id=0, pad_id=1, seed=0)
    attach(model, MoeSettings(noise_std=0.5, temperature=2.0, capacity_factor=1.2, dropout=0.1, health_every_steps=2))
    return model


def trained(device: Device, folder: Path, *, optimizer: str, model: PreTrainedModel | None = None, stop_after: int = 3) -> Trained:
    seen: list[int] = []
    settings = toy_training(optimizer=optimizer, accumulate=2, validate_every_steps=2)
    torch.manual_seed(4)  # of a router's noise and dropout
    return train(model or toy_model(), corpus=counting_corpus(), mix=Mix({"up": 0.5, "down": 0.5}), plan=Plan.from_settings(settings, steps=3, seed=3),
                 device=device, state_folder=folder, settings=settings, on_step=lambda facts: seen.append(facts.step),
                 should_stop=lambda: len(seen) >= stop_after)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_train_under_directml_rules_needs_no_other_kernel_and_has_the_losses_of_the_cpu(tmp_path: Path, optimizer: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The operator .* will fall back", UserWarning)
        with SimulatedCard() as card:
            here = trained(Device("directml", "simulated", 0, "test", CARD, RULES["directml"]), tmp_path / "card", optimizer=optimizer)
    assert (card.fallbacks, card.wrong_types) == ({}, {})
    assert len(card.seen) > 30
    there = trained(cpu_device(), tmp_path / "cpu", optimizer=optimizer)
    assert here.losses == pytest.approx(there.losses, rel=2e-3 if optimizer == "muon" else 1e-4)  # the CPU's Muon may multiply in bfloat16
    assert [one.val_loss for one in here.validations] == pytest.approx([one.val_loss for one in there.validations], rel=2e-3)


def test_train_of_a_routed_model_under_directml_rules_needs_no_other_kernel_and_has_the_losses_of_the_cpu(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The operator .* will fall back", UserWarning)
        with SimulatedCard() as card:
            here = trained(Device("directml", "simulated", 0, "test", CARD, RULES["directml"]), tmp_path / "card", optimizer="adamw", model=routed_model())
    assert (card.fallbacks, card.wrong_types) == ({}, {})
    assert {"topk", "sort.stable", "exponential_", "scatter_add_"} <= set(card.seen)
    there = trained(cpu_device(), tmp_path / "cpu", optimizer="adamw", model=routed_model())
    assert here.losses == pytest.approx(there.losses, rel=1e-4)
    assert [one.val_loss for one in here.validations] == pytest.approx([one.val_loss for one in there.validations], rel=1e-4)


def test_train_resumed_on_the_card_from_a_state_of_another_device_makes_no_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_multiplies_bf16", lambda place: True)
    trained(cpu_device(), tmp_path, optimizer="muon", stop_after=1)
    facts = load_newest(tmp_path)
    assert facts is not None
    assert facts.facts["execution"]["muon_bf16"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The operator .* will fall back", UserWarning)
        with SimulatedCard() as card:
            assert trained(Device("directml", "simulated", 0, "test", CARD, RULES["directml"]), tmp_path, optimizer="muon").step == 3
    assert card.wrong_types == {}


def test_train_takes_turns_with_other_threads_on_a_device_that_lets_one_in(tmp_path: Path) -> None:
    device = replace(cpu_device(), kind="directml", index=8, rules=RULES["directml"])
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        trained(device, tmp_path, optimizer="adamw")
        done.set()

    with device.turn():
        thread = threading.Thread(target=work)
        thread.start()
        assert begun.wait(30)
        assert not done.wait(1)
        assert not any(tmp_path.iterdir())
    thread.join(60)
    assert done.is_set()


@pytest.mark.parametrize(("change", "fallbacks", "wrong_types"), [
    ({"silu_form": "native"}, {"silu_backward"}, set()),
    ({"bf16": True}, set(), {"torch.bfloat16"})])
def test_train_without_one_of_the_rules_names_what_the_card_lacks(
        tmp_path: Path, change: dict[str, object], fallbacks: set[str], wrong_types: set[str]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The operator .* will fall back", UserWarning)
        with SimulatedCard() as card:
            trained(Device("directml", "simulated", 0, "test", CARD, replace(RULES["directml"], **change)), tmp_path, optimizer="muon")
    assert (set(card.fallbacks), set(card.wrong_types)) == (fallbacks, wrong_types)
