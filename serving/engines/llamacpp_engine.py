"""Decoding by llama.cpp through xllamacpp: a version is exported to GGUF once (cached by its hash) and served from there.

For CPUs. Tokens are ours, so are limits, deadlines and the loop guard; stop strings, sampling and whole characters are
llama.cpp's. Does not know HTTP.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from experts import durable
from experts import tokenizer as tokens
from experts.gguf_export import ExportError, export
from experts.tokenizer import Message, Tokenizer
from serving.engines.interface import (
    Capacity,
    End,
    EngineClosed,
    EngineFull,
    EngineLimits,
    Failed,
    FinishReason,
    LoadFailed,
    Piece,
    Stream,
    TokenLogprob,
    Work,
)
from serving.engines.text_stream import LoopGuard
from serving.engines.waiting import WaitingLine

log = logging.getLogger(__name__)
_SAMPLERS = ["penalties", "dry", "temperature", "top_k", "top_p", "min_p"]  # the order of the torch engine and of transformers
_NO_SEED = 2**32 - 1  # llama.cpp's word for "any"
_NO_BREAKER = "\uffff\ufffe\uffff"  # it wants one at least: non-characters, which no text holds
_LARGE_BYTES = 256 * 2**20
_KEEP_UNUSED_S = 600.0  # a version that was taken back within this time needs no second export


class _Request:
    """One completion while llama.cpp calls back with it."""

    def __init__(self, work: Work, stream: Stream, *, loop_repeats: int | None) -> None:
        self.work = work
        self.stream = stream
        self.submitted = time.monotonic()
        self.started = 0.0
        self.count = 0
        self.ended = False
        self._guard = LoopGuard(repeats=loop_repeats) if loop_repeats and work.loop_guard else None

    def on_data(self, data: bytes) -> bool:
        """One event from llama.cpp; True tells it to stop."""
        reply = json.loads(data)
        if isinstance(reply, list) or "choices" not in reply:
            return self.fail(f"llama.cpp answered {str(reply)[:300]}")
        choice = reply["choices"][0]
        text, reason = choice["text"], choice["finish_reason"]
        logprobs = _logprobs(choice.get("logprobs"))
        if text or logprobs:
            self.count += 1
            self.stream.put(Piece(text, 1, logprobs))
        if reason is not None:
            return self.end("stop" if reason == "stop" else "length", completion_tokens=reply.get("usage", {}).get("completion_tokens"))
        if self.stream.cancelled:
            return self.end("cancelled")
        if self.work.deadline is not None and time.monotonic() > self.work.deadline:
            return self.end("deadline")
        if self._guard is not None and self._guard.push(hash(text)):
            return self.end("loop")
        return False

    def end(self, reason: FinishReason, *, completion_tokens: int | None = None) -> bool:
        """Say the last word, once."""
        if not self.ended:
            self.ended = True
            used = self.count if completion_tokens is None else completion_tokens
            self.stream.put(End(reason, len(self.work.prompt_ids), used, (self.started or time.monotonic()) - self.submitted))
        return True

    def fail(self, reason: str, *, queue: bool = False) -> bool:
        """Say that it broke, once."""
        if not self.ended:
            self.ended = True
            self.stream.put(Failed(reason, kind="queue" if queue else "broken"))
        return True


def _logprobs(found: Any) -> tuple[TokenLogprob, ...]:
    if not found or "content" not in found:
        return ()
    return tuple(TokenLogprob(one["token"], one["logprob"], tuple((top["token"], top["logprob"]) for top in one.get("top_logprobs", ())))
                 for one in found["content"])


class LlamaCppModel:
    """One version in llama.cpp: its slots, and a thread a slot that waits for its tokens."""

    unsupported = frozenset[str]()

    def __init__(self, file: Path, tokenizer: Tokenizer, *, name: str, context_tokens: int, limits: EngineLimits, threads: int, exact: bool,
                 on_close: Callable[[], None]) -> None:
        self.name = name
        self.context_tokens = context_tokens
        self.file = file
        self._tokenizer = tokenizer
        self._limits = limits
        self._on_close = on_close
        self._bytes = file.stat().st_size
        self.server: Any = _start_server(file, context_tokens=context_tokens, slots=limits.slots, threads=threads, exact=exact)
        self._line: WaitingLine[_Request] = WaitingLine(name=f"llama-{name.split(' ')[0]}", threads=limits.slots, wait_s=limits.queue_wait_s,
                                                        run=self._run, leave=self._leave)
        self._lock = threading.Lock()
        self._held: set[_Request] = set()
        self._closed = False

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Prompt ids of a conversation, ending where the answer begins."""
        return tuple(tokens.prompt_ids(self._tokenizer, messages))

    def submit(self, work: Work) -> Stream:
        """Reserve a slot or a place in the queue and start; raises EngineFull or EngineClosed."""
        stream = Stream(coalesce_s=self._limits.coalesce_s)
        request = _Request(work, stream, loop_repeats=self._limits.loop_repeats)
        with self._lock:
            if self._closed:
                raise EngineClosed(f"{self.name} was unloaded")
            if len(self._held) >= self._limits.slots + self._limits.queue:
                raise EngineFull(f"{self.name} holds {len(self._held)} requests: {self._limits.slots} slots and {self._limits.queue} waiting",
                                 retry_after_s=1.0)
            self._held.add(request)
            self._line.add(request)
        return stream

    def capacity(self) -> Capacity:
        """Slots, load and memory now; the memory is that of the weights."""
        with self._lock:
            held = len(self._held)
        return Capacity(self._limits.slots, min(held, self._limits.slots), max(0, held - self._limits.slots), self._bytes)

    def close(self) -> None:
        """End what runs and free the memory."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            running = list(self._held)
        for request in running:
            request.fail("the model was unloaded")
            request.stream.cancel()
        self._line.close(wait=True)
        self.server = None
        self._on_close()

    def _leave(self, request: _Request, cancelled: bool) -> None:
        with self._lock:
            self._held.discard(request)
        if cancelled:
            request.end("cancelled")
        else:
            request.fail(f"no slot of {self.name} came free in {time.monotonic() - request.submitted:.1f} s", queue=True)

    def _run(self, request: _Request) -> None:
        request.started = time.monotonic()
        try:
            if request.stream.cancelled:
                request.end("cancelled")
            else:
                self.server.handle_completions(json.dumps(options_of(request.work)).encode(), request.on_data)
                request.fail("llama.cpp ended without a last event")
        except Exception:  # whatever breaks one request must not end the thread that serves the next
            log.exception("decoding with %s broke", self.name)
            request.fail("llama.cpp raised")
        finally:
            with self._lock:
                self._held.discard(request)

    def warm_up(self) -> None:
        """Generate a little; raises LoadFailed when nothing or no number comes."""
        ids = self.encode([{"role": "user", "content": "1 + 1 = ?"}])[-self.context_tokens // 2:]
        stream = self.submit(Work(ids, 8, logprobs=0, ignore_end=True, loop_guard=False))
        event = stream.next(timeout_s=60.0)
        logprobs = []
        while isinstance(event, Piece):
            logprobs += [one.logprob for one in event.logprobs]
            event = stream.next(timeout_s=60.0)
        if not isinstance(event, End) or event.completion_tokens == 0 or not all(math.isfinite(one) for one in logprobs):
            raise LoadFailed(f"{self.name}: a warm-up generation with llama.cpp ended with {event}")


def options_of(work: Work) -> dict[str, Any]:
    """A completion request in llama.cpp's words."""
    sampling = work.sampling
    options: dict[str, Any] = {
        "prompt": list(work.prompt_ids), "n_predict": work.max_new_tokens, "stream": True, "cache_prompt": False, "stop": list(work.stop),
        "ignore_eos": work.ignore_end, "temperature": 0.0 if sampling.greedy else sampling.temperature, "top_k": sampling.top_k or 0, "top_p": sampling.top_p,
        "min_p": sampling.min_p, "repeat_penalty": sampling.repetition_penalty, "repeat_last_n": sampling.repetition_window_tokens,
        "seed": sampling.seed % _NO_SEED, "samplers": _SAMPLERS, "stream_options": {"include_usage": True}}
    if sampling.dry is not None:
        options |= {"dry_multiplier": sampling.dry.dry_multiplier, "dry_base": sampling.dry.dry_base, "dry_allowed_length": sampling.dry.dry_allowed_tokens,
                    "dry_penalty_last_n": sampling.dry.dry_window_tokens, "dry_sequence_breakers": [_NO_BREAKER]}
    if work.logprobs is not None:
        options["logprobs"] = max(1, work.logprobs)
    return options


