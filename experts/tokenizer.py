"""The tokenizer of a family: training, saving, and how a conversation becomes token ids.

Byte-level BPE with single digits, or characters, or bytes; every kind reads and gives back any Unicode text. A pretrained
model's tokenizer keeps its own chat template, or gets the family's. Contents are encoded with special tokens switched off, role
marks are added as ids. Does not know what a shard or a model is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from experts.chat_frames import Frame, template_end, template_frame
from settings import TokenizerSettings

Tokenizer: TypeAlias = PreTrainedTokenizerFast

PAD, END, SYSTEM, USER, ASSISTANT, TEXT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|text|>"
SPECIAL_TOKENS = (PAD, END, SYSTEM, USER, ASSISTANT, TEXT)
ROLE_MARKS = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}

# What llama.cpp calls the same cut: each number sign alone, then the GPT-2 pattern.
GGUF_PRE_TOKENIZER = "smollm"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_SURROGATE = re.compile("[\ud800-\udfff]")


class Message(TypedDict):
    """One turn, the same shape as data_prep.records.Message (which stands above this room and can't be imported)."""

    role: Literal["system", "user", "assistant"]
    content: str


def train(texts: Iterable[str], *, settings: TokenizerSettings) -> Tokenizer:
    """A tokenizer fitted on texts; the same texts in the same order give the same tokenizer.

    A BPE vocabulary is smaller than settings.vocab_size when the texts have too few repeated pairs.
    """
    makers = {"bpe": _train_bpe, "char": _train_char, "byte": _train_bpe}
    vocab_size = settings.vocab_size if settings.kind == "bpe" else len(SPECIAL_TOKENS) + 256
    return _wrap(makers[settings.kind]((clean_text(text) for text in texts), vocab_size=vocab_size))


def _train_bpe(texts: Iterable[str], *, vocab_size: int) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    backend.train_from_iterator(texts, trainer=trainer)
    return backend


def _train_char(texts: Iterable[str], *, vocab_size: int) -> tokenizers.Tokenizer:
    del vocab_size  # the characters decide
    characters: Counter[str] = Counter()
    for text in texts:
        characters.update(text)
    # Bytes stand in for characters that the texts don't have, so that nothing is lost.
    entries = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(characters)]
    vocab = {entry: number for number, entry in enumerate(entries)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return backend


def _wrap(backend: tokenizers.Tokenizer) -> Tokenizer:
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def load(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder; raises FileNotFoundError when the folder has none."""
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"no tokenizer.json in {folder}; give a folder that holds a saved version")
    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template into an existing or new folder."""
    tokenizer.save_pretrained(folder)
    # transformers 5 writes a class name that transformers 4 doesn't have; this one is known to both.
    file = folder / "tokenizer_config.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    facts["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def fingerprint(tokenizer: Tokenizer) -> str:
    """sha256 (hex) over what decides the ids of a text: vocabulary, merges, special tokens, the cut into words."""
    facts: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    model = facts["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges", [])]
    special = [[token["id"], token["content"]] for token in facts["added_tokens"]]
    parts = [model["type"], model["vocab"], merges, special, _types(facts["normalizer"]), _types(facts["pre_tokenizer"])]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _types(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    return [part["type"], *(kind for inner in part.get("pretokenizers", []) for kind in _types(inner))]


def clean_text(text: str) -> str:
    """Text with each lone surrogate replaced by U+FFFD: the only strings that have no UTF-8 form."""
    return _SURROGATE.sub("\ufffd", text)


def text_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of plain text; the text of a special token in it is spelled out."""
    backend = tokenizer.backend_tokenizer
    if not backend.encode_special_tokens:  # transformers' own calls switch it back
        backend.encode_special_tokens = True
    ids: list[int] = backend.encode(clean_text(text), add_special_tokens=False).ids
    return ids


def text_ids_batch(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """text_ids of many texts, on all cores."""
    backend = tokenizer.backend_tokenizer
    if not backend.encode_special_tokens:
        backend.encode_special_tokens = True
    return [encoding.ids for encoding in backend.encode_batch_fast([clean_text(text) for text in texts], add_special_tokens=False)]


def frame(tokenizer: Tokenizer, roles: Sequence[str]) -> Frame:
    """The ids around the contents of a conversation: before each of them, and, last, up to and with the mark after which the
    assistant answers; one more than roles. Raises ValueError for an unknown role."""
    for role in roles:
        if role not in ROLE_MARKS:
            raise ValueError(f"role {role!r} of a message is unknown; use one of {', '.join(ROLE_MARKS)}")
    if not has_own_marks(tokenizer):
        return template_frame(tokenizer, roles, encode=lambda text: text_ids(tokenizer, text))
    marks = [token_id(tokenizer, ROLE_MARKS[role]) for role in roles] + [token_id(tokenizer, ASSISTANT)]
    ends = [(end_id(tokenizer),) if role == "assistant" else () for role in ("user", *roles)]
    return tuple((*end, mark) for end, mark in zip(ends, marks, strict=True))


def has_own_marks(tokenizer: Tokenizer) -> bool:
    """Whether conversations are written with the family's role marks (else by the chat template that a pretrained model brought)."""
    return bool(tokenizer.chat_template == CHAT_TEMPLATE or not tokenizer.chat_template)


def prompt_ids(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation up to and with the mark after which the assistant answers.

    Equal to apply_chat_template(messages, add_generation_prompt=True), except that contents never become special tokens.
    """
    before, *after = frame(tokenizer, [message["role"] for message in messages])
    ids = list(before)
    for message, piece in zip(messages, after, strict=True):
        ids += [*text_ids(tokenizer, message["content"]), *piece]
    return ids


def answer_ids(tokenizer: Tokenizer, response: str) -> list[int]:
    """Ids of a response with the end token: what a model is trained to write after prompt_ids."""
    return [*text_ids(tokenizer, response), end_id(tokenizer)]


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text of ids without special tokens; bytes that are no UTF-8 become U+FFFD."""
    text: str = tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=True)
    return text


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Id of one special token; raises ValueError when the tokenizer has none of that name."""
    number: int | None = tokenizer.backend_tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"the tokenizer has no token {token!r}; it wasn't made by experts.tokenizer.train (needs {', '.join(SPECIAL_TOKENS)})")
    return number


def end_id(tokenizer: Tokenizer) -> int:
    """Id of the token that ends an answer."""
    return token_id(tokenizer, END) if has_own_marks(tokenizer) else template_end(tokenizer)


def pad_id(tokenizer: Tokenizer) -> int:
    """Id of the token that fills rows; what stands there is never read, so any will do where a pretrained tokenizer names none."""
    if has_own_marks(tokenizer):
        return token_id(tokenizer, PAD)
    own: int | None = tokenizer.pad_token_id
    return own if own is not None else template_end(tokenizer)


def with_role_marks(tokenizer: Tokenizer) -> Tokenizer:
    """Give a pretrained tokenizer that has no chat template the family's: role marks it lacks are added to its vocabulary, in place."""
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS], special_tokens=True)
    tokenizer.pad_token, tokenizer.eos_token = PAD, END
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
