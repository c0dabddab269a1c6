"""Every recipe is taken by the settings, changes something, and trains two steps at toy size with its own optimizer and schedule."""

import tomllib
from pathlib import Path

import pytest
import torch
from small_bases import small_base
from toy_corpus import VOCABULARY, counting_corpus, counting_text

from experts.architectures import build
from experts.device import choose
from experts.moe.control import attach
from experts.moe.model import make_moe, moe_config
from experts.pretrained import base_tokenizer
from settings import RECIPES, Settings, load
from training.plan import Mix, Plan
from training.starting import starting_model
from training.trainer import train

NAMES = sorted(path.stem for path in RECIPES.glob("*.toml"))
BASES = {"smollm2_135m": "llama", "qwen3_0_6b": "qwen3", "gpt2": "gpt2"}  # recipes of a pretrained base, and its kind
TOY_SIZE = ("model.layers=1", "model.width=16", "model.heads=2", "model.kv_heads=1", "model.intermediate=32", "model.context_tokens=64", "train.row_tokens=48",
            "train.batch_rows=2", "train.precision=fp32", "train.compile=off")
TOY_HYBRID = ("model.layers=2", "model.attention_layers=[1]", "model.ssm_heads=4", "model.ssm_state=4", "model.ssm_chunk=8")


def test_recipes_of_the_trainer_are_there():
    assert {"quick", "seed20m", "scaled", "smollm2_135m", "qwen3_0_6b", "gpt2", "nanomoe", "router_lab", "router_lab_small"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_taken_by_the_settings_as_written(name):
    settings, written = load(recipe=name), tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))
    for section, table in written.items():
        for key, value in table.items():
            found = getattr(getattr(settings, section), key)
            if not isinstance(value, dict):
                assert (list(found) if isinstance(found, tuple) else found) == value, f"{section}.{key}"


@pytest.mark.parametrize("name", NAMES)
def test_recipe_opens_with_a_line_that_says_what_it_is_for(name):
    assert Path(RECIPES / f"{name}.toml").read_text(encoding="utf-8").startswith("# ")


def test_quick_recipe_has_the_values_of_the_defaults():
    assert load(recipe="quick") == Settings()


@pytest.mark.parametrize(("name", "vocabulary", "millions"), [("nanomoe", 327, 2.35), ("router_lab", 50_257, 203.43)])
def test_recipe_of_experts_has_the_parameters_that_it_names(name, vocabulary, millions):
    settings = load(recipe=name)
    with torch.device("meta"):
        model = make_moe(moe_config(settings.model, vocab_size=vocabulary, end_id=0, pad_id=1))
    assert sum(param.numel() for param in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(("name", "millions"), [("quick", 2.0), ("seed20m", 11.4), ("scaled", 12.6)])
def test_recipe_builds_the_model_size_that_it_names(name, millions):
    settings = load(recipe=name)
    model = build(settings.model, vocab_size=settings.tokenizer.vocab_size, end_id=0, pad_id=1, seed=0)
    assert sum(param.numel() for param in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_recipes_of_pretrained_bases_are_those_that_name_one():
    assert {name for name in NAMES if load(recipe=name).model.base is not None} == set(BASES)


@pytest.mark.filterwarnings("ignore:.torch.cpu.amp.autocast:FutureWarning")  # torch 2.4's own checkpoint
@pytest.mark.parametrize("name", BASES)
def test_recipe_of_a_base_takes_two_steps_from_a_small_folder_of_its_kind(name, tmp_path):
    base = small_base(tmp_path / "base", BASES[name])
    settings = load(recipe=name, overrides=[f"model.base={base}", "model.context_tokens=128", "train.row_tokens=48", "train.batch_rows=2",
                                            "train.precision=fp32", "train.compile=off"])
    model = starting_model(settings, folder=None, tokenizer=base_tokenizer(str(base)), device=choose("cpu"), note=lambda text: None)
    before = {key: param.detach().clone() for key, param in model.named_parameters()}
    trained = train(model, corpus=counting_corpus(), mix=Mix({"up": 1.0}), plan=Plan.from_settings(settings.train, steps=2, seed=0), device=choose("cpu"),
                    state_folder=tmp_path / "states", settings=settings.train, on_step=lambda facts: None, should_stop=lambda: False)
    changed = {key for key, param in model.named_parameters() if not torch.equal(param, before[key])}
    assert trained.step == 2
    assert changed == {key for key, param in model.named_parameters() if param.requires_grad}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BASES])
def test_recipe_at_toy_size_takes_two_steps(name, tmp_path):
    hybrid = load(recipe=name).model.architecture == "bamba"
    settings = load(recipe=name, overrides=[*TOY_SIZE, *(TOY_HYBRID if hybrid else ())])
    corpus = counting_text() if settings.data.format == "text" else counting_corpus()
    model = build(settings.model, vocab_size=VOCABULARY, end_id=0, pad_id=1, seed=0)
    attach(model, settings.moe)
    trained = train(model, corpus=corpus, mix=Mix({"up": 1.0}), plan=Plan.from_settings(settings.train, steps=2, seed=0), device=choose("cpu"),
                    state_folder=tmp_path, settings=settings.train, on_step=lambda facts: None, should_stop=lambda: False)
    assert trained.step == 2
    assert trained.losses[1] < trained.losses[0] or settings.moe.dropout or settings.moe.noise_std  # which make two steps a matter of luck
