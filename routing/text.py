"""What the router reads of a prompt: the user's turns, and a text as plain tokens that survive how people type.

Case, quotes, sentence marks, option letters, labels such as "Question:" and the word "please" are dropped, so that they
can't decide a route; numbers become one token, signs of code stay. Knows no vocabulary and no label.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from data_prep.records import Message, split_turns

NUMBER = "0"
# Template marks of data sets at the start of a line: the router must not learn the template (a held-out source has another).
_LABEL = re.compile(r"^[ \t]*(?:q|a|question|answer|context|options?|choices?|passage|paragraph|premise|premises|facts?|rules?|statement|"
                    r"hypothesis|conclusion|instruction|input|output|problem|task|user|assistant|human|example)[ \t]*:[ \t]*", re.MULTILINE)
_OPTION = re.compile(r"(?:^|(?<=\s))(?:\(?[a-h1-9]\)|[a-h]\.|[-*\u2022])[ \t]+(?=\S)", re.MULTILINE)
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])['\u2019](?=[^\W\d_])")
_TOKEN = re.compile(r"[^\W\d_]+|\d+(?:[.,:]\d+)*|[{}()\[\]<>=;|\\/#$&*+^~%_@`]+")
_POLITE = frozenset(("please", "pls", "plz", "kindly", "thanks"))


def user_turns(prompt: str | Sequence[Message]) -> tuple[str, ...]:
    """What the user said, newest first; a role-tagged text counts as its turns. Empty when no turn is the user's."""
    messages = split_turns(prompt) if isinstance(prompt, str) else prompt
    return tuple(message["content"] for message in reversed(messages) if message["role"] == "user")


def shorten(text: str, *, limit: int) -> str:
    """Text of at most about limit characters: its first and its last half, because a question stands at either end."""
    return text if len(text) <= limit else f"{text[:limit // 2]} {text[-(limit // 2):]}"


def tokens(text: str) -> list[str]:
    """Words in lower case, numbers as "0", runs of code signs; marks and politeness dropped."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = _APOSTROPHE.sub("", text.lower())
    text = _OPTION.sub(" ", _LABEL.sub(" ", text))
    return [NUMBER if token[0].isdigit() else token for token in _TOKEN.findall(text) if token not in _POLITE]
