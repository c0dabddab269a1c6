"""Where a family starts when it doesn't start from nothing: the weights and the tokenizer of a pretrained causal language model.

model.base is the folder of a Hugging Face model, or its id on the Hub (fetched by transformers, then kept in its cache). Any class
that transformers knows as a causal language model will do; code that comes with a model is never run. Does not train.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from experts import tokenizer as tokens
from experts.tokenizer import Tokenizer
from settings import ModelSettings

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FAULTS = (OSError, ValueError, KeyError, SafetensorError, json.JSONDecodeError)  # what transformers raises for a folder that it can't read


class BaseModelError(ValueError):
    """model.base can't be used; the message says why and what to do."""


def base_tokenizer(base: str) -> Tokenizer:
    """The tokenizer of a base. One without a chat template gets the family's, and the role marks that it lacks."""
    place = _place(base)
    try:
        found = AutoTokenizer.from_pretrained(place)
    except _FAULTS as error:
        raise _unusable(base, error) from None
    if not getattr(found, "is_fast", False):
        raise BaseModelError(f"model.base = {base!r} has only a slow tokenizer ({type(found).__name__}); save it with tokenizer.json first: "
                             "AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER), with the packages that its class asks for")
    tokenizer = _plain_class(found)
    if not tokenizer.chat_template:
        tokens.with_role_marks(tokenizer)
    tokens.end_id(tokenizer)  # refused here, not after the data is prepared
    return tokenizer


def _plain_class(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The same tokenizer as the one class that every version is read with: its tokenizer.json decides, not the class it came with."""
    folder = Path(tempfile.mkdtemp(prefix="branchwise-tokenizer-"))
    try:
        tokens.save(tokenizer, folder)
        return tokens.load(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def outline(settings: ModelSettings, *, vocab_size: int) -> PreTrainedModel:
    """The model of settings.base without weights (device meta), so that its size is known before anything large is read; checks what can be checked."""
    assert settings.base is not None
    try:
        config = AutoConfig.from_pretrained(_place(settings.base))
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except _FAULTS as error:
        raise _unusable(settings.base, error) from None
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is None:
        raise BaseModelError(f"model.base = {settings.base!r} ({type(model).__name__}) doesn't say how long a sequence it takes; "
                             "add max_position_embeddings to its config.json")
    if settings.context_tokens > longest:
        raise BaseModelError(f"model.base = {settings.base!r} takes {longest} tokens at most, model.context_tokens = {settings.context_tokens}; "
                             f"lower it (and train.row_tokens) to {longest}")
    if vocab_size > model.get_input_embeddings().weight.size(0):
        with torch.device("meta"):
            model.resize_token_embeddings(vocab_size, mean_resizing=False)
    return model


def load_base(settings: ModelSettings, *, tokenizer: Tokenizer, seed: int) -> PreTrainedModel:
    """The model of settings.base in fp32 on the CPU, its vocabulary as large as the tokenizer's at least. Raises BaseModelError.

    Rotary positions end at settings.context_tokens: who serves it makes room for as long a text as the model says it takes, and
    bases say 40,960 where a family needs 2,048.
    """
    assert settings.base is not None
    transformers.utils.logging.disable_progress_bar()
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(_place(settings.base), use_safetensors=True, dtype=torch.float32)
    except _FAULTS as error:
        raise _unusable(settings.base, error) from None
    extend_vocabulary(model, len(tokenizer), seed=seed)
    if _positions_can_end_earlier(model):
        model.config.max_position_embeddings = settings.context_tokens
    model.generation_config = GenerationConfig(eos_token_id=tokens.end_id(tokenizer), pad_token_id=tokens.pad_id(tokenizer), do_sample=False,
                                               max_new_tokens=settings.context_tokens // 2)
    return model.eval()


def _positions_can_end_earlier(model: PreTrainedModel) -> bool:
    """Whether a shorter max_position_embeddings changes no number: rotary positions of a kind that doesn't look at it."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if not rope and getattr(config, "rope_theta", None) is None:
        return False
    parts = list(rope.values()) if all(isinstance(value, dict) for value in rope.values()) else [rope]  # some models have one a kind of layer
    return {part.get("rope_type", part.get("type", "default")) for part in parts} <= {"default", "linear", "llama3"}


@torch.no_grad()
def extend_vocabulary(model: PreTrainedModel, size: int, *, seed: int) -> None:
    """Grow the embeddings to that many rows, never shrink them. New rows lie near the mean of the old ones, so that the model's
    predictions hardly change (Hewitt 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html)."""
    before = model.get_input_embeddings().weight.size(0)
    if size <= before:
        return
    model.resize_token_embeddings(size, mean_resizing=False)
    random = torch.Generator().manual_seed(seed)
    head = model.get_output_embeddings()
    matrices = {id(module.weight): module.weight for module in (model.get_input_embeddings(), head) if module is not None}
    for weight in matrices.values():
        old = weight[:before]
        weight[before:] = old.mean(0) + 0.1 * old.std(0) * torch.randn((size - before, old.size(1)), generator=random)


def _place(base: str) -> str:
    """A folder, or a Hub id; raises BaseModelError for what can be neither."""
    folder = Path(base).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BaseModelError(f"model.base = {base!r} is a folder without config.json; give the folder of a Hugging Face model "
                                 "(config.json, *.safetensors, tokenizer.json)")
        return str(folder)
    if not _HUB_ID.fullmatch(base):
        raise BaseModelError(f"model.base = {base!r}: there is no such folder; give the folder of a Hugging Face model, or its id on the Hub as owner/name")
    return base


def _unusable(base: str, error: Exception) -> BaseModelError:
    said = " ".join(str(error).split())
    where = "" if Path(base).expanduser().is_dir() else " It is no folder here, so it was looked for on the Hub, which needs a network the first time."
    return BaseModelError(f"model.base = {base!r} can't be read as a causal language model: {type(error).__name__}: {said[:400]}.{where} "
                          "Give a folder with config.json, *.safetensors and tokenizer.json of a class that transformers knows")
