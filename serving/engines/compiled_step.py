"""Decode steps through a layer that was compiled ahead of time, made in the background: until it is there, and wherever it doesn't pay, the eager step serves.

The compiler runs in a process of its own, at low priority and for a bounded time; its product is compared with the eager step and timed against it on a
real model before any answer uses it. The arithmetic is layer_step.py's. Legend: B rows, E model width, L layers, K key-value heads, D head width.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor

from experts.device import Device
from serving.engines.layer_step import FEWEST_COLUMNS, LayerShape
from serving.engines.passes import Rows
from serving.engines.slots import Slots
from settings import HOME

log = logging.getLogger(__name__)
_LIMIT_S = 300.0          # longest time for the compiler
_NEEDED_BYTES = 2**30     # free memory, below which it isn't started
_LARGEST_GAP = 1e-3       # between logits, so that greedy texts differ after a tie at most
_TIMED_STEPS = 20
_WORTHWHILE = 0.9         # share of the eager step's time from which the compiled one is used


class Steps(Protocol):
    """A forward that can take a compiled step. layer_shape: what that is compiled for; compiled: None until it has one."""

    layer_shape: LayerShape
    compiled: CompiledStep | None

    def new_slots(self, slots: int) -> Slots:
        """Empty slots of this model's shape."""

    def logits(self, rows: Rows, slots: Slots) -> Tensor:
        """fp32 logits (B, V) on the CPU after each row's last token; writes the new keys and values."""

    def compiled_logits(self, rows: Rows, slots: Slots, step: CompiledStep) -> Tensor:
        """The same by a compiled step, of rows that it takes."""


class CompiledStep:
    """All layers of a step of one row. run: layer_step.LayerStep over a list of its tensors. Used by one thread at a time."""

    def __init__(self, run: Callable[[list[Tensor]], Sequence[Tensor]]) -> None:
        self._run = run

    def takes(self, rows: Rows) -> bool:
        """Whether it can step these rows."""
        return len(rows.ids) == 1 and len(rows.ids[0]) == 1 and rows.offsets[0] >= FEWEST_COLUMNS

    def __call__(self, hidden_BE: Tensor, cos_BD: Tensor, sin_BD: Tensor, *, layers: Sequence[Sequence[Tensor]], slots: Slots, rows: Rows) -> Tensor:
        """The last layer's output (B, E); writes the new keys and values."""
        place, offset = rows.start, rows.offsets[0]
        new_keys, new_values = [], []
        for weights, keys, values in zip(layers, *slots.layers(place, offset), strict=True):
            hidden_BE, key_BKD, value_BKD = self._run([hidden_BE, cos_BD, sin_BD, keys, values, *weights])
            new_keys.append(key_BKD)
            new_values.append(value_BKD)
        slots.write_layers(place, offset, torch.cat(new_keys), torch.cat(new_values))
        return hidden_BE


def load_step(file: Path) -> CompiledStep:
    """From what layer_step.compile_layer wrote. Raises RuntimeError when it can't be loaded here."""
    package = torch._inductor.aoti_load_package(str(file), run_single_threaded=True)
    return CompiledStep(package.loader.run)  # calling the package itself parses a description of the arguments at every call


def can_compile(device: Device) -> bool:
    """Whether it can be tried: a torch that loads compiled packages, and a C++ compiler (CPU) or CUDA."""
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 6):
        return False
    compilers = [os.environ.get("CXX", ""), "cl"] if os.name == "nt" else [os.environ.get("CXX", ""), "g++", "clang++"]
    return device.kind == "cuda" or (device.kind == "cpu" and any(name and shutil.which(name) for name in compilers))


