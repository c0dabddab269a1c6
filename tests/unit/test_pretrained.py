"""Pretrained bases from small folders: tokenizer, vocabulary, adapters, memory, and what is refused."""

import json
import re
import sys

import pytest
import torch
import transformers
from small_bases import chatml_tokenizer, gpt2_tokenizer, small_base
from toy_corpus import counting_corpus, toy_training

import settings
from experts import tokenizer as tokens
from experts.adapters import add_adapters, merged, require_peft
from experts.device import choose
from experts.extras import PackageMissing
from experts.pretrained import BaseModelError, base_tokenizer, extend_vocabulary, load_base, outline
from settings import ModelSettings
from training.batches import Batches
from training.memory import DoesNotFit, Need, need_of, require_room
from training.packed_loss import PackedLoss
from training.plan import Mix
from training.starting import need_of_base, starting_model

KINDS = ("gpt2", "llama", "qwen3")


@pytest.fixture(scope="module", params=KINDS)
def base(request, tmp_path_factory):
    return small_base(tmp_path_factory.mktemp(request.param), request.param)


def based(folder, **more):
    return ModelSettings(base=str(folder), context_tokens=128, **more)


def test_base_tokenizer_keeps_ids_and_its_own_template_where_it_has_one(base):
    original, found = transformers.AutoTokenizer.from_pretrained(base), base_tokenizer(str(base))
    assert tokens.text_ids(found, "What is 12 plus 84?") == original("What is 12 plus 84?")["input_ids"]
    assert found.chat_template == (original.chat_template or tokens.CHAT_TEMPLATE)
    assert len(found) - len(original) == (0 if original.chat_template else len(tokens.SPECIAL_TOKENS))


def test_load_base_gives_the_folders_logits_for_the_tokens_it_knew(base):
    tokenizer = base_tokenizer(str(base))
    model, stock = load_base(based(base), tokenizer=tokenizer, seed=0), transformers.AutoModelForCausalLM.from_pretrained(base)
    ids = torch.tensor([tokens.text_ids(tokenizer, "What is 12 plus 84?")])
    known = stock.config.vocab_size
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits[..., :known], stock(ids).logits, rtol=1e-5, atol=1e-5)
    assert model.get_input_embeddings().weight.size(0) == max(known, len(tokenizer))
    assert model.generation_config.eos_token_id == tokens.end_id(tokenizer)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize(("kind", "wanted"), [("gpt2", 128), ("llama", 64), ("qwen3", 64)])
def test_load_base_ends_rotary_positions_at_the_context_and_changes_no_number(tmp_path, kind, wanted):
    tokenizer = base_tokenizer(str(small_base(tmp_path, kind)))
    model = load_base(ModelSettings(base=str(tmp_path), context_tokens=64), tokenizer=tokenizer, seed=0)
    model.save_pretrained(tmp_path / "version")
    saved, stock = (transformers.AutoModelForCausalLM.from_pretrained(place) for place in (tmp_path / "version", tmp_path))
    assert saved.config.max_position_embeddings == wanted
    ids = torch.arange(60)[None]
    with torch.no_grad():
        torch.testing.assert_close(saved(ids).logits[..., :200], stock(ids).logits[..., :200], rtol=1e-5, atol=1e-5)


def test_load_base_leaves_positions_alone_that_are_stretched_by_the_length(tmp_path):
    small_base(tmp_path, "llama")
    file = tmp_path / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["rope_parameters" if "rope_parameters" in config else "rope_scaling"] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    file.write_text(json.dumps(config), encoding="utf-8")
    model = load_base(ModelSettings(base=str(tmp_path), context_tokens=64), tokenizer=base_tokenizer(str(tmp_path)), seed=0)
    assert model.config.max_position_embeddings == 128


def test_extend_vocabulary_puts_new_rows_near_the_mean_of_the_old_ones_and_shrinks_nothing(base):
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    before = model.get_input_embeddings().weight.detach().clone()
    extend_vocabulary(model, len(before) - 3, seed=0)
    assert model.get_input_embeddings().weight.shape == before.shape
    extend_vocabulary(model, len(before) + 40, seed=0)
    after = model.get_input_embeddings().weight.detach()
    assert torch.equal(after[:len(before)], before)
    new = after[len(before):]
    assert (new - before.mean(0)).abs().max() < 0.6 * before.std()
    assert new.std(0).min() > 0
    assert model.config.vocab_size == len(before) + 40


