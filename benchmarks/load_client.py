"""A client in a process of its own: sends prepared requests over many connections and says when the first and last byte came.

Reads JSON from stdin ({"url", "streams": [[body, ...], ...]}, one list a connection, sent in turn) and writes JSON to stdout.
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


def send(url: str, streams: Sequence[Sequence[dict[str, Any]]], *, timeout_s: float = 300.0) -> Seen:
    """Send from a new process, so that the client doesn't share the gateway's interpreter."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.load_client"], input=json.dumps({"url": url, "streams": list(streams)}), text=True,
                          stdout=subprocess.PIPE, cwd=configuration.HOME, timeout=timeout_s, check=True)
    found = json.loads(done.stdout)
    return Seen([Sent(**{**one, "versions": tuple(one["versions"])}) for one in found["requests"]], found["wall_s"])


def main() -> None:
    """Do what stdin says."""
    asked = json.load(sys.stdin)
    found: list[Sent] = []
    start = threading.Barrier(len(asked["streams"]) + 1)

    def run(bodies: Sequence[dict[str, Any]]) -> None:
        start.wait()
        for body in bodies:
            found.append(one(asked["url"], body))

    threads = [threading.Thread(target=run, args=(bodies,)) for bodies in asked["streams"]]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    json.dump({"requests": [asdict(sent) for sent in found], "wall_s": time.perf_counter() - began}, sys.stdout)


def one(url: str, body: dict[str, Any]) -> Sent:
    """Send one request and read it to its end."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), int(address.port or 80), timeout=120)
    began = time.perf_counter()
    connection.request("POST", "/generate", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    versions = [response.headers.get("X-Version", "")]
    if response.status != 200 or not body.get("stream"):
        reply = json.loads(response.read())
        total = time.perf_counter() - began
        connection.close()
        tokens = reply["usage"]["completion_tokens"] if response.status == 200 else 0
        return Sent(response.status, total, total, tokens, "" if response.status == 200 else reply["error"]["code"], tuple(versions))
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
    connection.close()
    return Sent(200, first or total, total, tokens, name, tuple(versions))


if __name__ == "__main__":
    main()