class StepCompiler:
    """Compiles once for all forwards of a shape. Every method from any thread."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._made: dict[LayerShape, CompiledStep | None] = {}
        self._waiting: dict[LayerShape, weakref.WeakSet[Any]] = {}
        self._threads: list[threading.Thread] = []
        self._child: subprocess.Popen[str] | None = None
        self._closing = threading.Event()
        self._turn = threading.Lock()  # one compiler at a time

    def give(self, forward: Steps) -> None:
        """Give a forward the step of its shape if there is one: a new version goes on as fast as the one before it."""
        with self._lock:
            forward.compiled = self._made.get(forward.layer_shape)

    def want(self, forward: Steps) -> None:
        """Give a forward its compiled step, now or once there is one. Holds no forward that nobody else holds."""
        shape = forward.layer_shape
        with self._lock:
            if self._closing.is_set():
                return
            if shape in self._made:
                forward.compiled = self._made[shape]
                return
            if shape not in self._waiting:
                self._waiting[shape] = weakref.WeakSet()
                self._threads.append(threading.Thread(target=self._make, args=(shape,), name="compile-step", daemon=True))
                self._threads[-1].start()
            self._waiting[shape].add(forward)

    def wait(self) -> None:
        """Until nothing is being compiled; for measurements."""
        for thread in list(self._threads):
            thread.join()

    def close(self) -> None:
        """Stop the compiler; what was compiled stays usable."""
        with self._lock:
            self._closing.set()
            if self._child is not None:
                self._child.kill()

    def _make(self, shape: LayerShape) -> None:
        step: CompiledStep | None = None
        try:
            with self._turn, tempfile.TemporaryDirectory(prefix="branchwise-step-", ignore_cleanup_errors=True) as folder:
                step = self._if_worthwhile(shape, self._compiled(shape, Path(folder)))
        except (RuntimeError, OSError, ImportError, ValueError, AttributeError, psutil.Error) as error:  # of torch, the compiler or its process
            if not self._closing.is_set():
                log.warning("no compiled decode step, the eager one goes on: %s: %s", type(error).__name__, str(error).partition("\n")[0][:300])
        with self._lock:
            forwards = list(self._waiting.pop(shape))
            if forwards:  # else nothing could be measured; the next model of this shape begins again
                self._made[shape] = step
            for forward in forwards:
                forward.compiled = step

    def _compiled(self, shape: LayerShape, folder: Path) -> CompiledStep:
        """Run the compiler. Raises RuntimeError when it fails or takes too long, OSError when it can't be started."""
        free = psutil.virtual_memory().available
        if free < _NEEDED_BYTES:
            raise RuntimeError(f"compiling needs {_NEEDED_BYTES >> 20} MiB of free memory, there are {free >> 20}")
        file, began = folder / "layer.pt2", time.monotonic()
        # Everything that torch leaves behind goes with the folder, which also keeps another program's half-written cache out.
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder), "TMPDIR": str(folder), "TMP": str(folder)}
        command = [sys.executable, "-m", "serving.engines.layer_step", shape.to_json(), str(file)]
        with self._lock:
            if self._closing.is_set():
                raise RuntimeError("closing")
            child = self._child = subprocess.Popen(command, cwd=HOME, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                                   stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace")
        try:
            psutil.Process(child.pid).nice(psutil.IDLE_PRIORITY_CLASS if sys.platform == "win32" else 19)
            _, words = child.communicate(timeout=_LIMIT_S)
        except (subprocess.TimeoutExpired, psutil.Error) as error:
            child.kill()
            child.communicate()
            raise RuntimeError(f"the compiler did not end within {_LIMIT_S:.0f} s") from error
        if child.returncode:
            raise RuntimeError(f"the compiler ended with exit code {child.returncode}: {(words.strip().splitlines() or ['no message'])[-1]}")
        log.info("compiled a decode step in %.1f s", time.monotonic() - began)
        return load_step(file)

    def _if_worthwhile(self, shape: LayerShape, step: CompiledStep) -> CompiledStep | None:
        """The step when it gives the eager step's numbers in clearly less time on a model that is loaded, else None. Raises RuntimeError when
        its numbers differ."""
        with self._lock:
            forward = next(iter(self._waiting[shape]), None)
        if forward is None:
            return None
        with self._device.turn(), torch.no_grad():
            gap, eager_s, compiled_s = compare(forward, step)
        if not gap <= _LARGEST_GAP:
            raise RuntimeError(f"its logits differ from the eager ones by {gap:.2g}")
        log.info("a step of one row takes %.2f ms, compiled %.2f ms", eager_s * 1e3, compiled_s * 1e3)
        return step if compiled_s <= _WORTHWHILE * eager_s else None


def compare(forward: Steps, step: CompiledStep) -> tuple[float, float, float]:
    """Largest gap between logits, and the shortest seconds of an eager and of a compiled step in the middle of a context."""
    slots = forward.new_slots(1)
    filled = max(FEWEST_COLUMNS, min(64, slots.columns // 2))
    forward.logits(Rows(0, [[number % 7 for number in range(filled)]], [0], [filled - 1]), slots)
    rows = Rows(0, [[1]], [filled], [0])

    def eager() -> Tensor:
        return forward.logits(rows, slots)

    def compiled() -> Tensor:
        return forward.compiled_logits(rows, slots, step)

    gap = float((eager() - compiled()).abs().max())
    times: dict[Callable[[], Tensor], list[float]] = {eager: [], compiled: []}
    for _ in range(_TIMED_STEPS):  # in turn, so that a busy moment of the machine hits both
        for way, seen in times.items():
            began = time.perf_counter()
            way()
            seen.append(time.perf_counter() - began)
    return gap, min(times[eager]), min(times[compiled])
