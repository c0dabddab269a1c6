"""Models that must never be served sit the real exam and are refused: one that memorised, one that loops, one that always says yes, one with random weights.

The question is whether a number is odd; the exam's numbers occur in no training row. The served model has learnt the rule. Each is refused a second
time where bits per byte have no ceiling: by its accuracy alone.
"""

import math
import random
from dataclasses import replace

import pytest
from toy_corpus import MemoryCorpus, shard_of, toy_training

from data_prep import curriculum, pack
from data_prep.clean import clean
from data_prep.records import Example, content_key
from experts import tokenizer as tokenizers
from experts.architectures import build
from experts.device import cpu_device
from experts.expert import Answer, Expert, LogLikelihood
from settings import DataSettings, DecodingSettings, ExamSettings, ModelSettings, PromoteSettings, Settings, TokenizerSettings
from training.exam import Exam, chance_bits_per_byte, examine, goes_in_circles
from training.examiner import sit
from training.plan import Mix, Plan
from training.promote import decide
from training.trainer import train

SETTINGS = ExamSettings(tasks=60, root_tasks=60, bits_rows=40, max_new_tokens=12, batch_rows=32)
PROMOTE = PromoteSettings()
DECODING = DecodingSettings()


def _row(number, *, response=None):
    truth = "yes" if number % 2 else "no"
    prompt = f"Is {number} odd?"
    return Example("logic", prompt, response or truth, "strategyqa", content_key("logic", prompt, response or truth), {"answer": truth})


NUMBERS = random.Random(7).sample(range(100, 10_000), 1000)
TASKS, HELD_OUT, LESSONS = ([_row(number) for number in part] for part in (NUMBERS[:60], NUMBERS[60:100], NUMBERS[100:]))
EXAM = Exam({"logic": TASKS}, {"logic": HELD_OUT})


@pytest.fixture(scope="module")
def words():
    """A tokenizer of bytes."""
    return tokenizers.train([row.prompt for row in LESSONS], settings=TokenizerSettings(kind="byte"))


@pytest.fixture(scope="module")
def taught(words, tmp_path_factory):
    """A function: the expert that comes out of training on some rows, from new weights."""
    def teach(rows, *, steps, seed=0):
        model = _new_model(words, seed=seed)
        shard = shard_of([(document.tokens, document.answer_start) for document in pack.documents(rows, tokenizer=words, max_tokens=64)])
        corpus = MemoryCorpus({("logic", "train"): shard, ("logic", "validation"): shard})
        settings = toy_training(row_tokens=64, batch_rows=16)
        trained = train(model, corpus=corpus, mix=Mix({"logic": 1.0}), plan=Plan.from_settings(settings, steps=steps, seed=0), device=cpu_device(),
                        state_folder=tmp_path_factory.mktemp("state"), settings=settings, on_step=lambda facts: None, should_stop=lambda: False)
        return Expert(model, words, device=cpu_device()), trained
    return teach


def _new_model(words, *, seed, context_tokens=64):
    settings = ModelSettings(layers=2, width=32, heads=4, kv_heads=2, intermediate=64, context_tokens=context_tokens)
    return build(settings, vocab_size=len(words), end_id=tokenizers.end_id(words), pad_id=tokenizers.pad_id(words), seed=seed)


@pytest.fixture(scope="module")
def served(taught):
    """The served version's scorecard: it learnt the rule from 900 rows."""
    expert, _ = taught(LESSONS, steps=150)
    return examine(expert, EXAM, settings=SETTINGS, decoding=DECODING, circles=goes_in_circles(expert, EXAM, settings=SETTINGS))


def _verdict(expert, served):
    card, _ = sit(expert, EXAM, settings=Settings().model_copy(update={"exam": SETTINGS}))
    return card, decide(card, served, settings=PROMOTE, seed=0)


def _is_refused_for_its_accuracy(card, served):
    decision = decide(card, served, settings=PromoteSettings(bits_ceiling=1e9, loop_rate_max=1.0), seed=0)
    figures = f"accuracy {served.accuracy:.1%} -> {card.accuracy:.1%}, "
    return not decision.promote and decision.reason.startswith(f"refused: {figures}") and "; worse with 100.0% of the resamples" in decision.reason


def test_served_model_has_learnt_the_rule(served):
    assert served.accuracy >= 0.95
    assert served.loop_rate == 0.0


