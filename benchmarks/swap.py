"""swap: promotions under streaming clients, with failed requests, mixed versions and memory counted

Every promotion puts another random version of the root in force while clients stream; then the gateway is told to look.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import requests

from benchmarks import load_client
from benchmarks.live_gateway import gateway_process, wait_ready
from benchmarks.measuring import Figure
from benchmarks.random_run import add_node, make_run, train_tokenizer
from benchmarks.serve import toy_settings
from experts.registry import Registry
from settings import Settings

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--swaps", type=int, default=100, help="promotions (default 100)")
    parser.add_argument("--clients", type=int, default=8, help="streaming clients (default 8)")
    parser.add_argument("--engine", choices=("torch", "llamacpp", "auto"), default="auto")


def measure(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Figure]:
    """Count what went wrong and fit the memory's slope."""
    if arguments.swaps < 10 or arguments.clients < 1:
        parser.error("at least 10 swaps and 1 client are needed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return swap_under_load(toy_settings(folder, streams=16, engine=arguments.engine, poll_s=3600.0), swaps=arguments.swaps, clients=arguments.clients)


def swap_under_load(settings: Settings, *, swaps: int, clients: int, new_tokens: int = 24) -> list[Figure]:
    """Promote so many versions while clients stream answers without pause."""
    registry = make_run(settings, nodes=("generalist",), with_router=False)
    versions = _versions(registry, settings)
    with gateway_process(settings) as child:
        wait_ready(child.url)
        memory = psutil.Process(child.process.pid)
        sizes: list[float] = []
        took: list[float] = []
        over = threading.Event()
        seen: list[load_client.Sent] = []
        body = {"prompt": "count with me", "max_new_tokens": new_tokens, "temperature": 1.0, "ignore_end": True, "loop_guard": False, "stream": True}
        readers = [threading.Thread(target=_read, args=(child.url, body, over, seen)) for _ in range(clients)]
        for reader in readers:
            reader.start()
        for number in range(swaps):
            registry.promote({"generalist": versions[number % 2]}, reason="benchmark")
            began = time.perf_counter()
            reply = requests.post(f"{child.url}/admin/reload", timeout=60).json()
            took.append((time.perf_counter() - began) * 1e3)
            assert reply["changed"], reply
            time.sleep(0.05)
            sizes.append(memory.memory_info().rss / 2**20)
        over.set()
        for reader in readers:
            reader.join()
    settled = sizes[len(sizes) // 5:]
    slope = statistics.linear_regression(range(len(settled)), settled).slope
    broken = [sent for sent in seen if sent.status != 200 or sent.ended != "done" or sent.tokens != new_tokens]
    mixed = [sent for sent in seen if len(set(sent.versions)) != 1]
    return [Figure("requests during the swaps", "count", len(seen)), Figure("failed requests", "count", len(broken)),
            Figure("streams that changed version", "count", len(mixed)), Figure("versions seen", "count", len({v for sent in seen for v in sent.versions})),
            Figure("swap, promotion to served (p50)", "ms", statistics.median(took)), Figure("swap (slowest)", "ms", max(took)),
            Figure("memory after the first fifth", "MiB", settled[0]), Figure("memory at the end", "MiB", settled[-1]),
            Figure("memory slope", "MiB a swap", slope)]


def _versions(registry: Registry, settings: Settings) -> list[str]:
    """Two more versions, promoted in turn."""
    made = [add_node(registry, "generalist", train_tokenizer(settings.tokenizer), model=settings.model, seed=seed) for seed in (11, 12)]
    assert all(Path(registry.path("generalist", version)).is_dir() for version in made)
    return made


def _read(url: str, body: dict[str, Any], over: threading.Event, seen: list[load_client.Sent]) -> None:
    while not over.is_set():
        seen.append(load_client.one(url, body))
