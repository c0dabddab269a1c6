"""The two shapes of data: Record (raw input) and Example (cleaned), and how role-tagged prompts become messages.

Free of torch and of files: routing reads it too. Does not judge quality (clean.py) nor read files (sources.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "validation", "exam"]


class Message(TypedDict):
    """One turn of a conversation, in the shape that chat templates and OpenAI's API use."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """One raw item as it was found. where: file:line, or curriculum/<domain>:<n>. exam_only: never to be trained on."""

    domain: str
    prompt: str
    response: str
    source: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    exam_only: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """One cleaned item. key: sha256 (hex) of domain, prompt and response; decides the split and names the example."""

    domain: str
    prompt: str
    response: str
    source: str
    key: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    exam_only: bool = False

    @property
    def messages(self) -> list[Message]:
        """The prompt as messages, the last one from the user."""
        return split_turns(self.prompt)


_TURN = re.compile(r"^(User|Assistant): ", re.MULTILINE)


def split_turns(prompt: str) -> list[Message]:
    """Messages of a prompt. Lines tagged "User: " / "Assistant: " are turns when both roles occur, the first and the
    last is the user's, and nothing stands before the first tag; any other prompt is one user message, as it stands."""
    marks = list(_TURN.finditer(prompt))
    roles = [mark.group(1) for mark in marks]
    if len(marks) < 3 or marks[0].start() != 0 or roles[0] != "User" or roles[-1] != "User" or "Assistant" not in roles:
        return [{"role": "user", "content": prompt}]
    ends = [mark.start() for mark in marks[1:]] + [len(prompt)]
    return [{"role": "user" if mark.group(1) == "User" else "assistant", "content": prompt[mark.end():end].strip()}
            for mark, end in zip(marks, ends, strict=True)]


def join_turns(messages: Sequence[Message]) -> str:
    """The inverse of split_turns: one user message is its bare text, more are role-tagged lines."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n".join(f"{'User' if message['role'] == 'user' else 'Assistant'}: {message['content']}" for message in messages)


def content_key(domain: str, prompt: str, response: str) -> str:
    """sha256 (hex) over the length-prefixed parts, so that no two different triples share a text."""
    digest = hashlib.sha256()
    for part in (domain, prompt, response):
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(encoded)}:".encode() + encoded)
    return digest.hexdigest()
