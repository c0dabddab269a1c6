"""What others see when there is more load than room: refusals, goodput, slots after clients that leave, the end under load.

Parts of `python -m benchmarks serve`. Every gateway is a process of its own, every client too.
"""

from __future__ import annotations

import json
import logging
import socket
import statistics
import threading
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import requests

from benchmarks import load_client
from benchmarks.live_gateway import gateway_process, wait_ready
from benchmarks.measuring import Figure
from benchmarks.random_run import make_run
from benchmarks.storm_client import Reply, storm
from settings import Settings

log = logging.getLogger(__name__)


def overload(settings: Settings, *, seconds: float, new_tokens: int) -> list[Figure]:
    """Ten times the load that the gateway can take, then clients that read slowly, say half a request, or leave."""
    make_run(settings, nodes=("generalist",), with_router=False)
    slots = settings.serve.slots
    body = {"prompt": "count with me", "max_new_tokens": new_tokens, "temperature": 1.0, "ignore_end": True, "loop_guard": False}
    with gateway_process(settings) as child:
        wait_ready(child.url)
        storm(child.url, body, seconds=1.0, clients=slots)
        free = storm(child.url, body, seconds=seconds, clients=slots)
        best = _goodput(free)
        offered = 10 * best / new_tokens
        loaded = storm(child.url, body, seconds=seconds, rate=offered)
        figures = _figures(loaded, best=best, offered=offered)
        long = {**body, "max_new_tokens": min(8 * new_tokens, settings.model.context_tokens // 2), "stream": True}
        for what, does in (("slow readers", _slow_readers), ("half-open connections", _half_open), ("500 disconnects", _leave)):
            figures.append(Figure(f"every slot free after {what}", "s", does(child.url, long, slots)))
            log.info("%s", figures[-1])
    return figures


def _goodput(replies: list[Reply]) -> float:
    """Tokens a second of whole answers, from the first request to the last answer."""
    return sum(reply.tokens for reply in replies) / max(reply.sent_s + reply.total_s for reply in replies)


def _figures(loaded: list[Reply], *, best: float, offered: float) -> list[Figure]:
    seen = Counter(reply.status for reply in loaded)
    log.info("ten times the load: %s", dict(seen))
    refused = [reply.total_s * 1e3 for reply in loaded if reply.status in (429, 503)] or [0.0]
    quantiles = statistics.quantiles(refused, n=100, method="inclusive") if len(refused) > 1 else refused * 99
    goodput = _goodput(loaded)
    return [Figure("overload: requests offered", "1/s", offered), Figure("overload: answered", "count", seen[200]),
            Figure("overload: refused", "count", seen[429] + seen[503]),
            Figure("overload: neither 200, 429 nor 503", "count", sum(count for status, count in seen.items() if status not in (200, 429, 503))),
            Figure("overload: refusal, p50", "ms", quantiles[49]), Figure("overload: refusal, p99", "ms", quantiles[98]),
            Figure("overload: goodput", "tok/s", goodput, best, "as many clients as slots", goodput / best)]


def _open(url: str, body: dict[str, Any], *, whole: bool = True) -> socket.socket:
    address, data = urlsplit(url), json.dumps(body).encode()
    client = socket.create_connection((str(address.hostname), int(address.port or 80)), timeout=60)
    head = f"POST /generate HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    client.sendall(head.encode() + (data if whole else data[:10]))
    return client


def _held(url: str) -> float:
    lines = requests.get(f"{url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines
               if line.startswith(("branchwise_busy_slots", "branchwise_waiting_requests", "branchwise_running_answers")))


def _until_free(url: str) -> float:
    began = time.monotonic()
    while _held(url) > 0:
        if time.monotonic() - began > 60:
            return float("inf")
        time.sleep(0.02)
    return time.monotonic() - began


def _slow_readers(url: str, body: dict[str, Any], slots: int) -> float:
    """Clients on every slot that read nothing while as many others are answered in full; then they leave."""
    readers = [_open(url, body) for _ in range(slots // 2)]
    answered = storm(url, {**body, "stream": False}, seconds=0.5, clients=slots // 2)
    assert {reply.status for reply in answered} == {200}, answered
    for reader in readers:
        reader.close()
    return _until_free(url)


def _half_open(url: str, body: dict[str, Any], slots: int) -> float:
    """Connections that never finish their request hold no slot."""
    clients = [_open(url, body, whole=False) for _ in range(8 * slots)]
    free = _until_free(url)
    answered = storm(url, {**body, "stream": False}, seconds=0.5, clients=slots)
    assert {reply.status for reply in answered} == {200}, answered
    for client in clients:
        client.close()
    return free


def _leave(url: str, body: dict[str, Any], slots: int) -> float:
    """500 clients ask for long streams and leave, as many at once as there are slots."""
    def leave() -> None:
        for _ in range(-(-500 // slots)):
            client = _open(url, body)
            client.close()

    threads = [threading.Thread(target=leave) for _ in range(slots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _until_free(url)


def end_under_load(settings: Settings, *, new_tokens: int) -> list[Figure]:
    """SIGTERM while every slot streams and others wait: how every accepted request ended, and the process."""
    make_run(settings, nodes=("generalist",), with_router=False)
    clients = settings.serve.slots + settings.serve.queue // 2
    body = {"prompt": "count with me", "max_new_tokens": new_tokens, "temperature": 1.0, "ignore_end": True, "loop_guard": False, "stream": True}
    with gateway_process(settings) as child:
        wait_ready(child.url)
        seen: list[load_client.Sent] = []
        readers = [threading.Thread(target=lambda: seen.append(load_client.one(child.url, body))) for _ in range(clients)]
        for reader in readers:
            reader.start()
        while _held(child.url) < clients:
            time.sleep(0.02)
        began = time.monotonic()
        child.stop()
        for reader in readers:
            reader.join()
        code = child.process.wait(timeout=settings.serve.drain_s + 60)
        took = time.monotonic() - began
    ends = Counter(sent.ended for sent in seen)
    log.info("ends under SIGTERM: %s", dict(ends))
    return [Figure("SIGTERM: requests under way", "count", clients), Figure("SIGTERM: ended whole", "count", ends["done"]),
            Figure("SIGTERM: ended with an error event or 503", "count", ends["error"] + ends["draining"]),
            Figure("SIGTERM: ended otherwise", "count", clients - ends["done"] - ends["error"] - ends["draining"]),
            Figure("SIGTERM: exit code", "code", code), Figure("SIGTERM: signal to exit", "s", took)]
