"""The trainer itself under DirectML's rules, on a simulated card: only kernels that the card has, and the CPU's losses."""

import threading
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_card import CARD, SimulatedCard, transformers_fits
from toy_corpus import counting_corpus, toy_model, toy_training

from experts.device import RULES, Device, cpu_device
from training.plan import Mix, Plan, Trained
from training.trainer import train

pytestmark = transformers_fits


def trained(device: Device, folder: Path, *, optimizer: str) -> Trained:
    settings = toy_training(optimizer=optimizer, accumulate=2, validate_every_steps=2)
    return train(toy_model(), corpus=counting_corpus(), mix=Mix({"up": 0.5, "down": 0.5}), plan=Plan.from_settings(settings, steps=3, seed=3), device=device,
                 state_folder=folder, settings=settings, on_step=lambda facts: None, should_stop=lambda: False)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_train_under_directml_rules_needs_no_other_kernel_and_has_the_losses_of_the_cpu(tmp_path: Path, optimizer: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The operator .* will fall back", UserWarning)
        with SimulatedCard() as card:
            here = trained(Device("directml", "simulated", 0, "test", CARD, RULES["directml"]), tmp_path / "card", optimizer=optimizer)
    assert (card.fallbacks, card.wrong_types) == ({}, {})
    assert len(card.seen) > 30
    there = trained(cpu_device(), tmp_path / "cpu", optimizer=optimizer)
    assert here.losses == pytest.approx(there.losses, rel=2e-3 if optimizer == "muon" else 1e-4)  # the CPU's Muon multiplies in bfloat16
    assert [one.val_loss for one in here.validations] == pytest.approx([one.val_loss for one in there.validations], rel=2e-3)


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
