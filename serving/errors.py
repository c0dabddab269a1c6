"""The one error body of the gateway, OpenAI's shape, for every failure: ours, Flask's, pydantic's and waitress's.

Does not decide when something fails. A 5xx body never carries an exception's text: that goes to the log.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from flask import Flask, Response, g, jsonify
from pydantic import ValidationError
from waitress.task import ErrorTask
from werkzeug.exceptions import HTTPException

log = logging.getLogger(__name__)

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
          405: "invalid_request_error", 413: "invalid_request_error", 415: "invalid_request_error", 429: "rate_limit_error",
          431: "invalid_request_error", 503: "overloaded_error"}
_MESSAGES = {404: "no such address; GET /openapi.json lists what there is",
             405: "this address doesn't take that method; GET /openapi.json lists what there is",
             415: "the body must be JSON; send it with Content-Type: application/json",
             500: "something broke on our side; the log has it under this request id"}


class ApiError(Exception):
    """A failure with a status and a body. The message is for the client: what happened, the value, what is allowed."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s


def error_type(status: int) -> str:
    """OpenAI's error type of a status."""
    return _TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "server_error")


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of every failure."""
    return {"error": {"message": message, "type": error_type(status), "param": param, "code": code}}


def body_of(error: ApiError) -> dict[str, Any]:
    """The body of one failure, for JSON and for the error event of a stream alike."""
    return error_body(error.status, error.message, param=error.param, code=error.code)


def from_validation(error: ValidationError) -> ApiError:
    """400 for a body that pydantic refused: names the first field at fault, what came, and what else is wrong."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    first = faults[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body isn't JSON: {first['msg'].removeprefix('Invalid JSON: ')}", code="json_invalid")
    param = ".".join(str(part) for part in first["loc"]) or None
    listed = "; ".join(f"{'.'.join(str(part) for part in fault['loc']) or 'body'}: {fault['msg']}" for fault in faults[:4])
    more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
    return ApiError(400, f"{listed}{more}", param=param, code=first["type"])


def install(app: Flask) -> None:
    """Answer every failure of a Flask app with the one body."""
    app.register_error_handler(ApiError, _answer_api_error)
    app.register_error_handler(ValidationError, lambda error: _answer_api_error(from_validation(error)))
    app.register_error_handler(HTTPException, _answer_http_exception)
    app.register_error_handler(Exception, _answer_unforeseen)


def _answer_api_error(error: ApiError) -> Response:
    response = jsonify(body_of(error))
    response.status_code = error.status
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return response


def _answer_http_exception(error: HTTPException) -> Response:
    status = error.code or 500
    message = _MESSAGES.get(status) or (error.description if status < 500 else None) or _MESSAGES[500]
    response = jsonify(error_body(status, message, code=(error.name or "error").lower().replace(" ", "_")))
    response.status_code = status
    for name, value in error.get_headers():
        if name.lower() in {"allow", "location", "retry-after"}:
            response.headers[name] = value
    return response


def from_unforeseen(error: Exception, *, request_id: str) -> ApiError:
    """500 for whatever nobody expected: the exception goes to the log, the client gets the request id's worth of it."""
    log.error("request %s failed", request_id, exc_info=error)
    return ApiError(500, _MESSAGES[500], code="internal_error")


def _answer_unforeseen(error: Exception) -> Response:
    return _answer_api_error(from_unforeseen(error, request_id=g.get("request_id", "?")))


class JsonErrorTask(ErrorTask):  # type: ignore[misc]
    """waitress answers malformed HTTP itself, before any app sees it; this gives those answers the one body too."""

    def execute(self) -> None:
        fault = self.request.error
        message = _MESSAGES[500] if fault.code >= 500 else f"{fault.reason}: {fault.body}"
        body = json.dumps(error_body(fault.code, message, code=fault.reason.lower().replace(" ", "_"))).encode()
        self.status = f"{fault.code} {fault.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)
