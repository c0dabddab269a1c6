"""serve: tokens a second and time to the first token, against generate and llama.cpp called directly

Random models (5.7 M parameters unless said otherwise), fixed lengths, greedy. The torch engine is measured without HTTP, as its peer
generate is, and with it beside transformers serve; the llama.cpp engine through HTTP, at a client in another process. Says nothing about quality.
"""

from __future__ import annotations

import argparse
import functools
import logging
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import settings as configuration
from benchmarks import load_client
from benchmarks.live_gateway import gateway_process, wait_ready
from benchmarks.measuring import Figure, alternate, compared
from benchmarks.overload import end_under_load, overload
from benchmarks.random_run import make_run
from benchmarks.serve_peer import against_transformers_serve, installed
from benchmarks.serve_ways import TALK, Load, ways
from experts.registry import Registry
from experts.tree import Tree
from serving.engines.interface import EngineLimits, Model, Piece, Work
from serving.engines.llamacpp_engine import LlamaCppEngine, options_of
from settings import Settings

log = logging.getLogger(__name__)
EXPERTS = ("math", "reasoning", "conversation", "knowledge", "code")
_FIRSTS = 40  # first tokens a round


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--device", default="cpu", help="device of the torch engine and of generate (default cpu)")
    parser.add_argument("--tokens", type=int, default=96, help="tokens an answer (default 96)")
    parser.add_argument("--streams", type=int, default=32, help="streams at once (default 32)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, the ways taking turns (default 3)")
    parser.add_argument("--only", choices=("torch", "transformers", "llamacpp", "first", "overload"), help="a part alone")
    parser.add_argument("--engine", choices=("auto", "torch", "llamacpp"), default="auto", help="engine of the part overload (default auto)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each phase of the part overload (default 10)")


def toy_settings(run_dir: str, *, streams: int = 32, **serve: Any) -> Settings:
    """5.7 M parameters a node, one promoted version each."""
    return configuration.check({
        "run": {"dir": run_dir}, "tokenizer": {"vocab_size": 2048},
        "model": {"layers": 6, "width": 256, "heads": 4, "kv_heads": 2, "intermediate": 864, "context_tokens": 512},
        "serve": {"slots": streams, "poll_s": 0.5, "loop_repeats": None, **serve}})


def measure(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Figure]:
    """Every figure, or those of one part."""
    if arguments.tokens < 2 or arguments.streams < len(EXPERTS) or arguments.rounds < 1:
        parser.error(f"at least 2 tokens, {len(EXPERTS)} streams and 1 round are needed")
    if arguments.only == "overload":
        return _overload(arguments)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        settings = toy_settings(folder, streams=arguments.streams)
        registry = make_run(settings, nodes=("generalist", *EXPERTS))
        figures: list[Figure] = []
        if arguments.only in (None, "torch"):
            figures += _torch(registry, arguments)
        if arguments.only in (None, "transformers"):
            figures += _transformers(folder, arguments)
        if arguments.only in (None, "llamacpp"):
            figures += _llamacpp(settings, registry, arguments)
        if arguments.only in (None, "first"):
            figures += _first_token(settings, registry, arguments)
    return figures if arguments.only else figures + _overload(arguments)


