"""How a tokenizer that came with a pretrained model writes a conversation: its own chat template, cut into the ids between the contents.

The contents themselves are encoded elsewhere (tokenizer.py), so that text of a user never becomes a special token here either.
Does not know the family's own tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

Frame = tuple[tuple[int, ...], ...]
_BETWEEN_SYSTEM_AND_USER = "\n\n"
_MOST_FRAMES = 256  # a tokenizer: there is one a sequence of roles, and whoever asks chooses that


class ChatTemplateError(ValueError):
    """The tokenizer's chat template can't write a conversation of these roles."""


@dataclass(slots=True)
class _Known:
    """What was found out about one tokenizer. special: its special tokens as one pattern; end: id that ends an answer."""

    special: re.Pattern[str] | None
    end: int | None = None
    frames: dict[tuple[str, ...], Frame] = field(default_factory=dict)


_known: WeakKeyDictionary[PreTrainedTokenizerFast, _Known] = WeakKeyDictionary()


def template_frame(tokenizer: PreTrainedTokenizerFast, roles: Sequence[str], *, encode: Callable[[str], list[int]]) -> Frame:
    """Ids before each content and, last, ids between the last content and the answer: one more than roles.

    encode: ids of text without special tokens. Raises ChatTemplateError.
    """
    frames = _facts(tokenizer).frames
    found = frames.get(tuple(roles))
    if found is None:
        found = tuple(tuple(_ids(tokenizer, piece, encode=encode)) for piece in _pieces(tokenizer, tuple(roles)))
        if len(frames) >= _MOST_FRAMES:
            frames.clear()  # in one step, since threads share it; the usual ones are soon there again
        frames[tuple(roles)] = found
    return found


def template_end(tokenizer: PreTrainedTokenizerFast) -> int:
    """Id of the special token that the template puts after an answer, else the tokenizer's end-of-sequence token."""
    known = _facts(tokenizer)
    if known.end is None:
        after = _cut(_rendered(tokenizer, ("user", "assistant"), generation_prompt=False), count=2, roles=("user", "assistant"))[-1]
        first = known.special.match(after) if known.special is not None else None
        end: int | None = tokenizer.convert_tokens_to_ids(first[0]) if first is not None else tokenizer.eos_token_id
        if end is None:
            raise ChatTemplateError("neither the chat template nor the tokenizer of model.base has a token that ends an answer; "
                                    "set eos_token in its tokenizer_config.json")
        known.end = end
    return known.end


def _facts(tokenizer: PreTrainedTokenizerFast) -> _Known:
    if tokenizer not in _known:
        names = sorted((token.content for token in tokenizer.added_tokens_decoder.values() if token.special), key=len, reverse=True)
        _known[tokenizer] = _Known(re.compile("|".join(map(re.escape, names))) if names else None)
    return _known[tokenizer]


def _pieces(tokenizer: PreTrainedTokenizerFast, roles: tuple[str, ...]) -> list[str]:
    try:
        return _cut(_rendered(tokenizer, roles, generation_prompt=True), count=len(roles), roles=roles)
    except ChatTemplateError:
        if roles[:2] != ("system", "user"):
            raise
        # A template without a place for a system message: it opens the first turn of the user.
        first, *rest = _pieces(tokenizer, roles[1:])
        return [first, _BETWEEN_SYSTEM_AND_USER, *rest]


def _mark(number: int) -> str:
    return f"@@content-{number}@@"


def _rendered(tokenizer: PreTrainedTokenizerFast, roles: tuple[str, ...], *, generation_prompt: bool) -> str:
    messages = [{"role": role, "content": _mark(number)} for number, role in enumerate(roles)]
    try:
        # enable_thinking: templates of reasoning models (Qwen3) then leave the answer alone; others don't read it.
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt, enable_thinking=False)
    except TemplateError as error:
        raise ChatTemplateError(f"the chat template of the tokenizer refuses a conversation of {', '.join(roles)}: {error}") from None
    return text


def _cut(text: str, *, count: int, roles: tuple[str, ...]) -> list[str]:
    pieces = re.split("|".join(re.escape(_mark(number)) for number in range(count)), text) if count else [text]
    places = [text.find(_mark(number)) for number in range(count)]
    if len(pieces) != count + 1 or places != sorted(places):
        raise ChatTemplateError(f"the chat template of the tokenizer doesn't write each content of {', '.join(roles)} once and in order")
    return pieces


def _ids(tokenizer: PreTrainedTokenizerFast, text: str, *, encode: Callable[[str], list[int]]) -> list[int]:
    special = _facts(tokenizer).special
    if special is None:
        return encode(text)
    ids: list[int] = []
    at = 0
    for found in special.finditer(text):
        ids += [*encode(text[at:found.start()]), tokenizer.convert_tokens_to_ids(found[0])]
        at = found.end()
    return ids + encode(text[at:])
