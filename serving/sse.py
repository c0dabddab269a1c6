"""Server-sent events as bytes: one event is a name and a JSON body on one line. Does not know what is sent."""

from __future__ import annotations

import json
from typing import Any

HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
DONE = b"data: [DONE]\n\n"


def event(name: str | None, data: Any) -> bytes:
    """One event. JSON escapes line breaks and everything beyond ASCII, so no character is ever cut between two events."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode("ascii")
