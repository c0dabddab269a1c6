"""A client in a process of its own: sends prepared requests over many connections and says when the first and last byte came.

Reads JSON from stdin ({"urls", "path", "streams": [[body, ...], ...]}, one list a connection, sent in turn) and writes JSON to stdout.
Speaks our /generate and OpenAI's chat completions.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import settings as configuration


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as its client saw it, times in seconds since it was sent. ended: name of the last event, or "" for a body."""

    status: int
    first_s: float
    total_s: float
    tokens: int
    ended: str
    versions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """All requests, and the seconds between the first byte sent and the last received."""

    requests: list[Sent]
    wall_s: float

    @property
    def tokens(self) -> int:
        """Tokens answered in all."""
        return sum(sent.tokens for sent in self.requests)


def send(url: str | Sequence[str], streams: Sequence[Sequence[dict[str, Any]]], *, path: str = "/generate", timeout_s: float = 300.0) -> Seen:
    """Send from a new process, so that the client doesn't share the gateway's interpreter. Several servers get the streams in turn."""
    urls = [url] if isinstance(url, str) else list(url)
    done = subprocess.run([sys.executable, "-m", "benchmarks.load_client"], input=json.dumps({"urls": urls, "path": path, "streams": list(streams)}),
                          text=True, stdout=subprocess.PIPE, cwd=configuration.HOME, timeout=timeout_s, check=True)
    found = json.loads(done.stdout)
    return Seen([Sent(**{**one, "versions": tuple(one["versions"])}) for one in found["requests"]], found["wall_s"])


def main() -> None:
    """Do what stdin says."""
    asked = json.load(sys.stdin)
    found: list[Sent] = []
    start = threading.Barrier(len(asked["streams"]) + 1)

    def run(url: str, bodies: Sequence[dict[str, Any]]) -> None:
        start.wait()
        for body in bodies:
            found.append(one(url, body, path=asked["path"]))

    urls = asked["urls"]
    threads = [threading.Thread(target=run, args=(urls[number % len(urls)], bodies)) for number, bodies in enumerate(asked["streams"])]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    json.dump({"requests": [asdict(sent) for sent in found], "wall_s": time.perf_counter() - began}, sys.stdout)


def one(url: str, body: dict[str, Any], *, path: str = "/generate") -> Sent:
    """Send one request and read it to its end."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), int(address.port or 80), timeout=120)
    began = time.perf_counter()
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    read = _whole if response.status != 200 or not body.get("stream") else _events if path == "/generate" else _chunks
    sent = read(response, began)
    connection.close()
    return sent


def _whole(response: http.client.HTTPResponse, began: float) -> Sent:
    version, text = response.headers.get("X-Version", ""), response.read()
    total = time.perf_counter() - began
    if response.status == 200:
        return Sent(200, total, total, json.loads(text)["usage"]["completion_tokens"], "", (version,))
    try:
        code = str(json.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError):  # another server's words
        code = text[:200].decode("utf-8", "replace")
    return Sent(response.status, total, total, 0, code, (version,))


def _events(response: http.client.HTTPResponse, began: float) -> Sent:
    versions = [response.headers.get("X-Version", "")]
    name, first, tokens = "", 0.0, 0
    for line in response:
        if line.startswith(b"event: "):
            name = line[7:].decode().strip()
            first = first or (time.perf_counter() - began if name == "token" else 0.0)
        elif line.startswith(b"data: ") and name in {"route", "done"}:
            facts = json.loads(line[6:])
            versions.append(facts["version"])
            tokens = facts["usage"]["completion_tokens"] if name == "done" else 0
    total = time.perf_counter() - began
    return Sent(200, first or total, total, tokens, name, tuple(versions))


def _chunks(response: http.client.HTTPResponse, began: float) -> Sent:
    """OpenAI's events have no names; usage comes with the last of them."""
    ended, first, tokens = "", 0.0, 0
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        facts = json.loads(line[6:])
        ended = "error" if "error" in facts else "done"
        text = any((choice.get("delta") or {}).get("content") for choice in facts.get("choices", ()))
        first = first or (time.perf_counter() - began if text else 0.0)
        tokens = (facts.get("usage") or {}).get("completion_tokens", tokens)
    total = time.perf_counter() - began
    return Sent(200, first or total, total, tokens, ended)


if __name__ == "__main__":
    main()
