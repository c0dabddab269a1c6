"""On a real card (`-m gpu`, `-m directml`): the self-test, training, the exam, the engine and one cycle of the loop give what the CPU gives."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from read_stream import whole_answer
from toy_corpus import counting_corpus, toy_model, toy_training

from experts import tokenizer as tokens
from experts.architectures import build
from experts.device import Device, DeviceError, choose, cpu_device, trial_report
from experts.expert import Expert
from experts.journal import Journal
from experts.registry import Registry
from serving.engines.interface import EngineLimits, Work
from serving.engines.torch_engine import TorchEngine
from settings import HOME, ModelSettings, TokenizerSettings
from training.plan import Mix, Plan, Trained
from training.trainer import train

TINY = ModelSettings(layers=2, width=32, heads=4, kv_heads=2, intermediate=48, context_tokens=96)
TALKS: list[list[tokens.Message]] = [[{"role": "user", "content": "What is 2? " * count}] for count in (1, 3, 5)]


@pytest.fixture(scope="module", params=[pytest.param("cuda", marks=pytest.mark.gpu), pytest.param("directml", marks=pytest.mark.directml)])
def card(request: pytest.FixtureRequest) -> Device:
    """The card of this machine; a machine without one skips and says what choose() said."""
    try:
        return choose(request.param)
    except DeviceError as error:
        pytest.skip(str(error))


def loud_expert(device: Device) -> Expert:
    model = build(TINY, vocab_size=262, end_id=1, pad_id=0, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)  # answers that vary, with clear winners
    return Expert(model, tokens.train([], settings=TokenizerSettings(kind="byte")), device=device)


def trained(device: Device, folder: Path, *, precision: str) -> Trained:
    settings = toy_training(accumulate=2, validate_every_steps=10, precision=precision)
    return train(toy_model(), corpus=counting_corpus(), mix=Mix({"up": 0.5, "down": 0.5}), plan=Plan.from_settings(settings, steps=20, seed=3), device=device,
                 state_folder=folder, settings=settings, on_step=lambda facts: None, should_stop=lambda: False)


def test_card_passes_the_self_test_in_its_own_process(card: Device) -> None:
    report = trial_report(card.wanted)
    assert report["failures"] == []
    assert report["train_tokens_per_s"] > 0


def test_card_trains_with_the_losses_of_the_cpu(card: Device, tmp_path: Path) -> None:
    here, there = (trained(device, tmp_path / device.kind, precision="fp32") for device in (card, cpu_device()))
    assert here.losses == pytest.approx(there.losses, rel=1e-2)
    assert here.validations[-1].val_loss == pytest.approx(there.validations[-1].val_loss, rel=1e-2)


def test_card_in_its_own_precision_learns(card: Device, tmp_path: Path) -> None:
    losses = trained(card, tmp_path, precision="auto").losses
    assert losses[-1] < 0.9 * losses[0]


def test_card_answers_and_measures_as_the_cpu(card: Device) -> None:
    here, there = loud_expert(card), loud_expert(cpu_device())
    assert here.generate(TALKS, max_new_tokens=16) == there.generate(TALKS, max_new_tokens=16)
    pairs = [(talk, "It is 2.") for talk in TALKS]
    assert [item.nats for item in here.log_likelihood(pairs)] == pytest.approx([item.nats for item in there.log_likelihood(pairs)], rel=1e-3)


def test_engine_on_the_card_writes_side_by_side_what_it_writes_on_the_cpu(card: Device, tmp_path: Path) -> None:
    loud_expert(cpu_device()).save(tmp_path / "version")

    def texts(device: Device) -> list[str]:
        engine = TorchEngine(device, limits=EngineLimits(slots=2, prefill_tokens=48, loop_repeats=None))
        try:
            model = engine.load(tmp_path / "version", name="math")
            streams = [model.submit(Work(model.encode(talk)[-60:], 12)) for talk in TALKS]
            return [whole_answer(stream)[0] for stream in streams]
        finally:
            engine.close()

    assert texts(card) == texts(cpu_device())


def test_loop_does_one_cycle_on_the_card_and_promotes(card: Device, tmp_path: Path, records_folder: Path, toy_overrides: list[str]) -> None:
    run = tmp_path / "run"
    command = [sys.executable, str(HOME / "continuous_loop.py"), "--run", str(run), "--data", str(records_folder), "--quiet", "--no-serve", "--cycles", "1",
               f"--set=run.device={card.wanted}", *(f"--set={override}" for override in toy_overrides)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    with Journal(run / "journal.db", read_only=True) as journal:
        (started,) = journal.events(kind="loop_started")
    assert started.facts["device"] == f"{card.wanted} ({card.name})"
    assert Registry(run).pointer().version("generalist") is not None
