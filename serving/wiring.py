"""From settings to a gateway: the device, its engine, the limits. The one place that knows which engines there are."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import torch

from experts.attach import is_running, loop_device
from experts.device import Device, DeviceError, choose
from experts.tree import Tree
from serving.engines.interface import Engine, EngineLimits, LoadFailed, Model
from serving.engines.llamacpp_engine import LlamaCppEngine
from serving.engines.torch_engine import TorchEngine
from serving.engines.upstream_engine import UpstreamModel
from serving.gateway import Gateway
from settings import Settings, SettingsError

__all__ = ["DeviceError", "make_engine", "make_gateway"]
log = logging.getLogger(__name__)
_COMPILE_PAYS_AFTER_S = 10.0  # about what compiling costs: whoever decodes for less never pays, whoever decodes on pays at most twice


def make_gateway(settings: Settings) -> Gateway:
    """A gateway on the device of serve.device, not started. Raises DeviceError or SettingsError."""
    device = _device(settings)
    threads = threads_of_gateway(settings.serve.threads, gateway=device.kind, loop=loop_device(Path(settings.run.dir)), cores=os.cpu_count() or 1)
    if threads is not None:
        torch.set_num_threads(threads)
    return Gateway(settings, engine=make_engine(settings, device=device, threads=threads), device=device, elsewhere=_elsewhere(settings))


def threads_of_gateway(wanted: int | None, *, gateway: str, loop: str | None, cores: int) -> int | None:
    """CPU threads of the engines, None for their own choice. Beside a loop that trains on the same CPU it is a quarter of the
    cores: two teams of threads that each want every core wait for each other at every step. loop: from loop_device. Pure."""
    if wanted is not None or gateway != "cpu" or loop is None or not loop.startswith("cpu"):
        return wanted
    return max(1, cores // 4)


def _device(settings: Settings) -> Device:
    """The device of serve.device, with the loop's in its reason; one that isn't shared stays the loop's while that is on it."""
    run_dir = Path(settings.run.dir)
    held = settings.run.device if settings.serve.device != "cpu" and is_running(run_dir) else None
    device, loop = choose(settings.serve.device, held=held), loop_device(run_dir)
    return device if loop is None else dataclasses.replace(device, reason=f"{device.reason}; the loop computes on {loop}")


def _elsewhere(settings: Settings) -> dict[str, Callable[[], Model]]:
    """How to reach the nodes of serve.upstream."""
    tree, serve = Tree.from_settings(settings.tree), settings.serve
    limits = EngineLimits(slots=serve.slots, queue=serve.queue, queue_wait_s=serve.queue_wait_s, coalesce_s=serve.coalesce_ms / 1e3)
    for node, url in serve.upstream.items():
        if node not in tree.nodes or tree.model_of(node) != node:
            raise SettingsError(f"serve.upstream.{node}: no node of that name has a model of its own; there are: {', '.join(tree.trainable)}")
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
            raise SettingsError(f"serve.upstream.{node} = {url!r}: no address; write it as http://host:8000/v1 or http://host:8000/v1#model")
    return {node: functools.partial(UpstreamModel, url, name=node, limits=limits) for node, url in serve.upstream.items()}


def make_engine(settings: Settings, *, device: Device, threads: int | None = None) -> Engine:
    """The engine of serve.engine; auto: llama.cpp on a CPU when it is installed, torch for what it can't take and elsewhere."""
    serve = settings.serve
    limits = EngineLimits(serve.slots, serve.queue, serve.prefill_tokens, serve.queue_wait_s, serve.loop_repeats,
                          serve.coalesce_ms / 1e3)
    decode = TorchEngine(device, limits=limits, compile_after_s=None if serve.compile == "off" else _COMPILE_PAYS_AFTER_S)
    installed = all(importlib.util.find_spec(name) is not None for name in ("xllamacpp", "gguf"))
    if serve.engine == "llamacpp" and not (installed and device.kind == "cpu"):
        raise SettingsError("serve.engine = \"llamacpp\" needs serve.device = \"cpu\" and the extra cpu: pip install \"branchwise[cpu]\"")
    if serve.engine == "torch" or not installed or device.kind != "cpu":
        return decode
    llamacpp = LlamaCppEngine(Path(settings.run.dir) / "gguf", limits=limits, threads=threads, kind=serve.gguf,
                              models=len(Tree.from_settings(settings.tree).trainable))
    return llamacpp if serve.engine == "llamacpp" else FirstThatCan([llamacpp, decode])


class FirstThatCan:
    """Engines in order of preference: a version goes to the first that can serve it."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self.name = "+".join(engine.name for engine in engines)

    def load(self, folder: Path, *, name: str) -> Model:
        """Load with the first engine that can; raises the last one's LoadFailed."""
        *preferred, last = self._engines
        for engine in preferred:
            try:
                return engine.load(folder, name=name)
            except LoadFailed as error:
                log.warning("%s; %s takes it", error, last.name)
        return last.load(folder, name=name)

    def close(self) -> None:
        """Close all of them."""
        for engine in self._engines:
            engine.close()