def _overload(arguments: argparse.Namespace) -> list[Figure]:
    """8 slots and 8 places in the queue, answers as long as a request that says nothing gets."""
    figures: list[Figure] = []
    for part in (functools.partial(overload, seconds=arguments.seconds), end_under_load):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            settings = toy_settings(folder, streams=8, queue=8, engine=arguments.engine)
            figures += part(settings, new_tokens=min(settings.serve.default_new_tokens, settings.model.context_tokens // 2))
    return figures


def _folders(registry: Registry) -> list[Path]:
    found = [registry.served(name) for name in EXPERTS]
    return [folder for folder in found if folder is not None]


def _torch(registry: Registry, arguments: argparse.Namespace) -> list[Figure]:
    folders = tuple(_folders(registry))
    single, crowd = Load(folders[:1], 1, arguments.tokens), f"{arguments.streams} streams"
    figures = []
    with ways(arguments.device, slots=arguments.streams) as processes:
        for name, ours, load in (("one stream", processes.eager, single), ("one stream, compiled step", processes.compiled, single),
                                 (f"{crowd}, one expert", processes.eager, Load(folders[:1], arguments.streams, arguments.tokens)),
                                 (f"{crowd}, five experts", processes.eager, Load(folders, arguments.streams, arguments.tokens))):
            both = {"ours": functools.partial(ours, load), "peer": functools.partial(processes.generate, load)}
            for way in both.values():
                way()  # a warm-up
            found = alternate(both, rounds=arguments.rounds)
            figures.append(compared(f"torch engine, {name}", unit="tok/s", ours=found["ours"], peer=found["peer"],
                                    peer_name="transformers generate, static batch"))
            log.info("%s", figures[-1])
    return figures


def _transformers(run_dir: str, arguments: argparse.Namespace) -> list[Figure]:
    if not installed():
        log.warning("transformers serve isn't measured: it needs pip install \"transformers[serving]\"")
        return []
    settings = toy_settings(run_dir, streams=arguments.streams, engine="torch")
    registry = Registry(Path(run_dir))
    folders = dict(zip(EXPERTS, _folders(registry), strict=True))
    return against_transformers_serve(settings, folders, talk=TALK, streams=arguments.streams, new_tokens=arguments.tokens, rounds=arguments.rounds)


def _llamacpp(settings: Settings, registry: Registry, arguments: argparse.Namespace) -> list[Figure]:
    """The peer has the models loaded as the gateway has them; for one stream there is also its best form, one model alone on every core."""
    cache, limits = Path(settings.run.dir) / "gguf", EngineLimits(slots=arguments.streams, loop_repeats=None)
    engine = LlamaCppEngine(cache, limits=limits, models=len(Tree.from_settings(settings.tree).trainable))
    models = [engine.load(folder, name=folder.parent.name) for folder in _folders(registry)]

    def alone() -> float:
        single = LlamaCppEngine(cache, limits=limits)
        rate = _direct([single.load(_folders(registry)[0], name="alone")], 1, arguments.tokens)
        single.close()
        return rate

    figures = []
    with gateway_process(settings) as child:
        wait_ready(child.url)
        for name, streams, spread in (("one stream", 1, 1), (f"{arguments.streams} streams, five experts", arguments.streams, len(EXPERTS))):
            bodies = [[{"messages": TALK, "node": EXPERTS[number % spread], "max_new_tokens": arguments.tokens, "ignore_end": True,
                        "loop_guard": False, "stream": True}] for number in range(streams)]

            def ours(bodies: list[list[dict[str, Any]]] = bodies) -> float:
                seen = load_client.send(child.url, bodies)
                assert seen.tokens == len(bodies) * arguments.tokens, [sent.ended for sent in seen.requests]
                return seen.tokens / seen.wall_s

            def peer(streams: int = streams, spread: int = spread) -> float:
                return _direct(models[:spread], streams, arguments.tokens)

            ours(), peer()
            found = alternate({"ours": ours, "peer": peer, **({"alone": alone} if streams == 1 else {})}, rounds=arguments.rounds)
            for key, what in (("peer", "llama.cpp called directly"), ("alone", "llama.cpp called directly, one model, every core")):
                if key in found:
                    figures.append(compared(f"llamacpp engine over HTTP, {name}", unit="tok/s", ours=found["ours"], peer=found[key], peer_name=what))
                    log.info("%s", figures[-1])
    engine.close()
    return figures


def _direct(models: Sequence[Any], streams: int, new_tokens: int) -> float:
    """Tokens a second of llama.cpp in this process, whole answers, no callback a token."""
    def run(model: Any) -> None:
        options = {**options_of(Work(model.encode(TALK), new_tokens, ignore_end=True)), "stream": False}
        del options["stream_options"]
        reply = model.server.handle_completions(options)
        assert reply["usage"]["completion_tokens"] == new_tokens

    threads = [threading.Thread(target=run, args=(models[number % len(models)],)) for number in range(streams)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return streams * new_tokens / (time.perf_counter() - began)


def _first_token(settings: Settings, registry: Registry, arguments: argparse.Namespace) -> list[Figure]:
    """What router, gateway and HTTP add to the first token: seen by a client, less what the engine alone needs, the two taking turns."""
    engine = LlamaCppEngine(Path(settings.run.dir) / "gguf", limits=EngineLimits(slots=arguments.streams, loop_repeats=None),
                            models=len(Tree.from_settings(settings.tree).trainable))
    folder = registry.served("math")
    assert folder is not None
    model = engine.load(folder, name="math")
    body = {"messages": TALK, "max_new_tokens": 2, "ignore_end": True, "stream": True}
    seen: list[float] = []
    alone: list[float] = []
    with gateway_process(settings) as child:
        wait_ready(child.url)
        load_client.send(child.url, [[body] * 5])
        _first_of(model)
        for _ in range(arguments.rounds):
            alone += [_first_of(model) for _ in range(_FIRSTS)]
            seen += [sent.first_s for sent in load_client.send(child.url, [[body] * _FIRSTS]).requests]
    engine.close()
    figures = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        ours, peer = (statistics.quantiles(times, n=100, method="inclusive")[round(share * 100) - 1] * 1e3 for times in (seen, alone))
        figures.append(Figure(f"first token over HTTP, routed, {name}", "ms", ours, peer, "the engine alone", ours / peer))
        figures.append(Figure(f"added by router and gateway, {name}", "ms", ours - peer))
    return figures


def _first_of(model: Model) -> float:
    began = time.perf_counter()
    stream = model.submit(Work(model.encode(TALK), 2, ignore_end=True))
    assert isinstance(stream.next(timeout_s=60.0), Piece)
    first = time.perf_counter() - began
    while isinstance(stream.next(timeout_s=60.0), Piece):
        pass
    return first
