"""A saved version as one GGUF file for llama.cpp, Ollama or LM Studio: weights, settings, tokenizer, chat template.

Byte-level BPE tokenizers and dense Qwen3 models only; the ids of a text stay what they are here. Does not run the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from experts import durable
from experts import tokenizer as tokens
from experts.registry import Registry
from experts.tokenizer import GGUF_PRE_TOKENIZER, SPECIAL_TOKENS, Tokenizer
from experts.tree import Tree
from settings import Settings

KINDS = ("f32", "f16", "q8_0")


class ExportError(ValueError):
    """The version can't be put in a GGUF file; the message says why and what can."""


def export(folder: Path, file: Path, *, name: str, kind: str = "f32") -> Path:
    """Write the version in folder to file, whole or not at all. kind: f32 (the same numbers), f16 or q8_0 (smaller, faster).

    Raises ExportError for a model or tokenizer that can't be said in GGUF, ImportError without the extra "cpu".
    """
    if kind not in KINDS:
        raise ExportError(f"kind {kind!r} is unknown; use one of {', '.join(KINDS)}")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "qwen3" or config.get("attention_bias"):
        raise ExportError(f"{folder} holds a {config.get('model_type')!r} model; only dense 'qwen3' without attention bias is exported")
    tokenizer = tokens.load(folder)
    facts = _bpe_facts(tokenizer, folder)
    with durable.temporary_folder(file, expected_bytes=(folder / "model.safetensors").stat().st_size) as temporary:
        _write(temporary / file.name, folder, config, facts, tokenizer, name=name, kind=kind)
        durable.sync_tree(temporary)
        durable.move_file(temporary / file.name, file)
    return file


def export_served(settings: Settings, *, node: str | None, out: Path | None, kind: str) -> Path:
    """Write the version of a node that is in force (None: the root's) to out, or to NODE-VERSION.gguf in the present folder."""
    tree = Tree.from_settings(settings.tree)
    if node is not None and node not in tree.nodes:
        raise ExportError(f"no node named {node!r}; there are: {', '.join(tree.nodes)}")
    name = tree.model_of(node or tree.root)
    folder = Registry(Path(settings.run.dir)).served(name)
    if folder is None:
        raise ExportError(f"{name} has no promoted version in {settings.run.dir}; train first, or name another --run")
    return export(folder, out or Path(f"{name}-{folder.name}.gguf"), name=f"{name} {folder.name}", kind=kind)


def _bpe_facts(tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    if facts["model"]["type"] != "BPE" or facts["model"].get("byte_fallback") or (facts["decoder"] or {}).get("type") != "ByteLevel":
        raise ExportError(f"{folder} has a tokenizer that isn't byte-level BPE; only tokenizer.kind = \"bpe\" or \"byte\" is exported")
    if facts["normalizer"] is not None or _cuts(facts["pre_tokenizer"]) != ["Digits", "ByteLevel"]:
        raise ExportError(f"{folder} has the tokenizer of a pretrained model, which cuts texts another way than llama.cpp would; "
                          "only the family's own is exported")
    return facts


def _cuts(part: dict[str, Any]) -> list[str]:
    return [name for inner in part["pretokenizers"] for name in _cuts(inner)] if part["type"] == "Sequence" else [part["type"]]


def _write(file: Path, folder: Path, config: dict[str, Any], facts: dict[str, Any], tokenizer: Tokenizer, *, name: str, kind: str) -> None:
    import gguf  # of the extra "cpu"; nobody else needs it

    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_name(name)
    writer.add_file_type({"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[kind])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, gguf, facts, tokenizer, vocab_size=config["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
    with safe_open(folder / "model.safetensors", framework="numpy") as weights:
        for key in weights.keys():  # noqa: SIM118  a safetensors file can't be iterated
            if key == "lm_head.weight" and config["tie_word_embeddings"]:
                continue
            _add_tensor(writer, gguf, names.get_name(key, try_suffixes=(".weight",)), weights.get_tensor(key), kind=kind, key=key)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensor(writer: Any, gguf: Any, target: str | None, tensor: Any, *, kind: str, key: str) -> None:
    if target is None:
        raise ExportError(f"tensor {key!r} has no place in GGUF's qwen3; the model isn't a plain Qwen3")
    if kind == "f32" or tensor.ndim == 1:
        writer.add_tensor(target, tensor.astype("float32"))
    elif kind == "f16" or tensor.shape[-1] % 32:  # q8_0 packs 32 numbers of a row at once
        writer.add_tensor(target, tensor.astype("float16"))
    else:
        packed = gguf.quants.quantize(tensor.astype("float32"), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(target, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)


def _add_tokenizer(writer: Any, gguf: Any, facts: dict[str, Any], tokenizer: Tokenizer, *, vocab_size: int) -> None:
    texts = [f"<|unused{number}|>" for number in range(vocab_size)]  # a model may have more rows than the vocabulary has entries
    kinds = [gguf.TokenType.UNUSED] * vocab_size
    for text, number in facts["model"]["vocab"].items():
        texts[number], kinds[number] = text, gguf.TokenType.NORMAL
    for added in facts["added_tokens"]:
        texts[added["id"]], kinds[added["id"]] = added["content"], gguf.TokenType.CONTROL
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in facts["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(GGUF_PRE_TOKENIZER)
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges or [f"{texts[len(SPECIAL_TOKENS)]} {texts[len(SPECIAL_TOKENS)]}"])  # llama.cpp wants at least one; this one gives no token
    writer.add_eos_token_id(tokens.end_id(tokenizer))
    writer.add_eot_token_id(tokens.end_id(tokenizer))
    writer.add_pad_token_id(tokens.pad_id(tokenizer))
    writer.add_add_bos_token(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
