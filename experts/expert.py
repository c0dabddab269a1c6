"""Expert: a model with its tokenizer on a device, which answers conversations and measures how likely a text is.

Loads and saves stock Hugging Face folders. Writing token by token is decoding.py's; does not know versions (registry.py), routes or HTTP.
Shapes: B rows, L tokens of the longest, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from experts import tokenizer as tokens
from experts.decoding import Task, writer
from experts.device import Device
from experts.device_rules import place_model
from experts.moe.model import make_known
from experts.tokenizer import Message, Tokenizer
from settings import DecodingSettings

log = logging.getLogger(__name__)

# Logits of a forward pass stay below this many numbers (fp32: 256 MB), whatever batch_rows says.
MAX_LOGITS = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Answer:
    """One generated answer. token_ids: without the end token. finish_reason: "stop" at the end token, else "length"."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class LogLikelihood:
    """Cost of a response. nats: summed over response and end token; tokens: how many; bytes: UTF-8 bytes of the response."""

    nats: float
    tokens: int
    bytes: int


class Expert:
    """A model that answers. Not safe for use by two threads at once."""

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, *, device: Device) -> None:
        self.model = place_model(model, to=device.torch, rules=device.rules).eval()
        self.tokenizer = tokenizer
        self.device = device

    @classmethod
    def load(cls, folder: Path, *, device: Device) -> Expert:
        """Read a Hugging Face folder in fp32; raises FileNotFoundError when it has no model or tokenizer."""
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"no config.json in {folder}; give a folder that holds a saved version")
        transformers.utils.logging.disable_progress_bar()
        make_known(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, attn_implementation=device.rules.attention)
        return cls(model, tokens.load(folder), device=device)

    def save(self, folder: Path) -> None:
        """Write a stock Hugging Face folder: config, safetensors, generation config, tokenizer, chat template."""
        transformers.utils.logging.disable_progress_bar()
        self.model.save_pretrained(folder, safe_serialization=True)
        tokens.save(self.tokenizer, folder)

    @property
    def context_tokens(self) -> int:
        """Longest sequence, prompt and answer together."""
        return int(self.model.config.max_position_embeddings)

    @property
    def parameters(self) -> int:
        """Trainable numbers, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def generate(self, conversations: Sequence[Sequence[Message]], *, max_new_tokens: int, temperature: float = 0.0, top_p: float = 1.0,
                 seed: int = 0, batch_rows: int = 64, repetition: DecodingSettings | None = None) -> list[Answer]:
        """One answer a conversation, in their order; temperature 0 is greedy; batch_rows: how many are written at once.

        An answer depends on its own conversation, the seed and its number alone, not on its neighbours in the batch.
        repetition: the rule that keeps it down (repetition.py); None: nothing does.
        A prompt that leaves no room for max_new_tokens loses tokens after its first role mark, down to half of the context.
        """
        prompts = [self._fit_prompt(tokens.prompt_ids(self.tokenizer, messages), max_new_tokens) for messages in conversations]
        limits = [min(max_new_tokens, self.context_tokens - len(prompt)) for prompt in prompts]
        draws = _draws(len(prompts), steps=max(limits, default=0), seed=seed) if temperature > 0 else None
        task = Task(prompts, limits, tokens.end_id(self.tokenizer), tokens.pad_id(self.tokenizer), temperature=temperature, top_p=top_p, draws=draws,
                    repetition=repetition)
        written = writer(self.model, task, device=self.device)
        with self.device.turn():
            written.run(batch_rows)
        return [Answer(tokens.decode(self.tokenizer, ids), tuple(ids), "stop" if stopped else "length", len(prompt))
                for prompt, ids, stopped in zip(prompts, written.answers, written.stopped, strict=True)]

    def _fit_prompt(self, ids: list[int], max_new_tokens: int) -> list[int]:
        room = max(self.context_tokens - max_new_tokens, self.context_tokens // 2)
        return ids if len(ids) <= room else ids[:1] + ids[len(ids) - room + 1:]

    def log_likelihood(self, pairs: Sequence[tuple[Sequence[Message], str]], *, batch_rows: int = 32) -> list[LogLikelihood]:
        """Cost of each response after its conversation, in their order, in fp32.

        A text longer than the context is read in windows that overlap by half, so that every token of the response counts once.
        """
        windows: list[_Window] = []
        sizes = []
        for pair, (messages, response) in enumerate(pairs):
            prompt, answer = tokens.prompt_ids(self.tokenizer, messages), tokens.answer_ids(self.tokenizer, response)
            sizes.append((len(answer), len(tokens.clean_text(response).encode())))
            windows += _windows(prompt + answer, first_scored=len(prompt), context=self.context_tokens, pair=pair)
        sums = [0.0] * len(pairs)
        for batch in _batches(windows, batch_rows=batch_rows, vocab_size=self.model.config.vocab_size):
            with self.device.turn():
                costs = self._window_nats(batch)
            for window, nats in zip(batch, costs, strict=True):
                sums[window.pair] += nats
        return [LogLikelihood(nats, count, size) for nats, (count, size) in zip(sums, sizes, strict=True)]

    @torch.no_grad()
    def _window_nats(self, windows: Sequence[_Window]) -> list[float]:
        width = max(len(window.ids) for window in windows)
        pad = tokens.pad_id(self.tokenizer)
        ids_BL = torch.tensor([window.ids + [pad] * (width - len(window.ids)) for window in windows])
        # Rows are filled on the right: under causal attention no real token sees the filling, so no mask is needed.
        logits_BLV = self.model(input_ids=ids_BL.to(self.device.torch), use_cache=False).logits.float()
        cost_BL = -logits_BLV[:, :-1].log_softmax(-1).gather(-1, ids_BL[:, 1:, None].to(logits_BLV.device)).squeeze(-1)
        costs = cost_BL.cpu().double()
        return [float(costs[row, window.first_scored - 1:len(window.ids) - 1].sum()) for row, window in enumerate(windows)]


@dataclass(frozen=True, slots=True)
class _Window:
    """A stretch of one text that fits the context; tokens from first_scored on count."""

    ids: list[int]
    first_scored: int
    pair: int


def _windows(ids: list[int], *, first_scored: int, context: int, pair: int) -> list[_Window]:
    windows, start, scored = [], 0, first_scored
    while scored < len(ids):
        end = min(start + context, len(ids))
        if end > scored:
            windows.append(_Window(ids[start:end], scored - start, pair))
            scored = end
        start += context // 2
    return windows


def _batches(windows: Sequence[_Window], *, batch_rows: int, vocab_size: int) -> list[list[_Window]]:
    batches: list[list[_Window]] = []
    for window in sorted(windows, key=lambda window: len(window.ids)):
        if batches and len(batches[-1]) < batch_rows and (len(batches[-1]) + 1) * len(window.ids) * vocab_size <= MAX_LOGITS:
            batches[-1].append(window)
        else:
            batches.append([window])
    return batches


def _draws(rows: int, *, steps: int, seed: int) -> Tensor:
    """Uniform numbers [rows, steps]; a row's numbers depend on seed and row alone."""
    drawn = [torch.rand(steps, generator=torch.Generator().manual_seed(seed * 1_000_003 + row)) for row in range(rows)]
    return torch.stack(drawn) if drawn else torch.empty(0, steps)