def test_model_that_memorised_its_rows_is_refused(taught, served):
    """Its own rows, which end in two digits only, cost it under 0.02 nats a token (perplexity 1.02), and that earns it nothing."""
    expert, trained = taught([_row(number) for number in NUMBERS[100:] if number % 10 in (1, 2)][:16], steps=200)
    assert trained.losses[-1] < 0.02
    card, decision = _verdict(expert, served)
    assert card.accuracy < 0.9
    assert not decision.promote
    assert _is_refused_for_its_accuracy(card, served)


def test_model_that_loops_is_refused_for_its_loop_rate(taught, served):
    """Its answers begin right and go on for ever, so accuracy alone would let it pass."""
    rows = [_row(number, response=". ".join(["yes" if number % 2 else "no"] * 16)) for number in NUMBERS[100:]]
    card, decision = _verdict(taught(rows, steps=150)[0], served)
    assert card.loop_rate > 0.9
    assert card.accuracy >= 0.95
    assert not decision.promote
    assert "loop rate" in decision.reason


def test_model_that_always_says_yes_is_refused(taught, served):
    """Half the exam's answers are yes: half right, in fluent English, and worse than what is served."""
    rows = [_row(number, response="yes") for number in NUMBERS[100:]]
    card, decision = _verdict(taught(rows, steps=60)[0], served)
    odd = sum(row.meta["answer"] == "yes" for row in TASKS) / len(TASKS)
    assert card.accuracy == pytest.approx(odd)
    assert not decision.promote
    assert _is_refused_for_its_accuracy(card, served)


def test_model_with_random_weights_is_refused(words, served):
    card, decision = _verdict(Expert(_new_model(words, seed=3), words, device=cpu_device()), served)
    assert card.accuracy == 0.0
    assert not decision.promote
    assert _is_refused_for_its_accuracy(card, served)


class Knowing:
    """Answers every row as it stands in the records, at half a bit a byte."""

    def __init__(self, rows):
        self.responses = {row.prompt: row.response for row in rows}

    def generate(self, conversations, **others):
        return [Answer(self.responses[messages[-1]["content"]], (), "stop", 0) for messages in conversations]

    def log_likelihood(self, pairs, **others):
        sizes = [len(response.encode()) for _, response in pairs]
        return [LogLikelihood(0.5 * math.log(2) * size, size, size) for size in sizes]


def test_models_are_refused_for_their_accuracy_in_the_exam_of_the_curriculum(words):
    """Reasoning's own exam, its graders, random weights, and one that says yes whatever it is asked: some of its tasks want that."""
    rows = clean(curriculum.make_exam("reasoning", count=60), settings=DataSettings(), loosely=False).examples
    exam = Exam({"reasoning": rows}, {"reasoning": rows[:5]})
    rules = Settings().model_copy(update={"exam": SETTINGS})
    served, _ = sit(Knowing(rows), exam, settings=rules)
    assert served.accuracy == 1.0
    nobody, _ = sit(Expert(_new_model(words, seed=3, context_tokens=256), words, device=cpu_device()), exam, settings=rules)
    yes, _ = sit(Knowing([replace(row, response="#### yes") for row in rows]), exam, settings=rules)
    assert nobody.accuracy == 0.0
    assert 0.0 < yes.accuracy < 0.5
    assert _is_refused_for_its_accuracy(nobody, served)
    assert _is_refused_for_its_accuracy(yes, served)


def test_model_with_random_weights_is_refused_even_as_the_first_version(words):
    expert = Expert(_new_model(words, seed=3), words, device=cpu_device())
    card = examine(expert, EXAM, settings=SETTINGS, decoding=DECODING, circles=goes_in_circles(expert, EXAM, settings=SETTINGS))
    decision = decide(card, None, settings=PROMOTE, seed=0, chance_bits_per_byte=chance_bits_per_byte(words, EXAM))
    assert not decision.promote
    assert "no better than guessing" in decision.reason


def test_model_that_learnt_the_rule_too_takes_over_from_one_that_says_yes(taught, served):
    """The same exam lets a good model pass."""
    rows = [_row(number, response="yes") for number in NUMBERS[100:]]
    expert, _ = taught(rows, steps=60)
    yes = examine(expert, EXAM, settings=SETTINGS, decoding=DECODING, circles=goes_in_circles(expert, EXAM, settings=SETTINGS))
    assert decide(served, yes, settings=PROMOTE, seed=0).promote
