"""`transformers serve` as a peer of the torch engine: both over HTTP, asked by the same client in another process.

Its continuous batching holds one model at a time, and drops what runs when another is asked for. So ours over five experts is compared with
every form that answers the same mix: one server with continuous batching, an expert after the other (the fastest of one server); one server without
it, where every model answers its own requests one at a time; five servers, a model each. And with one server that gets every stream for one expert,
which isn't the same work. Needs pip install "transformers[serving]". Says nothing about quality.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
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
_PEER = "transformers serve"
_BLOCK_TOKENS = 256  # of its paged cache, by default


def installed() -> bool:
    """Whether it can be started here."""
    return all(importlib.util.find_spec(name) is not None for name in ("fastapi", "uvicorn", "openai"))


def against_transformers_serve(settings: Settings, folders: Mapping[str, Path], *, talk: Sequence[Message], streams: int,
                               new_tokens: int, rounds: int) -> list[Figure]:
    """Tokens a second of both, with the same number of streams. folders: version of each expert, the first is the one that gets all streams alone."""
    experts, paged = list(folders), streams * -(-settings.model.context_tokens // _BLOCK_TOKENS)
    load = _Load(talk, streams, new_tokens)
    figures: list[Figure] = []

    def compare(asked: Sequence[str], theirs: Callable[[], float], form: str) -> None:
        ways: dict[str, Callable[[], float]] = {"ours": functools.partial(load.ours, child.url, asked), "peer": theirs}
        for way in ways.values():
            way()  # a warm-up
        found = alternate(ways, rounds=rounds)
        figures.append(compared(f"torch engine over HTTP, {streams} streams, {_experts(len(asked))}", unit="tok/s", ours=found["ours"], peer=found["peer"],
                                peer_name=f"{_PEER}, {form}"))
        log.info("%s", figures[-1])

    with gateway_process(settings) as child:
        wait_ready(child.url)
        versions = [folders[name] for name in experts]
        with transformers_serve(blocks=paged) as url:
            compare(experts[:1], functools.partial(load.theirs, [url], versions[:1]), "continuous batching, one server, one expert")
            compare(experts, functools.partial(load.theirs, [url], versions[:1]), "continuous batching, one server, all streams for one expert")
            compare(experts, functools.partial(load.theirs_in_turn, url, versions), "continuous batching, one server, the same mix, an expert after the other")
        threads = max(1, _cores() // len(experts))  # in both, models work side by side, and teams of every core would wait for one another
        with transformers_serve(threads=threads) as url:
            compare(experts, functools.partial(load.theirs, [url], versions), "one server, the same mix, without continuous batching")
        with ExitStack() as running:
            urls = [running.enter_context(transformers_serve(blocks=paged, threads=threads)) for _ in experts]
            compare(experts, functools.partial(load.theirs, urls, versions), f"continuous batching, {len(experts)} servers, the same mix")
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
        return self._rate(urls, "/v1/chat/completions", [[self._chat(folders[number % len(folders)])] for number in range(self.streams)])

    def theirs_in_turn(self, url: str, folders: Sequence[Path]) -> float:
        """Tokens a second of one server that gets the same mix, all streams of an expert at once and the experts one after the other."""
        counts = {folder: len(range(number, self.streams, len(folders))) for number, folder in enumerate(folders)}
        seconds = [self.new_tokens * count / self._rate([url], "/v1/chat/completions", [[self._chat(folder)]] * count) for folder, count in counts.items()]
        return self.new_tokens * self.streams / sum(seconds)

    def _chat(self, folder: Path) -> dict[str, Any]:
        config = json.dumps({"do_sample": False, "eos_token_id": -1, "pad_token_id": 0, "max_new_tokens": self.new_tokens})
        return {"model": str(folder), "messages": self.talk, "max_tokens": self.new_tokens, "stream": True, "generation_config": config}

    def _rate(self, urls: Sequence[str], path: str, bodies: Sequence[Sequence[dict[str, Any]]]) -> float:
        seen = load_client.send(urls, bodies, path=path)
        assert {sent.tokens for sent in seen.requests} == {self.new_tokens}, [(sent.status, sent.ended, sent.tokens) for sent in seen.requests]
        return seen.tokens / seen.wall_s


@contextmanager
def transformers_serve(*, blocks: int | None = None, threads: int | None = None, start_s: float = 120.0) -> Iterator[str]:
    """Its address, once it answers; killed at the end. Loads what is asked for. blocks: of the paged cache of its continuous batching, for which it
    otherwise takes 80 to 90 % of all memory at the first request, with masks for 8,192 tokens a pass; None: without it. threads: of its
    products, None: its own choice; several servers with every core each wait for one another."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    batching = [] if blocks is None else ["--continuous-batching", "--cb-num-blocks", str(blocks), "--cb-max-batch-tokens", "1024"]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1",
               "--port", str(port), *batching]
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
