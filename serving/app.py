"""The Flask app around a gateway: request ids, who may ask, sizes, the access log, figures, the one error body.

Does not listen (server.py) and does not answer (api.py, openai_api.py).
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

from flask import Flask, Response, g, jsonify, request

from serving import api, errors, openai_api, openapi
from serving.answer import Answer, ClientGone
from serving.feedback import Feedback
from serving.gateway import Gateway
from serving.limits import check_admin, check_key
from serving.metrics import CONTENT_TYPE, Metrics
from serving.page import Page

access = logging.getLogger("serving.access")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OPEN = {"/", "/healthz", "/readyz"}  # what a supervisor asks has no key, nor has a browser that opens the page


def create_app(gateway: Gateway, *, keys: tuple[str, ...] = ()) -> Flask:
    """The WSGI app of a gateway. keys: API keys, empty where everybody on this machine may ask."""
    app = Flask("serving", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = gateway.settings.serve.body_kib * 1024
    app.extensions["branchwise"] = gateway
    app.extensions["branchwise.feedback"] = Feedback(gateway, keyed=bool(keys))
    metrics = Metrics(gateway)
    document = openapi.document(version=_version(), nodes=tuple(gateway.tree.nodes), max_new_tokens=gateway.settings.serve.max_new_tokens)
    errors.install(app)
    app.register_error_handler(ClientGone, _nobody_reads)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(openai_api.blueprint)
    app.add_url_rule("/", "page", Page().response)
    app.add_url_rule("/metrics", "metrics", lambda: Response(metrics.text(), content_type=CONTENT_TYPE))
    app.add_url_rule("/openapi.json", "openapi", lambda: jsonify(document))

    @app.before_request
    def admit() -> None:
        g.began = time.monotonic()
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        if request.path.startswith("/admin/"):
            check_admin(authorization=request.headers.get("Authorization"), remote=request.remote_addr, origin=request.headers.get("Origin"),
                        host=request.host, keys=keys)
        elif request.path not in _OPEN:
            check_key(request.headers.get("Authorization"), keys)

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.get("request_id", "")
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        line = _Line(metrics, response.status_code)
        response.call_on_close(line.write)
        return response

    return app


def _version() -> str:
    try:
        return installed_version("branchwise")
    except PackageNotFoundError:
        return "0"


def _nobody_reads(error: ClientGone) -> Response:  # noqa: ARG001
    return Response(status=499)  # nginx' number for it; seen in the log only


class _Line:
    """What is counted and logged of a request when its last byte was handed over; never the prompt nor the answer."""

    def __init__(self, metrics: Metrics, status: int) -> None:
        self._metrics, self._status = metrics, status
        self._method, self._path = request.method, request.path
        self._endpoint = request.url_rule.rule if request.url_rule else "none"
        self._began: float | None = g.get("began")
        self._request_id: str = g.get("request_id", "-")
        self._answer: Answer | None = g.get("answer")

    def write(self) -> None:
        """Count and log."""
        self._metrics.request(self._endpoint, self._status)
        who = ""
        if self._answer is not None:
            self._metrics.answer(self._answer)
            who = f" node={self._answer.node} version={self._answer.version}"
            end = self._answer.end
            who += f" prompt_tokens={end.prompt_tokens} completion_tokens={end.completion_tokens}" if end else ""
            who += f" end={self._answer.ending}"
        total_ms = (time.monotonic() - self._began) * 1e3 if self._began is not None else 0.0
        access.info("id=%s %s %r status=%d ms=%.1f%s", self._request_id, self._method, self._path[:200], self._status, total_ms, who)
