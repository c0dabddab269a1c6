"""OpenAI's shapes for chat completions, completions and models, as far as a small text model can honour them.

A parameter that would change nothing here is refused, not ignored. Fields beyond OpenAI's: top_k, min_p,
repetition_penalty, dry_multiplier in requests, branchwise in answers.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serving.schemas import Body, Content, Reply, RouteReply, Text

Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Stop | Annotated[list[Stop], Field(max_length=8)]


class TextPart(Body):
    type: Literal["text"]
    text: Content


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Content | Annotated[list[TextPart], Field(max_length=64)]
    name: str | None = Field(None, max_length=64)


class StreamOptions(Body):
    include_usage: bool = False


class OpenAiBody(Body):
    """What both kinds of completion take."""

    model: str = Field(min_length=1, max_length=64, description="auto: the router decides; or the name of a node")
    temperature: float | None = Field(None, ge=0, le=2, description="unset: 0, the most probable token each time")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, le=1_000_000)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    dry_multiplier: float | None = Field(None, ge=0, le=100)
    frequency_penalty: float | None = Field(None, ge=0, le=0, description="only 0; see repetition_penalty")
    presence_penalty: float | None = Field(None, ge=0, le=0, description="only 0; see repetition_penalty")
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    n: int | None = Field(None, ge=1, le=1, description="only 1")
    seed: int | None = Field(None, ge=-2**63, le=2**63 - 1)
    stop: Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=256, description="taken and not used")


class ChatBody(OpenAiBody):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=256)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class CompletionBody(OpenAiBody):
    """POST /v1/completions."""

    prompt: Text
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: Literal[False] | None = None
    best_of: int | None = Field(None, ge=1, le=1)


class Usage(Reply):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Extra(Reply):
    """What OpenAI's shape has no place for: who answered, and why."""

    node: str
    version: str
    route: RouteReply


class TopLogprob(Reply):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobReply(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Reply):
    content: list[TokenLogprobReply]


class AssistantMessage(Reply):
    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(Reply):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatReply(Reply):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    branchwise: Extra


class CompletionLogprobs(Reply):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(Reply):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionReply(Reply):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None
    branchwise: Extra


class ModelReply(Reply):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "branchwise"


class ModelsReply(Reply):
    object: Literal["list"] = "list"
    data: list[ModelReply]
