"""Our own endpoints: /generate, /route, /feedback, /healthz, /readyz, /admin. Turns HTTP into asks and answers into JSON or events.

Makes no decision about nodes (gateway.py). OpenAI's endpoints are in openai_api.py.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

from flask import Blueprint, Response, current_app, g, request
from pydantic import BaseModel

from data_prep.records import split_turns
from experts.registry import RegistryError
from experts.tokenizer import Message
from routing.explain import explain
from routing.router import Route
from serving import sse
from serving.answer import Answer, ClientGone
from serving.engines.interface import Sampling
from serving.errors import ApiError, body_of, from_unforeseen
from serving.feedback import judge, note_route
from serving.gateway import Ask, Gateway, random_seed, ranked_json
from serving.schemas import (
    AdminReply,
    FeedbackBody,
    GenerateBody,
    GenerateReply,
    HealthReply,
    PromptBody,
    ReadyReply,
    RollbackBody,
    RouteBody,
    RouteOnlyReply,
    RouteReply,
    SamplingBody,
    WordReply,
)

log = logging.getLogger(__name__)
BodyT = TypeVar("BodyT", bound=BaseModel)
blueprint = Blueprint("api", __name__)


def the_gateway() -> Gateway:
    """The gateway of this app."""
    gateway = current_app.extensions["branchwise"]
    assert isinstance(gateway, Gateway)
    return gateway


def read_body(shape: type[BodyT]) -> BodyT:
    """The checked JSON body of this request. Raises ApiError 415 or pydantic's ValidationError."""
    if request.mimetype != "application/json":
        named = request.mimetype or "of no named type"
        raise ApiError(415, f"the body is {named}; send JSON with Content-Type: application/json", code="unsupported_media_type")
    return shape.model_validate_json(request.get_data(cache=False))


def reply(body: BaseModel, *, status: int = 200) -> Response:
    """A checked body as a response."""
    return Response(body.model_dump_json(), status=status, content_type="application/json")


def messages_of(body: PromptBody) -> list[Message]:
    """The conversation of a body; a prompt of role-tagged lines is one too, as it is in training."""
    if body.messages is not None:
        return without_empty_system([{"role": turn.role, "content": turn.content} for turn in body.messages])
    assert body.prompt is not None
    return [{"role": message["role"], "content": message["content"]} for message in split_turns(body.prompt)]


def without_empty_system(messages: Sequence[Message]) -> list[Message]:
    """A conversation without system turns that say nothing: a model never saw one in training."""
    return [message for message in messages if message["role"] != "system" or message["content"].strip()]


def sampling_of(body: SamplingBody) -> Sampling:
    """The engine's options of a body; a seed of its own when none is given."""
    return Sampling(body.temperature, body.top_k, body.top_p, body.min_p, body.repetition_penalty, body.repetition_window_tokens,
                    random_seed() if body.seed is None else body.seed)


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    """Stop strings as the engine takes them."""
    return () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)


def node_of(name: str | None) -> str | None:
    """None (the router decides) for no name and for auto."""
    return None if name == "auto" else name


def route_reply(route: Route) -> RouteReply:
    """A route in the API's shape."""
    return RouteReply.model_validate({"branch": route.branch, "expert": route.expert, "confidence": route.confidence,
                                      "ranked": ranked_json(route.ranked), "abstained": route.abstained, "reason": route.reason})


@blueprint.post("/generate")
def generate() -> Response:
    """Answer a prompt, as one body or as events."""
    body = read_body(GenerateBody)
    ask = Ask(messages_of(body), node_of(body.node), body.max_new_tokens, sampling_of(body), stops_of(body.stop),
              dry_multiplier=body.dry_multiplier, loop_guard=body.loop_guard, ignore_end=body.ignore_end,
              client_gone=request.environ.get("waitress.client_disconnected", bool))
    answer = the_gateway().answer(ask)
    note_answer(answer, ask.messages)
    if body.stream:
        response = Response(_events(answer, request_id=g.request_id), headers=sse.HEADERS)
        response.call_on_close(answer.close)
    else:
        try:
            text = "".join(piece.text for piece in answer.pieces())
        finally:
            answer.close()
        response = reply(_generate_reply(answer, text))
    response.headers["X-Version"] = answer.version
    return response


def note_answer(answer: Answer, messages: Sequence[Message]) -> None:
    """Keep who answered for the access log, and what was asked for a judgement."""
    g.answer = answer
    note_route(messages, answer.route)


