"""The gateway's engine under DirectML's rules, on a simulated card: only kernels that the card has, and the CPU's answers."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from read_stream import whole_answer
from simulated_card import CARD, SimulatedCard, transformers_fits
from toy_corpus import counting_corpus, toy_model, toy_training

from experts import tokenizer as tokens
from experts.architectures import build
from experts.device import RULES, Device, cpu_device
from experts.expert import Expert
from serving.engines.hub_forward import HubForward
from serving.engines.interface import EngineLimits, Sampling, Work
from serving.engines.lean_qwen3 import LeanQwen3
from serving.engines.passes import Forward, Rows
from serving.engines.torch_engine import TorchEngine, TorchModel
from settings import ModelSettings, TokenizerSettings
from training.plan import Mix, Plan
from training.trainer import train

pytestmark = transformers_fits
TINY = ModelSettings(layers=2, width=32, heads=4, kv_heads=2, intermediate=48, context_tokens=96)
LIMITS = EngineLimits(slots=3, prefill_tokens=48, loop_repeats=None)  # fewer slots than prompts, and one prompt longer than a turn
SAMPLINGS = [Sampling(), Sampling(temperature=0.8, top_p=0.9, seed=3), Sampling(temperature=1.0, top_k=20, seed=4),
             Sampling(temperature=0.7, min_p=0.05, repetition_penalty=1.2, seed=5), Sampling(repetition_penalty=1.3)]


def card_device(**changes: object) -> Device:
    return Device("directml", "simulated", 0, "test", CARD, replace(RULES["directml"], **changes))  # type: ignore[arg-type]


class Cards:
    """One card as several threads see it, because a torch mode belongs to one thread."""

    def __init__(self) -> None:
        self._all: list[SimulatedCard] = []

    @contextmanager
    def here(self) -> Iterator[SimulatedCard]:
        self._all.append(card := SimulatedCard())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The operator .* will fall back", UserWarning)
            with card:
                yield card

    def counted(self, what: str) -> Counter[str]:
        return sum((getattr(card, what) for card in self._all), Counter())


class CardEngine(TorchEngine):
    """The engine itself; its threads, too, see the card."""

    cards: Cards

    def _load(self, folder: Path, *, name: str) -> TorchModel:
        with self.cards.here():
            return super()._load(folder, name=name)

    def _run(self) -> None:
        with self.cards.here():
            super()._run()


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("version")
    Expert(loud_model(), tokens.train([], settings=TokenizerSettings(kind="byte")), device=cpu_device()).save(folder)
    return folder


def loud_model() -> torch.nn.Module:
    model = build(TINY, vocab_size=262, end_id=1, pad_id=0, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)  # answers that vary, with clear winners
    return model


def served(engine: TorchEngine, folder: Path) -> list[tuple[str, int, str]]:
    """Text, tokens and ending of five answers that the engine writes side by side."""
    model = engine.load(folder, name="math")
    try:
        streams = [model.submit(Work(model.encode([{"role": "user", "content": "What is 2? " * (1 + 2 * number)}])[-60:], 12, sampling, logprobs=2))
                   for number, sampling in enumerate(SAMPLINGS)]
        return [(text, end.completion_tokens, end.finish_reason) for text, end in map(whole_answer, streams)]
    finally:
        engine.close()


def served_on_card(folder: Path, **changes: object) -> tuple[list[tuple[str, int, str]], Cards]:
    cards = Cards()
    engine = CardEngine(card_device(**changes), limits=LIMITS)
    engine.cards = cards
    with cards.here():
        return served(engine, folder), cards


def stepped(forward: Forward, texts: Sequence[list[int]]) -> torch.Tensor:
    """Logits after a joint prefill and two joint steps at uneven offsets."""
    slots, width = forward.new_slots(len(texts)), max(map(len, texts))
    with torch.no_grad():
        found = [forward.logits(Rows(0, [text + [0] * (width - len(text)) for text in texts], [0] * len(texts), [len(text) - 1 for text in texts]), slots)]
        for step in range(2):
            found.append(forward.logits(Rows(0, [[7 + step]] * len(texts), [len(text) + step for text in texts], [0] * len(texts)), slots))
    return torch.stack(found)


def test_engine_under_directml_rules_needs_no_other_kernel_and_answers_as_on_the_cpu(version: Path) -> None:
    answers, cards = served_on_card(version)
    assert (cards.counted("fallbacks"), cards.counted("wrong_types")) == ({}, {})
    assert {"mm", "_softmax", "embedding", "rsqrt"} <= set(cards.counted("seen"))
    assert answers == served(TorchEngine(cpu_device(), limits=LIMITS), version)
    assert len({text for text, _, _ in answers}) > 2


@pytest.mark.parametrize("kind", [LeanQwen3, HubForward])
def test_forward_under_directml_rules_needs_no_other_kernel_and_equals_the_cpu(kind: type[LeanQwen3] | type[HubForward]) -> None:
    texts = [list(range(5, 5 + length)) for length in (4, 11, 7)]
    with Cards().here() as card:
        found = stepped(kind(loud_model(), device=card_device()), texts)
    assert (card.fallbacks, card.wrong_types) == ({}, {})
    torch.testing.assert_close(found, stepped(kind(loud_model(), device=cpu_device()), texts), rtol=1e-3, atol=1e-3)


def test_forward_under_directml_rules_writes_its_cache_by_slices_alone() -> None:
    texts = [list(range(5, 5 + length)) for length in (4, 11, 7)]
    seen = []
    for changes in ({}, {"cache_writes": "index"}):
        with Cards().here() as card:
            stepped(LeanQwen3(loud_model(), device=card_device(**changes)), texts)
        seen.append({name for name in card.seen if "index_put" in name})
    assert seen == [set(), {"_index_put_impl_"}]


def test_engine_holds_the_turn_of_a_device_that_lets_one_thread_in(version: Path) -> None:
    device = replace(cpu_device(), kind="directml", index=7, rules=RULES["directml"])
    engine = TorchEngine(device, limits=LIMITS)
    model = engine.load(version, name="math")
    try:
        with device.turn():
            stream = model.submit(Work(model.encode([{"role": "user", "content": "What?"}]), 4))
            assert stream.next(timeout_s=0.5) is None
        assert stream.next(timeout_s=60) is not None
    finally:
        engine.close()


def test_distinct_operations_of_training_exam_and_engine_are_all_on_the_list(version: Path, tmp_path: Path) -> None:
    _, cards = served_on_card(version)
    settings = toy_training(optimizer="muon", accumulate=2, validate_every_steps=2)
    with cards.here():
        train(toy_model(), corpus=counting_corpus(), mix=Mix({"up": 0.5, "down": 0.5}), plan=Plan.from_settings(settings, steps=3, seed=3),
              device=card_device(), state_folder=tmp_path, settings=settings, on_step=lambda facts: None, should_stop=lambda: False)
    with cards.here():
        expert = Expert.load(version, device=card_device())
        talks: list[list[tokens.Message]] = [[{"role": "user", "content": "What is 2?" * count}] for count in (1, 3)]
        expert.generate(talks, max_new_tokens=8, temperature=0.8, top_p=0.9, seed=3)
        expert.log_likelihood([(talk, "It is 2.") for talk in talks])
    assert cards.counted("fallbacks") == {}
    seen = cards.counted("seen")
    print(f"\n{len(seen)} distinct operations, {seen.total()} calls, with torch {torch.__version__}: {' '.join(sorted(seen))}")
    assert 50 <= len(seen) <= 120
