"""POST /feedback: what a client says of an answer it got, written to the run's journal for the next fit of the router.

Off unless serve.feedback is set, because it keeps prompts on disk. Fits nothing (routing/feedback.py makes rows of it).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flask import current_app, g, request

from experts.durable import NotWritable, OutOfSpace
from experts.journal import Journal, JournalError
from experts.tokenizer import Message
from routing.router import Route
from routing.rows import FEEDBACK
from routing.text import shorten, user_turns
from serving.errors import ApiError
from serving.gateway import Gateway
from serving.limits import bearer
from serving.schemas import FeedbackBody, FeedbackReply

log = logging.getLogger(__name__)
_REMEMBERED = 4096  # routed requests that may still be judged; the oldest go


@dataclass(frozen=True, slots=True)
class Judgeable:
    """A routed request: what the user said last, and where it went."""

    prompt: str
    node: str
    expert: str | None


class Feedback:
    """What may still be judged, and the journal that takes the judgements. Threads may share one."""

    def __init__(self, gateway: Gateway, *, keyed: bool) -> None:
        """keyed: whether API keys are checked. Nothing is remembered or written while serve.feedback is off."""
        self.keyed = keyed
        self.on = gateway.settings.serve.feedback
        self._nodes = tuple(gateway.tree.nodes)
        self._limit = gateway.settings.router.max_prompt_chars
        self._journal = Path(gateway.settings.run.dir) / "journal.db"
        self._routed: OrderedDict[tuple[str, str], Judgeable] = OrderedDict()
        self._turn = threading.Lock()

    def remember(self, messages: Sequence[Message], route: Route, *, request_id: str, client: str) -> None:
        """Keep a routed request for as long as it may be judged; one whose node was asked for by name was not routed."""
        if not self.on or not route.ranked:
            return
        turns = user_turns(messages)
        with self._turn:
            self._routed[client, request_id] = Judgeable(shorten(turns[0], limit=self._limit) if turns else "", route.node, route.expert)
            while len(self._routed) > _REMEMBERED:
                self._routed.popitem(last=False)

    def take(self, body: FeedbackBody, *, client: str) -> None:
        """Write one judgement down, on the disk when this returns. Raises ApiError.

        A request is judged once, and only by the client that made it, so nobody writes more than it asked.
        """
        if not self.on:
            raise ApiError(404, "this gateway takes no feedback; set serve.feedback = true to turn it on", code="feedback_off")
        if body.right_node is not None and body.right_node not in self._nodes:
            raise ApiError(404, f"no node named {body.right_node!r}; there are: {', '.join(self._nodes)}", param="right_node", code="model_not_found")
        with self._turn:
            judged = self._routed.pop((client, body.request_id), None)
        if judged is None:
            raise ApiError(404, f"no routed request {body.request_id!r} of yours that can still be judged; a request is judged once, and the "
                                f"last {_REMEMBERED} are kept", param="request_id", code="request_not_found")
        try:
            with Journal(self._journal) as journal:  # opened anew each time: judgements are rare, and an open file can't be moved on Windows
                journal.append(FEEDBACK, node=judged.node, request=body.request_id, verdict=body.verdict, right_node=body.right_node,
                               expert=judged.expert, prompt=judged.prompt, client=client)
        except (JournalError, OutOfSpace, NotWritable) as error:
            log.error("feedback: %s", error)
            raise ApiError(503, "the judgement can't be written now; the log says why", code="journal_not_writable", retry_after_s=30) from error


def client_name(authorization: str | None, remote: str | None, *, keyed: bool) -> str:
    """Who asks, as a short digest: the API key where keys are checked, else the address. An unchecked key would make anybody many clients."""
    said = f"key {bearer(authorization)}" if keyed else f"address {remote}"
    return hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()[:16]


def _this_client() -> str:
    return client_name(request.headers.get("Authorization"), request.remote_addr, keyed=the_feedback().keyed)


def the_feedback() -> Feedback:
    """The feedback of this app."""
    feedback = current_app.extensions["branchwise.feedback"]
    assert isinstance(feedback, Feedback)
    return feedback


def note_route(messages: Sequence[Message], route: Route) -> None:
    """Remember where this request went."""
    the_feedback().remember(messages, route, request_id=g.request_id, client=_this_client())


def judge(body: FeedbackBody) -> FeedbackReply:
    """Take this client's judgement. Raises ApiError."""
    the_feedback().take(body, client=_this_client())
    return FeedbackReply(taken=True)
