"""The OpenAPI 3.1 document, made from the same pydantic models that check the bodies.

One table of operations; a test holds it and the app's addresses together. Serves nothing itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.openai_schemas import ChatBody, ChatReply, CompletionBody, CompletionReply, ModelReply, ModelsReply
from serving.schemas import (
    AdminReply,
    ErrorReply,
    FeedbackBody,
    FeedbackReply,
    GenerateBody,
    GenerateReply,
    HealthReply,
    ReadyReply,
    RollbackBody,
    RouteBody,
    RouteOnlyReply,
)

_REFERENCE = "#/components/schemas/{model}"
_ANSWERING = (400, 401, 404, 413, 415, 429, 500, 503)
_DESCRIPTIONS = {200: "done", 400: "the request can't be taken as it is", 401: "no valid API key", 403: "not from here", 404: "no such node, model or request",
                 409: "nothing to take back", 413: "body too large", 415: "body isn't JSON", 429: "busy; Retry-After says when to come back",
                 500: "a fault on our side", 503: "not ready, draining or no node could answer"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one address. reply: body of 200; text: its type where it isn't JSON; events: also streamed on request."""

    method: Literal["get", "post"]
    path: str
    summary: str
    reply: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    body_needed: bool = True
    errors: Sequence[int] = (500,)
    events: bool = False
    text: str | None = None
    replies: dict[int, type[BaseModel]] = field(default_factory=dict)
    parameters: Sequence[str] = ()


OPERATIONS = (
    Operation("post", "/generate", "Answer a prompt or conversation, whole or as events", GenerateReply, GenerateBody, errors=_ANSWERING, events=True),
    Operation("post", "/route", "Decide who answers, and say which words tipped it", RouteOnlyReply, RouteBody, errors=(400, 401, 404, 413, 415, 500, 503)),
    Operation("post", "/feedback", "Say whether the right node answered; off unless serve.feedback", FeedbackReply, FeedbackBody,
              errors=(400, 401, 404, 413, 415, 500, 503)),
    Operation("post", "/v1/chat/completions", "OpenAI's chat completions", ChatReply, ChatBody, errors=_ANSWERING, events=True),
    Operation("post", "/v1/completions", "OpenAI's completions", CompletionReply, CompletionBody, errors=_ANSWERING, events=True),
    Operation("get", "/v1/models", "auto and every node", ModelsReply, errors=(401, 500)),
    Operation("get", "/v1/models/{name}", "One of them", ModelReply, errors=(401, 404, 500), parameters=("name",)),
    Operation("get", "/", "A page for a browser: what runs, and a prompt to try", text="text/html"),
    Operation("get", "/healthz", "The process runs", HealthReply),
    Operation("get", "/readyz", "Whether requests are taken; 503 with the reason when not", ReadyReply, replies={503: ReadyReply}),
    Operation("get", "/metrics", "Figures for Prometheus", text="text/plain", errors=(401, 500)),
    Operation("get", "/openapi.json", "This document", text="application/json", errors=(401, 500)),
    Operation("post", "/admin/reload", "Look at the registry now", AdminReply, errors=(401, 403, 500, 503)),
    Operation("post", "/admin/rollback", "Take a promotion back", AdminReply, RollbackBody, body_needed=False,
              errors=(400, 401, 403, 404, 409, 413, 415, 500, 503)),
)


def document(*, version: str, nodes: Sequence[str], max_new_tokens: int) -> dict[str, Any]:
    """The whole document of a gateway with these nodes and this limit."""
    bodies = [(operation.body, "validation") for operation in OPERATIONS if operation.body]
    replies = [(reply, "serialization") for operation in OPERATIONS for reply in (operation.reply, *operation.replies.values()) if reply]
    models = dict.fromkeys([*bodies, *replies, (ErrorReply, "serialization")])
    references, schemas = models_json_schema(list(models), ref_template=_REFERENCE)  # type: ignore[arg-type]
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, references, names=("auto", *nodes))
    for name, schema in schemas.get("$defs", {}).items():
        if name.endswith("Body"):
            _narrow(schema["properties"], nodes=(*nodes, "router") if name == "RollbackBody" else ("auto", *nodes), max_new_tokens=max_new_tokens)
    return {"openapi": "3.1.0", "info": {"title": "Branchwise gateway", "version": version}, "paths": paths,
            "components": {"schemas": schemas.get("$defs", {}), "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
            "security": [{}, {"key": []}]}


def _narrow(properties: dict[str, Any], *, nodes: Sequence[str], max_new_tokens: int) -> None:
    """Write into a body's schema what only a running gateway knows."""
    for name, schema in properties.items():
        for choice in schema.get("anyOf", [schema]):
            if name in {"model", "node"} and choice.get("type") == "string":
                choice["enum"] = list(nodes)
            if name in {"max_tokens", "max_completion_tokens", "max_new_tokens"} and choice.get("type") == "integer":
                choice["maximum"] = max_new_tokens


def _operation(operation: Operation, references: Any, *, names: Sequence[str]) -> dict[str, Any]:
    name = "_".join(re.findall(r"\w+", operation.path)) or "page"
    described: dict[str, Any] = {"summary": operation.summary, "operationId": f"{operation.method}_{name}", "responses": _responses(operation, references)}
    if operation.parameters:
        described["parameters"] = [{"name": each, "in": "path", "required": True, "schema": {"type": "string", "enum": list(names)}}
                                   for each in operation.parameters]
    if operation.body:
        schema = references[operation.body, "validation"]
        described["requestBody"] = {"required": operation.body_needed, "content": {"application/json": {"schema": schema}}}
    return described


def _responses(operation: Operation, references: Any) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.text:
        content[operation.text] = {"schema": {"type": "object"} if operation.text == "application/json" else {"type": "string"}}
    if operation.reply:
        content["application/json"] = {"schema": references[operation.reply, "serialization"]}
    if operation.events:
        content["text/event-stream"] = {"schema": {"description": "events, each with a JSON body"}}
    responses = {"200": {"description": _DESCRIPTIONS[200], "content": content}}
    for status in operation.errors:
        responses[str(status)] = _json(status, references[ErrorReply, "serialization"])
    for status, reply in operation.replies.items():
        responses[str(status)] = _json(status, references[reply, "serialization"])
    return responses


def _json(status: int, schema: Any) -> dict[str, Any]:
    return {"description": _DESCRIPTIONS[status], "content": {"application/json": {"schema": schema}}}