def _events(answer: Answer, *, request_id: str) -> Iterator[bytes]:
    parts: list[str] = []
    head = b""
    try:
        # With the first text in one write: it is there already, and every write wakes the thread that sends.
        head = sse.event("route", {"node": answer.node, "version": answer.version, "route": route_reply(answer.route).model_dump()})
        for piece in answer.pieces():
            parts.append(piece.text)
            yield head + sse.event("token", {"text": piece.text})
            head = b""
        yield head + sse.event("done", _generate_reply(answer, "".join(parts)).model_dump())
    except ClientGone:
        return
    except ApiError as error:
        yield head + sse.event("error", body_of(error))
    except Exception as error:  # the status is sent already: a client must still learn that the text is not whole
        yield head + sse.event("error", body_of(from_unforeseen(error, request_id=request_id)))
        raise
    finally:
        answer.close()


def _generate_reply(answer: Answer, text: str) -> GenerateReply:
    end = answer.end
    assert end is not None
    return GenerateReply.model_validate({
        "text": text, "node": answer.node, "version": answer.version, "route": route_reply(answer.route), "finish_reason": end.finish_reason,
        "usage": {"prompt_tokens": end.prompt_tokens, "completion_tokens": end.completion_tokens}, "timing_ms": answer.timing.milliseconds(end.queue_s)})


@blueprint.post("/route")
def route() -> Response:
    """Decide only, with the words that tipped it."""
    body = read_body(RouteBody)
    gateway, messages = the_gateway(), messages_of(body)
    decision = gateway.decide(messages, node=node_of(body.node))
    note_route(messages, decision.route)
    router = gateway.snapshot.router if gateway.snapshot else None
    found = RouteOnlyReply(node=decision.resident.name, version=decision.resident.version, route=route_reply(decision.route), words=[])
    if router is not None and node_of(body.node) is None:
        why = explain(router, messages)
        found = found.model_copy(update={"words": [WordReply(text=term.term, weight=term.weight) for term in why.terms],
                                         "decided_for": why.decided_for, "against": why.against, "probabilities": why.probabilities,
                                         "read_as": why.read_as})
    response = reply(found)
    response.headers["X-Version"] = decision.resident.version
    return response


@blueprint.post("/feedback")
def feedback() -> Response:
    """Take a client's word on where its request should have gone."""
    return reply(judge(read_body(FeedbackBody)))


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process runs."""
    return reply(HealthReply(status="ok", pid=os.getpid()))


@blueprint.get("/readyz")
def readyz() -> Response:
    """Whether requests are taken, and if not, why."""
    gateway = the_gateway()
    snapshot, reason = gateway.snapshot, gateway.not_ready
    body = ReadyReply(ready=reason is None, reason=reason or "serving", device=gateway.device.kind, device_reason=gateway.device.reason,
                      engine=gateway.engine.name, generation=snapshot.generation if snapshot else 0, nodes=snapshot.versions if snapshot else {},
                      router=snapshot.router_version if snapshot else None, last_failure=gateway.last_failure)
    return reply(body, status=200 if reason is None else 503)


@blueprint.post("/admin/reload")
def reload() -> Response:
    """Look at the registry now."""
    return _admin_reply(the_gateway())


@blueprint.post("/admin/rollback")
def rollback() -> Response:
    """Take a promotion back and serve what stood before."""
    body = read_body(RollbackBody) if request.get_data() else RollbackBody(node=None)
    gateway = the_gateway()
    if body.node is not None and body.node not in (*gateway.tree.nodes, "router"):
        raise ApiError(404, f"no node named {body.node!r}; there are: {', '.join(gateway.tree.nodes)}, router", param="node", code="model_not_found")
    try:
        gateway.registry.rollback(body.node, reason="asked for over HTTP", keep=gateway.tree.root)
    except RegistryError as error:
        raise ApiError(409, str(error), param="node", code="nothing_to_roll_back") from error
    return _admin_reply(gateway)


def _admin_reply(gateway: Gateway) -> Response:
    try:
        changed = gateway.look(again=True)
    except (RegistryError, OSError, ValueError) as error:
        log.error("reload: %s", error)
        raise ApiError(503, "the registry can't be read now; the log says why", code="registry_unreadable", retry_after_s=5) from error
    snapshot = gateway.snapshot
    return reply(AdminReply(changed=changed, generation=snapshot.generation if snapshot else 0, nodes=snapshot.versions if snapshot else {},
                            router=snapshot.router_version if snapshot else None, last_failure=gateway.last_failure))