@pytest.mark.parametrize(("wanted", "words"), [
    ("./nowhere/at/all", "there is no such folder; give the folder of a Hugging Face model, or its id on the Hub as owner/name"),
    ("{empty}", r"is a folder without config\.json; give the folder of a Hugging Face model \(config\.json, \*\.safetensors, tokenizer\.json\)"),
])
def test_base_that_is_no_model_folder_is_refused_with_what_to_give(tmp_path, wanted, words):
    name = wanted.format(empty=tmp_path)
    for attempt in (base_tokenizer, lambda place: outline(ModelSettings(base=place), vocab_size=10)):
        with pytest.raises(BaseModelError, match=f"model.base = '{re.escape(name)}'.*{words}"):
            attempt(name)


def test_base_that_the_hub_does_not_give_is_refused_with_the_reason(monkeypatch):
    def offline(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(BaseModelError, match=r"model\.base = 'someone/model' can't be read .*no connection.* looked for on the Hub, which needs a network"):
        base_tokenizer("someone/model")


def test_base_without_safetensors_is_refused(tmp_path):
    small_base(tmp_path, "llama")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"can't be read as a causal language model: .*Give a folder with config\.json, \*\.safetensors"):
        load_base(based(tmp_path), tokenizer=gpt2_tokenizer(), seed=0)


def test_base_with_a_shorter_context_than_the_settings_is_refused(base):
    with pytest.raises(BaseModelError, match=r"takes 128 tokens at most, model\.context_tokens = 129; lower it"):
        outline(ModelSettings(base=str(base), context_tokens=129), vocab_size=10)


def adapted(base, **more):
    tokenizer = base_tokenizer(str(base))
    model = load_base(based(base), tokenizer=tokenizer, seed=0)
    return add_adapters(model, rank=4, alpha=8.0, seed=0, train_embeddings=False, **more)


def test_adapters_change_nothing_at_first_and_train_alone(base):
    model = load_base(based(base), tokenizer=base_tokenizer(str(base)), seed=0)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = model(ids).logits
        add_adapters(model, rank=4, alpha=8.0, seed=0, train_embeddings=False)
        assert torch.equal(model(ids).logits, before)
    trained = [name for name, param in model.named_parameters() if param.requires_grad]
    assert trained
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)


def test_merged_adapters_give_equal_logits_in_stock_layers(base, tmp_path):
    model = adapted(base)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if ".lora_B." in name:
                param.normal_(std=0.2)
    stock = merged(model)
    assert not [name for name, _ in stock.named_modules() if "lora" in name]
    assert any("lora" in name for name, _ in model.named_modules())
    stock.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(transformers.AutoModelForCausalLM.from_pretrained(base))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(loaded(ids).logits, load_base(based(base), tokenizer=base_tokenizer(str(base)), seed=0)(ids).logits, atol=1e-3)


def test_merged_model_without_adapters_is_itself(base):
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    assert merged(model) is model


def test_adapters_without_peft_are_refused_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(PackageMissing, match=r"needs the package peft.*python -m pip install -e \"\.\[pretrained\]\""):
        require_peft()


@pytest.mark.parametrize("overrides", [["train.lora_rank=4"], ["train.lora_rank=4", "model.base=somewhere", "train.optimizer=muon_sophia"],
                                       ["train.lora_rank=4", "model.base=somewhere"], ["model.base=x", "data.format=text"]])
def test_settings_that_contradict_each_other_about_bases_are_refused(overrides):
    with pytest.raises(settings.SettingsError, match=r"train\.lora_rank|data\.format"):
        settings.load(overrides=overrides)


def start(base, *overrides):
    chosen = settings.load(overrides=[f"model.base={base}", "model.context_tokens=128", "train.row_tokens=96", "train.optimizer=adamw", *overrides])
    tokenizer = base_tokenizer(str(base))
    said = []
    return starting_model(chosen, folder=None, tokenizer=tokenizer, device=choose("cpu"), note=said.append), said, tokenizer


def test_starting_model_says_the_memory_and_trains_embeddings_only_where_marks_are_new(base):
    model, said, tokenizer = start(base, "train.lora_rank=4")
    trained = {name for name, param in model.named_parameters() if param.requires_grad}
    assert any("wte" in name or "embed_tokens" in name for name in trained) is tokens.has_own_marks(tokenizer)
    assert re.fullmatch(r".*: training needs about [\d.]+ GB \(weights .*, gradients .*, optimizer .*, activations .*, a passing copy .*\)", said[0])


