"""A client in a process of its own for more load than there is room for: requests at a steady rate, or clients without pause.

Reads JSON from stdin ({"url", "body", "seconds", "rate" or "clients"}), writes JSON to stdout. Doesn't judge what it sees.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import settings as configuration


@dataclass(frozen=True, slots=True)
class Reply:
    """One request: status 0 when the connection broke. sent_s, total_s: seconds since the first request, and since it was sent."""

    status: int
    sent_s: float
    total_s: float
    tokens: int


def storm(url: str, body: dict[str, Any], *, seconds: float, rate: float | None = None, clients: int | None = None) -> list[Reply]:
    """Send from a new process: rate requests a second whatever comes back, or that many clients one after the other."""
    asked = {"url": url, "body": body, "seconds": seconds, "rate": rate, "clients": clients}
    done = subprocess.run([sys.executable, "-m", "benchmarks.storm_client"], input=json.dumps(asked), text=True, stdout=subprocess.PIPE,
                          cwd=configuration.HOME, timeout=seconds + 300, check=True)
    return [Reply(**one) for one in json.loads(done.stdout)]


async def _one(host: str, port: int, message: bytes, began: float) -> Reply:
    sent = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(message)
        answer = await reader.read()
        writer.close()
    except OSError:
        return Reply(0, sent - began, time.perf_counter() - sent, 0)
    total = time.perf_counter() - sent
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head else 0
    return Reply(status, sent - began, total, json.loads(body)["usage"]["completion_tokens"] if status == 200 else 0)


async def _run(asked: dict[str, Any]) -> list[Reply]:
    address = urlsplit(asked["url"])
    host, port = str(address.hostname), int(address.port or 80)
    body = json.dumps(asked["body"]).encode()
    message = (f"POST /generate HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\nConnection: close\r\n"
               f"Content-Length: {len(body)}\r\n\r\n").encode() + body
    began = time.perf_counter()
    if asked["clients"] is not None:
        found: list[Reply] = []

        async def client() -> None:
            while time.perf_counter() - began < asked["seconds"]:
                found.append(await _one(host, port, message, began))

        await asyncio.gather(*(client() for _ in range(asked["clients"])))
        return found
    running = []
    for number in range(int(asked["seconds"] * asked["rate"])):
        await asyncio.sleep(max(0.0, number / asked["rate"] - (time.perf_counter() - began)))
        running.append(asyncio.ensure_future(_one(host, port, message, began)))
    return list(await asyncio.gather(*running))


if __name__ == "__main__":
    json.dump([asdict(reply) for reply in asyncio.run(_run(json.load(sys.stdin)))], sys.stdout)