def _start_server(file: Path, *, context_tokens: int, slots: int, threads: int, exact: bool) -> Any:
    import xllamacpp  # of the extra "cpu"

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel = context_tokens * slots, slots
    if exact:  # keys in f16 would move greedy texts; and on keys in f32 flash attention takes twice as long as plain attention
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers, params.warmup, params.cache_prompt, params.cache_ram_mib, params.verbosity = 0, False, False, 0, -1
    # It opens a port of its own, which we don't use: on loopback, under a key that nobody knows, with nothing to look at.
    params.port, params.api_keys, params.ui = 0, [secrets.token_hex(32)], False
    params.endpoint_slots = params.endpoint_metrics = params.endpoint_props = False
    return xllamacpp.Server(params)


def threads_of(weight_bytes: int, *, cores: int, models: int) -> int:
    """Threads of one model where several are loaded. More threads in all models together than cores, and OpenMP no longer spins
    at its barriers: a small model, whose step has hundreds of them, then loses four fifths of its speed. A large one doesn't notice. Pure."""
    return cores if weight_bytes >= _LARGE_BYTES else max(1, cores // models)


class LlamaCppEngine:
    """Loads versions into llama.cpp. cache: folder for the GGUF files; models: how many versions are loaded side by side;
    threads: of each, None for threads_of."""

    name = "llamacpp"

    def __init__(self, cache: Path, *, limits: EngineLimits, threads: int | None = None, kind: str = "f32", models: int = 1) -> None:
        self._cache = cache
        self._limits = limits
        self._threads = threads
        self._side_by_side = models
        self._kind = kind
        self._models: list[LlamaCppModel] = []
        self._listed = threading.Lock()  # models are loaded by one thread and closed by whichever gives the last hold back
        self._closing = False

    def load(self, folder: Path, *, name: str) -> LlamaCppModel:
        """Export if need be, load, warm up; raises LoadFailed."""
        try:
            file = self._exported(folder, name=name)
            context = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"])
            threads = self._threads or threads_of(file.stat().st_size, cores=os.cpu_count() or 1, models=self._side_by_side)
            model = LlamaCppModel(file, tokens.load(folder), name=name, context_tokens=context, limits=self._limits, threads=threads,
                                  exact=self._kind == "f32", on_close=self._tidy)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise LoadFailed(f"{name} from {folder} can't be served by llama.cpp: {type(error).__name__}: {error}") from error
        with self._listed:
            self._models.append(model)
        try:
            model.warm_up()
        except LoadFailed:
            model.close()
            raise
        return model

    def _tidy(self) -> None:
        """After a model closed: forget it, and remove files that no loaded one was made from."""
        with self._listed:
            self._models = [model for model in self._models if model.server is not None]
            in_use = [model.file for model in self._models]
        if not self._closing:  # the next start wants the same files
            remove_unused(self._cache, in_use=in_use, older_than_s=_KEEP_UNUSED_S)

    def _exported(self, folder: Path, *, name: str) -> Path:
        """The version's GGUF file, named by the hash of what it is made of."""
        parts = [durable.sha256_of(folder / part, cached=True)[:16] for part in ("model.safetensors", "tokenizer.json", "config.json")]
        file = self._cache / f"{'-'.join(parts)}-{self._kind}.gguf"
        if not file.exists():
            durable.ensure_folder(self._cache)
            export(folder, file, name=name, kind=self._kind)
        file.touch()  # its age counts from the last load
        return file

    def close(self) -> None:
        """Free every model."""
        self._closing = True
        for model in list(self._models):
            model.close()


def remove_unused(cache: Path, *, in_use: Collection[Path], older_than_s: float) -> None:
    """Remove exported files that nobody loaded lately; one that another process holds (Windows) stays."""
    for file in set(cache.glob("*.gguf")) - set(in_use):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > older_than_s:
                file.unlink()


__all__ = ["ExportError", "LlamaCppEngine", "LlamaCppModel", "options_of", "remove_unused", "threads_of"]
