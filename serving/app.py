"""The Flask app around a gateway: request ids, who may ask, sizes, the access log, the one error body.

Does not listen (server.py) and does not answer (api.py, openai_api.py).
"""

from __future__ import annotations

import logging
import re
import secrets
import time

from flask import Flask, Response, g, request

from serving import errors
from serving.answer import ClientGone
from serving.api import blueprint
from serving.gateway import Gateway
from serving.limits import check_admin, check_key

_ACCESS = logging.getLogger("serving.access")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OPEN = {"/healthz", "/readyz"}  # what a supervisor asks has no key


def create_app(gateway: Gateway, *, keys: tuple[str, ...] = ()) -> Flask:
    """The WSGI app of a gateway. keys: API keys, empty where everybody on this machine may ask."""
    app = Flask("serving", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["MAX_CONTENT_LENGTH"] = gateway.settings.serve.body_kib * 1024
    app.extensions["branchwise"] = gateway
    app.url_map.strict_slashes = False
    errors.install(app)
    app.register_error_handler(ClientGone, lambda _: Response(status=499))
    app.register_blueprint(blueprint)

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
        response.call_on_close(_access_line(response.status_code))
        return response

    return app


def _access_line(status: int):  # type: ignore[no-untyped-def]
    """What is logged when the last byte was handed over; never the prompt nor the answer."""
    method, path, began, request_id, answer = request.method, request.path, g.get("began"), g.get("request_id", "-"), g.get("answer")

    def write() -> None:
        total_ms = (time.monotonic() - began) * 1e3 if began is not None else 0.0
        who = "" if answer is None else f" node={answer.node} version={answer.version}"
        tokens = "" if answer is None or answer.end is None else f" prompt_tokens={answer.end.prompt_tokens} completion_tokens={answer.end.completion_tokens}"
        _ACCESS.info("id=%s %s %r status=%d ms=%.1f%s%s", request_id, method, path[:200], status, total_ms, who, tokens)

    return write
