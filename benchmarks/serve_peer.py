"""`transformers serve` (continuous batching) as a peer of the torch engine: both over HTTP, asked by the same client in another process.

It holds one model at a time for continuous batching and stops when another is asked for. So five experts take five servers, and ours over
five experts is compared with these, asked for the same mix, and with one server that gets every stream for one expert, its best form.
Needs pip install "transformers[serving]". Says nothing about quality.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import requests

from benchmarks import load_client
from benchmarks.live_gateway import gateway_process, wait_ready
from benchmarks.measuring import Figure, alternate, compared
from experts.tokenizer import Message
from settings import Settings

log = logging.getLogger(__name__)
_PEER = "transformers serve, continuous batching"
_BLOCK_TOKENS = 256  # of its paged cache, by default


def installed() -> bool:
    """Whether it can be started here."""
    return all(importlib.util.find_spec(name) is not None for name in ("fastapi", "uvicorn", "openai"))


def against_transformers_serve(settings: Settings, folders: Mapping[str, Path], *, talk: Sequence[Message], streams: int,
                               new_tokens: int, rounds: int) -> list[Figure]:
    """Tokens a second of both, with the same number of streams. folders: version of each expert, the first is the one that gets all streams alone."""
    experts = list(folders)
    blocks = streams * -(-settings.model.context_tokens // _BLOCK_TOKENS)
    load = _Load(talk, streams, new_tokens)
    figures = []
    with gateway_process(settings) as child:
        wait_ready(child.url)
        for peers, cases in ((experts[:1], (experts[:1], experts)), (experts, (experts,))):
            with ExitStack() as running:
                threads = max(1, _cores() // len(peers)) if len(peers) > 1 else None
                urls = [running.enter_context(transformers_serve(folders[name], blocks=blocks, threads=threads)) for name in peers]
                for asked in cases:
                    ways = {"ours": functools.partial(load.ours, child.url, asked),
                            "peer": functools.partial(load.theirs, urls, [folders[name] for name in peers])}
                    for way in ways.values():
                        way()  # a warm-up
                    found = alternate(ways, rounds=rounds)
                    figures.append(compared(f"torch engine over HTTP, {streams} streams, {_experts(len(asked))}", unit="tok/s", ours=found["ours"],
                                            peer=found["peer"], peer_name=f"{_PEER}, {_experts(len(peers))}, a server each"))
                    log.info("%s", figures[-1])
    return figures


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _experts(count: int) -> str:
    return "one expert" if count == 1 else f"{count} experts"


@dataclass(frozen=True, slots=True)
class _Load:
    """So many streams of one prompt each, answered with exactly new_tokens tokens."""

    talk: Sequence[Message]
    streams: int
    new_tokens: int

    def ours(self, url: str, nodes: Sequence[str]) -> float:
        """Tokens a second of our gateway, stream by stream another node."""
        return self._rate([url], "/generate", [[{"messages": self.talk, "node": nodes[number % len(nodes)], "max_new_tokens": self.new_tokens,
                                                 "ignore_end": True, "loop_guard": False, "stream": True}] for number in range(self.streams)])

    def theirs(self, urls: Sequence[str], folders: Sequence[Path]) -> float:
        """Tokens a second of the servers together, stream by stream another one; folders: the version that each serves."""
        config = json.dumps({"do_sample": False, "eos_token_id": -1, "pad_token_id": 0, "max_new_tokens": self.new_tokens})
        return self._rate(urls, "/v1/chat/completions", [[{"model": str(folders[number % len(folders)]), "messages": self.talk, "max_tokens": self.new_tokens,
                                                           "stream": True, "generation_config": config}] for number in range(self.streams)])

    def _rate(self, urls: Sequence[str], path: str, bodies: Sequence[Sequence[dict[str, Any]]]) -> float:
        seen = load_client.send(urls, bodies, path=path)
        assert {sent.tokens for sent in seen.requests} == {self.new_tokens}, [(sent.status, sent.ended, sent.tokens) for sent in seen.requests]
        return seen.tokens / seen.wall_s


@contextmanager
def transformers_serve(folder: Path, *, blocks: int, threads: int | None, start_s: float = 120.0) -> Iterator[str]:
    """Its address, once it answers; killed at the end. blocks: of its paged cache, for which it otherwise takes 80 to 90 % of all memory at the
    first request, with masks for 8,192 tokens a pass. threads: of its products, None: its own choice; several servers
    with every core each wait for one another."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--continuous-batching", "--device", "cpu",
               "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port), "--cb-num-blocks", str(blocks), "--cb-max-batch-tokens", "1024"]
    bound = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as words:
        process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1", **bound}, stdout=subprocess.DEVNULL, stderr=words)
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
