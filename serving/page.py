"""The page at /: one file with no outside resources, under a policy that lets its own script and style run and nothing else.

Reads web/index.html. Holds nothing that needs a key: what the page shows it asks the gateway for, as any client does.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from flask import Response

FILE = Path(__file__).parent / "web" / "index.html"


def policy_of(html: str) -> str:
    """Content-Security-Policy of a page whose inline scripts and styles are the only ones allowed, by their hashes (W3C CSP 3, 8.1). Pure."""
    hashes = {tag: " ".join(_hash(text) for text in re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)) or "'none'" for tag in ("script", "style")}
    return (f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Page:
    """The page as it was when this was made. Raises OSError without its file."""

    def __init__(self) -> None:
        html = FILE.read_text(encoding="utf-8")  # line ends as a browser counts them for the hash
        self._body = html.encode()
        self._headers = {"Content-Security-Policy": policy_of(html), "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}

    def response(self) -> Response:
        """The page with its headers."""
        return Response(self._body, content_type="text/html; charset=utf-8", headers=self._headers)