def test_starting_model_that_does_not_fit_is_refused_before_its_weights_are_read(base, monkeypatch):
    monkeypatch.setattr("training.memory.free_bytes", lambda device: 200_000)
    monkeypatch.setattr("experts.pretrained.load_base", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(DoesNotFit, match=r"training .* needs about .* GB .*and 0\.00 GB are free; lower train\.batch_rows .* train\.lora_rank = 16"):
        start(base)


def test_need_counts_weights_gradients_and_optimizer_by_hand():
    model = torch.nn.Module()
    model.__dict__["config"] = transformers.LlamaConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20)
    model.matrix, model.norm = torch.nn.Parameter(torch.zeros(10, 7)), torch.nn.Parameter(torch.zeros(5))
    model.frozen = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
    model.__dict__["get_input_embeddings"] = lambda: torch.nn.Embedding(6, 8)
    need = need_of(model, settings=toy_training(optimizer="adamw", row_tokens=16, batch_rows=2))
    assert (need.weights, need.gradients, need.optimizer, need.copy) == (4 * 78, 4 * 75, 4 * 150, 4 * (78 + 150))
    assert need.activations == 4 * (16 * 2 * (2 * (14 * 8 + 4 * 20 + 2 * 2 * 16) + 4 * 8) + 48)
    assert need.total == need.weights + need.gradients + need.optimizer + need.activations + need.copy
    assert need_of(model, settings=toy_training(optimizer="muon", row_tokens=16, batch_rows=2)).optimizer == 4 * (70 + 2 * 5)


def test_need_of_a_base_covers_what_its_backward_pass_keeps(base):
    """What autograd really keeps of a batch, counted, against the estimate."""
    chosen = settings.load(overrides=[f"model.base={base}", "model.context_tokens=128", "train.row_tokens=96", "train.batch_rows=4"])
    estimate = need_of_base(chosen, tokenizer=base_tokenizer(str(base))).activations
    model = transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").train()
    kept = {param.untyped_storage().data_ptr(): 0 for param in model.parameters()}

    def keep(tensor):
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        alive.append(tensor)
        return tensor

    alive = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(input_ids=torch.zeros(4, 96, dtype=torch.long), use_cache=False)
    assert 0.7 * sum(kept.values()) < estimate < 3 * sum(kept.values())


def test_require_room_lets_through_what_fits_nine_tenths(monkeypatch):
    need = Need(weights=1, gradients=2, optimizer=3, activations=4, copy=80)
    monkeypatch.setattr("training.memory.free_bytes", lambda device: 100)
    require_room(need, device=choose("cpu"), name="x")
    monkeypatch.setattr("training.memory.free_bytes", lambda device: 99)
    with pytest.raises(DoesNotFit):
        require_room(need, device=choose("cpu"), name="x")
    monkeypatch.setattr("training.memory.free_bytes", lambda device: None)
    require_room(need, device=choose("cpu"), name="x")


@pytest.mark.filterwarnings("ignore:.torch.cpu.amp.autocast:FutureWarning")  # torch 2.4's own checkpoint
@pytest.mark.parametrize("attention", ["documents", "mask"])
def test_layers_computed_again_give_the_same_gradients_and_keep_less(base, attention):
    model = transformers.AutoModelForCausalLM.from_pretrained(base).eval()  # no dropout
    batch = Batches(counting_corpus(), mix=Mix({"up": 1.0}), row_tokens=48, batch_rows=3, seed=0).next()
    gradients, sizes = [], []
    for again in (False, True):
        loss, kept = PackedLoss(model, device=choose("cpu"), bf16=False, attention=attention, again=again), []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor, kept=kept: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
            cost = loss(batch)
        sizes.append(sum(kept))
        cost.backward()
        gradients.append([param.grad.clone() for param in model.parameters()])
        model.zero_grad()
    assert model.config._attn_implementation == "sdpa"
    assert sizes[1] < 0.6 * sizes[0]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_chatml_tokenizer_survives_saving_as_a_version(tmp_path):
    tokenizer = chatml_tokenizer()
    tokens.save(tokenizer, tmp_path)
    assert tokens.prompt_ids(tokens.load(tmp_path), [{"role": "user", "content": "Hi"}]) == tokens.prompt_ids(tokenizer, [{"role": "user", "content": "Hi"}])
