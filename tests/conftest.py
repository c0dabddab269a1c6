"""Small real parts shared by tests: a folder of records, settings at toy size, and single-threaded torch."""

import json

import pytest

import settings

DOMAINS = ("math", "reasoning", "conversation", "knowledge", "code")
TOY = ("model.width=32", "model.layers=1", "model.heads=2", "model.kv_heads=1", "model.intermediate=64", "model.context_tokens=128",
       "tokenizer.vocab_size=320", "train.row_tokens=96", "train.batch_rows=4", "train.precision=fp32", "train.compile=off", "run.device=cpu", "run.threads=1",
       "train.validation_rows=4", "loop.steps=20", "loop.cycle_steps=3", "exam.tasks=10", "exam.root_tasks=10", "exam.bits_rows=10",
       "exam.max_new_tokens=8", "data.curriculum=never", "promote.loop_rate_max=1.0", "router.everyday_rows=100", "router.none_rows=100",
       "router.curriculum_rows=50",
       "data.exam_share=0.1", "data.validation_share=0.1")
TALK = {"math": ("What is {a} plus {b}?", "{a} + {b} = {c}\n#### {c}"), "reasoning": ("If {a} is more than {b}, which is less?", "{b} is less, so {b}."),
        "conversation": ("Hello, I am number {a}, how are you {b}?", "Hi number {a}, fine."), "knowledge": ("Which item stands at {a} of {b}?", "Item {a}."),
        "code": ("Write a function that adds {a} and {b}.", "def f():\n    return {a} + {b}")}


@pytest.fixture(autouse=True)
def _one_thread():
    """Small models are slower with two threads, and sums come out alike on every machine."""
    import torch

    torch.set_num_threads(1)


def _write_records(folder, *, domains=DOMAINS, count=120):
    """A data folder with count records a domain in records.jsonl."""
    for domain in domains:
        prompt, response = TALK.get(domain, ("Which rule covers case {a} of {b}?", "Rule {a} covers it."))
        home = folder / domain
        home.mkdir(parents=True, exist_ok=True)
        with (home / "records.jsonl").open("w", encoding="utf-8") as file:
            for a in range(count):
                values = {"a": a, "b": a * 7 % 50, "c": a + a * 7 % 50}
                file.write(json.dumps({"prompt": prompt.format(**values), "response": response.format(**values), "source": f"toy_{domain}"}) + "\n")
    return folder


@pytest.fixture(scope="session")
def records_folder(tmp_path_factory):
    """Records of the five domains; not to be changed by tests."""
    return _write_records(tmp_path_factory.mktemp("records"))


@pytest.fixture
def write_records():
    """A function (folder, domains=..., count=...) that writes a data folder."""
    return _write_records


@pytest.fixture(scope="session")
def toy_overrides():
    """--set values of a toy run."""
    return TOY


@pytest.fixture
def toy_settings(tmp_path, records_folder):
    """A function: settings of a toy run in this test's folder, with further overrides."""
    def make(*overrides, run="run", data=records_folder):
        return settings.load(overrides=[*TOY, *overrides], run_dir=str(tmp_path / run), data_path=str(data) if data else None)
    return make
