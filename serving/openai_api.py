"""OpenAI's endpoints over the same gateway: /v1/chat/completions, /v1/completions, /v1/models.

Translates shapes only; routing, limits and errors are those of /generate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from flask import Blueprint, Response, g, request

from data_prep.records import split_turns
from experts.tokenizer import Message
from serving import sse
from serving.answer import Answer, ClientGone
from serving.api import node_of, note_answer, read_body, reply, route_reply, stops_of, the_gateway, without_empty_system
from serving.engines.interface import Piece, Sampling, TokenLogprob
from serving.errors import ApiError, body_of, from_unforeseen
from serving.gateway import Ask, random_seed
from serving.openai_schemas import (
    AssistantMessage,
    ChatBody,
    ChatChoice,
    ChatLogprobs,
    ChatMessage,
    ChatReply,
    CompletionBody,
    CompletionChoice,
    CompletionLogprobs,
    CompletionReply,
    Extra,
    ModelReply,
    ModelsReply,
    OpenAiBody,
    TokenLogprobReply,
    TopLogprob,
    Usage,
)

blueprint = Blueprint("openai_api", __name__)


@blueprint.post("/v1/chat/completions")
def chat_completions() -> Response:
    """Answer a conversation in OpenAI's shape."""
    body = read_body(ChatBody)
    messages = without_empty_system([_message(message) for message in body.messages])
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise ApiError(400, "the last message must be from 'user' and have some text", param="messages", code="invalid_messages")
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs = true", param="top_logprobs", code="logprobs_needed")
    answer = _start(body, messages, body.max_completion_tokens or body.max_tokens, (body.top_logprobs or 0) if body.logprobs else None)
    return _send(answer, body, shape=_Chat(answer))


@blueprint.post("/v1/completions")
def completions() -> Response:
    """Answer a prompt in OpenAI's older shape; the prompt is a user's turn, as everywhere."""
    body = read_body(CompletionBody)
    if not body.prompt.strip():
        raise ApiError(400, "prompt has only white space; give it some text", param="prompt", code="empty_prompt")
    messages: list[Message] = [{"role": message["role"], "content": message["content"]} for message in split_turns(body.prompt)]
    answer = _start(body, messages, body.max_tokens, body.logprobs)
    return _send(answer, body, shape=_Completion(answer))


@blueprint.get("/v1/models")
def models() -> Response:
    """auto and every node."""
    gateway = the_gateway()
    return reply(ModelsReply(data=[ModelReply(id=name, created=gateway.started_at) for name in ("auto", *gateway.tree.nodes)]))


@blueprint.get("/v1/models/<name>")
def model(name: str) -> Response:
    """One of them."""
    gateway = the_gateway()
    if name not in ("auto", *gateway.tree.nodes):
        raise ApiError(404, f"no model named {name!r}; there are: auto, {', '.join(gateway.tree.nodes)}", param="model", code="model_not_found")
    return reply(ModelReply(id=name, created=gateway.started_at))


def _message(message: ChatMessage) -> Message:
    text = message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)
    return {"role": "system" if message.role == "developer" else message.role, "content": text}


def _start(body: OpenAiBody, messages: Sequence[Message], max_tokens: int | None, logprobs: int | None) -> Answer:
    sampling = Sampling(body.temperature or 0.0, body.top_k, body.top_p or 1.0, body.min_p or 0.0, body.repetition_penalty or 1.0,
                        seed=random_seed() if body.seed is None else body.seed % 2**63)
    ask = Ask(messages, node_of(body.model), max_tokens, sampling, stops_of(body.stop), logprobs=logprobs, dry_multiplier=body.dry_multiplier,
              client_gone=request.environ.get("waitress.client_disconnected", bool))
    try:
        answer = the_gateway().answer(ask)
    except ApiError as error:
        error.param = {"node": "model", "max_new_tokens": "max_tokens"}.get(error.param or "", error.param)
        raise
    note_answer(answer, messages)
    return answer


class _Shape:
    """One answer in one of OpenAI's two shapes."""

    prefix = ""
    chunk_object = ""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.id = f"{self.prefix}-{g.request_id}"
        self.created = int(time.time())

    def facts(self) -> dict[str, Any]:
        """What every body and chunk bears."""
        extra = Extra(node=self.answer.node, version=self.answer.version, route=route_reply(self.answer.route))
        return {"id": self.id, "created": self.created, "model": self.answer.node,
                "system_fingerprint": f"{self.answer.node}-{self.answer.version}", "branchwise": extra}

    def usage(self) -> Usage:
        """Tokens of the finished answer."""
        end = self.answer.end
        assert end is not None
        return Usage(prompt_tokens=end.prompt_tokens, completion_tokens=end.completion_tokens, total_tokens=end.prompt_tokens + end.completion_tokens)

    def finish_reason(self) -> Literal["stop", "length"]:
        """OpenAI knows no loop and no deadline: a loop was stopped, a deadline cut the text short."""
        assert self.answer.end is not None
        return "stop" if self.answer.end.finish_reason in {"stop", "loop"} else "length"

    def whole(self, text: str, logprobs: Sequence[TokenLogprob] | None) -> Response:
        """The answer as one body."""
        raise NotImplementedError

    def chunk(self, piece: Piece | None, *, finish_reason: str | None) -> list[dict[str, Any]]:
        """choices of one event."""
        raise NotImplementedError


