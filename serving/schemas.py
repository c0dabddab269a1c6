"""Bodies of our own endpoints, checked by pydantic: what may come in, what goes out, and the one error body.

OpenAI's shapes are in openai_schemas.py. Does not know how an answer is made. Lengths in tokens are the gateway's check.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_TEXT_CHARS = 262_144
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]
Content = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]  # of a turn: an answer in the history may be empty, ours too


class Body(BaseModel):
    """A request body: unknown fields and wrong types are errors, nothing is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Reply(BaseModel):
    """A response body."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Turn(Body):
    role: Literal["system", "user", "assistant"]
    content: Content


_ONE_PROMPT: dict[str, Any] = {"oneOf": [
    {"required": ["prompt"], "properties": {"prompt": {"type": "string"}, "messages": {"type": "null"}}},
    {"required": ["messages"], "properties": {"messages": {"type": "array"}, "prompt": {"type": "null"}}}]}


class PromptBody(Body):
    """A prompt, or the messages of a conversation, and who is to answer."""

    model_config = ConfigDict(json_schema_extra=_ONE_PROMPT)

    prompt: Text | None = Field(None, description="text to answer; give this or messages")
    messages: list[Turn] | None = Field(None, min_length=1, max_length=256,
                                        description="turns of a conversation, the last one from the user; give this or prompt")
    node: str | None = Field(None, min_length=1, max_length=64, description="node that is to answer; unset: the router decides")

    @model_validator(mode="after")
    def _one_prompt(self) -> PromptBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("prompt has only white space; give it some text")
        if self.messages is not None and self.messages[-1].role != "user":
            raise ValueError(f"the last message is from {self.messages[-1].role!r}; it must be from 'user'")
        if self.messages is not None and not self.messages[-1].content.strip():
            raise ValueError("the last message has only white space; give it some text")
        return self


class SamplingBody(Body):
    """How the next token is drawn."""

    temperature: float = Field(0.0, ge=0, le=2, description="0: the most probable token each time")
    top_k: int | None = Field(None, ge=1, le=1_000_000, description="draw from the k most probable tokens; unset: all")
    top_p: float = Field(1.0, gt=0, le=1, description="draw from the fewest tokens that hold this probability")
    min_p: float = Field(0.0, ge=0, le=1, description="leave out tokens below this share of the most probable one")
    repetition_penalty: float = Field(1.0, ge=0.1, le=10, description="above 1: recent tokens become less probable")
    repetition_window_tokens: int = Field(64, ge=1, le=4096, description="how far back the penalty looks")
    dry_multiplier: float | None = Field(None, ge=0, le=100, description="cost of repeating a sequence; 0: none; unset: as the version was examined")
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="same request and seed, same text; unset: another one each time")


class GenerateBody(PromptBody, SamplingBody):
    """POST /generate."""

    max_new_tokens: int | None = Field(None, ge=1, le=1_000_000, description="longest answer; unset: serve.default_new_tokens")
    stop: Annotated[str, Field(min_length=1, max_length=256)] | Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=8)] | None = Field(
        None, description="text before which the answer ends: one string or up to 8")
    stream: bool = Field(False, description="server-sent events route, token, done, error in place of one body")
    loop_guard: bool = Field(True, description="end an answer that repeats itself")
    ignore_end: bool = Field(False, description="go on after the end token, for measurements of a fixed length")


class RouteBody(PromptBody):
    """POST /route."""


class RollbackBody(Body):
    """POST /admin/rollback."""

    node: str | None = Field(None, min_length=1, max_length=64, description="node (or router) to take back; unset: the last promotion")


class FeedbackBody(Body):
    """POST /feedback."""

    request_id: str = Field(min_length=1, max_length=64, description="X-Request-Id of the answer that is judged")
    verdict: Literal["good", "bad"] = Field(description="whether the right node answered")
    right_node: str | None = Field(None, min_length=1, max_length=64, description="for bad: the node that should have; the root for none of the domains")

    @model_validator(mode="after")
    def _good_names_no_other(self) -> FeedbackBody:
        if self.verdict == "good" and self.right_node is not None:
            raise ValueError("right_node goes with verdict bad; a good route needs no other node")
        return self


class RankedReply(Reply):
    node: str
    probability: float


class RouteReply(Reply):
    """The router's decision. branch, expert: null above the level it was sure of."""

    branch: str | None
    expert: str | None
    confidence: float
    ranked: list[RankedReply]
    abstained: bool
    reason: str


class UsageReply(Reply):
    prompt_tokens: int
    completion_tokens: int


class TimingReply(Reply):
    """Milliseconds: waiting for a slot, routing, until the first text, in all."""

    queue: float
    route: float
    first_token: float
    total: float


class GenerateReply(Reply):
    """Answer of POST /generate and data of the event done."""

    text: str
    node: str
    version: str
    route: RouteReply
    finish_reason: Literal["stop", "length", "loop", "deadline"]
    usage: UsageReply
    timing_ms: TimingReply


class WordReply(Reply):
    text: str
    weight: float


class RouteOnlyReply(Reply):
    """Answer of POST /route. node, version: who would answer now; words: what tipped the decision, strongest first, for decided_for
    (weight > 0) or against, the runner-up; probabilities: of every node and "ood"; read_as: words read as another, one slip away.
    Empty without a router and for a node asked for by name."""

    node: str
    version: str
    route: RouteReply
    words: list[WordReply]
    decided_for: str | None = None
    against: str | None = None
    probabilities: dict[str, float] = {}
    read_as: dict[str, str] = {}


class HealthReply(Reply):
    status: Literal["ok"]
    pid: int


class ReadyReply(Reply):
    """GET /readyz. nodes: version in force of every node that has one."""

    ready: bool
    reason: str
    device: str
    device_reason: str
    engine: str
    generation: int
    nodes: dict[str, str]
    router: str | None
    last_failure: str | None


class FeedbackReply(Reply):
    """Answer of POST /feedback. taken: it is on the disk, for the next fit of the router."""

    taken: bool


class AdminReply(Reply):
    """Answer of /admin/reload and /admin/rollback. changed: whether another snapshot is served now."""

    changed: bool
    generation: int
    nodes: dict[str, str]
    router: str | None
    last_failure: str | None


class ErrorFields(Reply):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """Every failure."""

    error: ErrorFields
