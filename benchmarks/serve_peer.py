"""`transformers serve` (continuous batching) as a peer of the torch engine: both over HTTP, asked by the same client in another process.

It holds one model at a time for continuous batching and stops when another is asked for, so it gets every stream for one expert, which is
its best form, and is compared with ours over one expert and over five. Needs pip install "transformers[serving]". Says nothing about quality.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import requests

from benchmarks import load_client
from benchmarks.live_gateway import gateway_process, wait_ready
from benchmarks.measuring import Figure, alternate, compared
from experts.tokenizer import Message
from settings import Settings

log = logging.getLogger(__name__)
_PEER = "transformers serve, continuous batching, one expert"
_BLOCK_TOKENS = 256  # of its paged cache, by default


def installed() -> bool:
    """Whether it can be started here."""
    return all(importlib.util.find_spec(name) is not None for name in ("fastapi", "uvicorn", "openai"))


def against_transformers_serve(settings: Settings, folder: Path, *, experts: Sequence[str], talk: Sequence[Message], streams: int,
                               new_tokens: int, rounds: int) -> list[Figure]:
    """Tokens a second of both, with the same number of streams. folder: of the version that the peer serves."""
    theirs = [[{"model": str(folder), "messages": talk, "max_tokens": new_tokens, "stream": True, "generation_config": json.dumps(
        {"do_sample": False, "eos_token_id": -1, "pad_token_id": 0, "max_new_tokens": new_tokens})}]] * streams
    figures = []
    with gateway_process(settings) as child, transformers_serve(folder, blocks=streams * -(-settings.model.context_tokens // _BLOCK_TOKENS)) as url:
        wait_ready(child.url)
        for name, nodes in (("one expert", experts[:1]), (f"{len(experts)} experts", experts)):
            ours = [[{"messages": talk, "node": nodes[number % len(nodes)], "max_new_tokens": new_tokens, "ignore_end": True, "loop_guard": False,
                      "stream": True}] for number in range(streams)]
            ways = {"ours": functools.partial(_rate, child.url, "/generate", ours, new_tokens),
                    "peer": functools.partial(_rate, url, "/v1/chat/completions", theirs, new_tokens)}
            for way in ways.values():
                way()  # a warm-up
            found = alternate(ways, rounds=rounds)
            figures.append(compared(f"torch engine over HTTP, {streams} streams, {name}", unit="tok/s", ours=found["ours"], peer=found["peer"],
                                    peer_name=_PEER))
            log.info("%s", figures[-1])
    return figures


def _rate(url: str, path: str, bodies: Sequence[Sequence[dict[str, Any]]], new_tokens: int) -> float:
    seen = load_client.send(url, bodies, path=path)
    assert {sent.tokens for sent in seen.requests} == {new_tokens}, [(sent.status, sent.ended, sent.tokens) for sent in seen.requests]
    return seen.tokens / seen.wall_s


@contextmanager
def transformers_serve(folder: Path, *, blocks: int, start_s: float = 120.0) -> Iterator[str]:
    """Its address, once it answers; killed at the end. blocks: of its paged cache, for which it otherwise takes 80 to 90 % of all memory at the
    first request, with masks for 8,192 tokens a pass."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--continuous-batching", "--device", "cpu",
               "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port), "--cb-num-blocks", str(blocks), "--cb-max-batch-tokens", "1024"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as words:
        process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL, stderr=words)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_healthy(url, process, words, until=time.monotonic() + start_s)
            yield url
        finally:
            process.kill()
            process.wait()


def _wait_healthy(url: str, process: subprocess.Popen[bytes], words: IO[str], *, until: float) -> None:
    while time.monotonic() < until:
        if process.poll() is not None:
            words.seek(0)
            raise RuntimeError(f"transformers serve ended with {process.returncode}: {(words.read().strip().splitlines() or ['no message'])[-1]}")
        try:
            if requests.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            time.sleep(0.2)
    raise TimeoutError(f"{url} did not answer")