class _Chat(_Shape):
    prefix = "chatcmpl"
    chunk_object = "chat.completion.chunk"

    def whole(self, text: str, logprobs: Sequence[TokenLogprob] | None) -> Response:
        choice = ChatChoice(index=0, message=AssistantMessage(content=text), logprobs=_chat_logprobs(logprobs), finish_reason=self.finish_reason())
        return reply(ChatReply(choices=[choice], usage=self.usage(), **self.facts()))

    def chunk(self, piece: Piece | None, *, finish_reason: str | None) -> list[dict[str, Any]]:
        delta = {} if finish_reason else {"content": piece.text} if piece else {"role": "assistant", "content": ""}
        logprobs = _chat_logprobs(piece.logprobs) if piece and piece.logprobs else None
        return [{"index": 0, "delta": delta, "logprobs": logprobs.model_dump() if logprobs else None, "finish_reason": finish_reason}]


class _Completion(_Shape):
    prefix = "cmpl"
    chunk_object = "text_completion"

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self._offset = 0

    def whole(self, text: str, logprobs: Sequence[TokenLogprob] | None) -> Response:
        choice = CompletionChoice(index=0, text=text, logprobs=self._logprobs(logprobs), finish_reason=self.finish_reason())
        return reply(CompletionReply(choices=[choice], usage=self.usage(), **self.facts()))

    def chunk(self, piece: Piece | None, *, finish_reason: str | None) -> list[dict[str, Any]]:
        logprobs = self._logprobs(piece.logprobs) if piece and piece.logprobs else None
        return [{"index": 0, "text": piece.text if piece else "", "logprobs": logprobs.model_dump() if logprobs else None, "finish_reason": finish_reason}]

    def _logprobs(self, logprobs: Sequence[TokenLogprob] | None) -> CompletionLogprobs | None:
        if logprobs is None:
            return None
        offsets = []
        for one in logprobs:
            offsets.append(self._offset)
            self._offset += len(one.token)
        return CompletionLogprobs(tokens=[one.token for one in logprobs], token_logprobs=[one.logprob for one in logprobs],
                                  top_logprobs=[dict(one.top) for one in logprobs], text_offset=offsets)


def _chat_logprobs(logprobs: Sequence[TokenLogprob] | None) -> ChatLogprobs | None:
    if logprobs is None:
        return None
    return ChatLogprobs(content=[TokenLogprobReply(token=one.token, logprob=one.logprob, bytes=list(one.token.encode()), top_logprobs=[
        TopLogprob(token=token, logprob=value, bytes=list(token.encode())) for token, value in one.top]) for one in logprobs])


def _send(answer: Answer, body: OpenAiBody, *, shape: _Shape) -> Response:
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        response = Response(_chunks(answer, shape, include_usage=usage, request_id=g.request_id), headers=sse.HEADERS)
        response.call_on_close(answer.close)
    else:
        wanted = _wants_logprobs(body)
        try:
            pieces = list(answer.pieces())
        finally:
            answer.close()
        logprobs = [one for piece in pieces for one in piece.logprobs] if wanted else None
        response = shape.whole("".join(piece.text for piece in pieces), logprobs)
    response.headers["X-Version"] = answer.version
    return response


def _wants_logprobs(body: OpenAiBody) -> bool:
    return bool(body.logprobs) if isinstance(body, ChatBody) else isinstance(body, CompletionBody) and body.logprobs is not None


def _chunks(answer: Answer, shape: _Shape, *, include_usage: bool, request_id: str) -> Iterator[bytes]:
    facts = {name: value.model_dump() if isinstance(value, Extra) else value for name, value in shape.facts().items()}
    facts["object"] = shape.chunk_object
    usage: dict[str, Any] = {"usage": None} if include_usage else {}

    def event(choices: list[dict[str, Any]]) -> bytes:
        return sse.event(None, {**facts, "choices": choices, **usage})

    try:
        yield from _texts(answer, shape, event)
        yield event(shape.chunk(None, finish_reason=shape.finish_reason()))
        if include_usage:
            usage["usage"] = shape.usage().model_dump()
            yield event([])
        yield sse.DONE
    except ClientGone:
        return
    except ApiError as error:
        yield sse.event(None, body_of(error))
    except Exception as error:  # the status is sent already: a client must still learn that the text is not whole
        yield sse.event(None, body_of(from_unforeseen(error, request_id=request_id)))
        raise
    finally:
        answer.close()


def _texts(answer: Answer, shape: _Shape, event: Callable[[list[dict[str, Any]]], bytes]) -> Iterator[bytes]:
    if isinstance(shape, _Chat):
        yield event(shape.chunk(None, finish_reason=None))
    for piece in answer.pieces():
        yield event(shape.chunk(piece, finish_reason=None))
