"""Expert: a model with its tokenizer on a device, which answers conversations and measures how likely a text is.

Loads and saves stock Hugging Face folders. Does not know versions (registry.py), routes or HTTP.
Shapes: B rows, P prompt tokens, L cached tokens, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from experts import tokenizer as tokens
from experts.device import Device
from experts.device_rules import attention_mask, place_model
from experts.tokenizer import Message, Tokenizer

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


class SlotCache:
    """Keys and values in buffers that are allocated once and written by slices (transformers' own cache copies all of it each step).

    Stands in for a transformers Cache in models whose every layer is full attention.
    """

    is_compileable = False

    def __init__(self, *, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._filled: list[int] = []

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs: Any = None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Append the new keys and values of a layer; gives all of that layer so far."""
        if layer_idx == len(self._keys):
            rows, heads, _, width = key_states.shape
            self._keys.append(key_states.new_zeros((rows, heads, self.capacity, width)))
            self._values.append(value_states.new_zeros((rows, heads, self.capacity, width)))
            self._filled.append(0)
        start, end = self._filled[layer_idx], self._filled[layer_idx] + key_states.shape[2]
        self._keys[layer_idx][:, :, start:end] = key_states
        self._values[layer_idx][:, :, start:end] = value_states
        self._filled[layer_idx] = end
        self.length = end
        return self._keys[layer_idx][:, :, :end], self._values[layer_idx][:, :, :end]

    def keep_rows(self, rows: Tensor) -> None:
        """Drop every row that isn't named."""
        self._keys = [keys.index_select(0, rows) for keys in self._keys]
        self._values = [values.index_select(0, rows) for values in self._values]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of that layer so far."""
        return self._filled[layer_idx] if layer_idx < len(self._filled) else 0

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """How many tokens fit."""
        return self.capacity

    def __len__(self) -> int:
        return len(self._keys)


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
                 seed: int = 0, batch_rows: int = 64) -> list[Answer]:
        """One answer a conversation, in their order; temperature 0 is greedy.

        An answer depends on its own conversation, the seed and its number alone, not on its neighbours in the batch.
        A prompt that leaves no room for max_new_tokens loses tokens after its first role mark, down to half of the context.
        """
        prompts = [self._fit_prompt(tokens.prompt_ids(self.tokenizer, messages), max_new_tokens) for messages in conversations]
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        answers: dict[int, Answer] = {}
        for start in range(0, len(order), batch_rows):
            rows = order[start:start + batch_rows]
            limits = [min(max_new_tokens, self.context_tokens - len(prompts[row])) for row in rows]
            draws = _draws(rows, steps=max(limits), seed=seed) if temperature > 0 else None
            batch = _Batch(self, [prompts[row] for row in rows], limits=limits, temperature=temperature, top_p=top_p, draws=draws)
            for row, (ids, stopped) in zip(rows, batch.run(), strict=True):
                text = tokens.decode(self.tokenizer, ids)
                answers[row] = Answer(text, tuple(ids), "stop" if stopped else "length", len(prompts[row]))
        return [answers[row] for row in range(len(prompts))]

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
            for window, nats in zip(batch, self._window_nats(batch), strict=True):
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


def _draws(rows: Sequence[int], *, steps: int, seed: int) -> Tensor:
    """Uniform numbers [B, steps]; a row's numbers depend on seed and row alone."""
    return torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(seed * 1_000_003 + row)) for row in rows])


class _Batch:
    """Answers of one batch: left-filled prompts, one cached step a token, finished rows taken out."""

    def __init__(self, expert: Expert, prompts: Sequence[list[int]], *, limits: Sequence[int], temperature: float, top_p: float, draws: Tensor | None) -> None:
        self.model, self.device = expert.model, expert.device
        self.end_id, self.pad_id = tokens.end_id(expert.tokenizer), tokens.pad_id(expert.tokenizer)
        self.prompts, self.limits = prompts, limits
        self.temperature, self.top_p, self.draws = temperature, top_p, draws
        self.answers: list[list[int]] = [[] for _ in prompts]
        self.stopped = [False] * len(prompts)

    @torch.no_grad()
    def run(self) -> list[tuple[list[int], bool]]:
        """Ids of each answer without the end token, and whether the end token came."""
        width, steps = max(map(len, self.prompts)), max(self.limits)
        cache = SlotCache(capacity=width + steps)
        ids_BP, seen_BL, position_BP = self._left_filled(width, steps)
        mask = self._as_mask(_prompt_mask(seen_BL[:, :width]))
        ids, position, active = ids_BP, position_BP, list(range(len(self.prompts)))
        for step in range(steps):
            logits_BV = self._forward(ids, mask, position, cache)
            chosen = self._choose(logits_BV, step, active)
            alive = [place for place, token in enumerate(chosen) if self._take(active[place], token)]
            if not alive:
                break
            ids, position = torch.tensor(chosen)[:, None], position[:, -1:] + 1
            if len(alive) <= 0.8 * len(active):  # a copy of the cache costs about a step; don't make it for every row
                rows = torch.tensor(alive)
                cache.keep_rows(rows.to(self.device.torch))
                ids, position, seen_BL, active = ids[rows], position[rows], seen_BL[rows], [active[place] for place in alive]
            mask = self._as_mask(seen_BL[:, None, None, :width + step + 1])
        return list(zip(self.answers, self.stopped, strict=True))

    def _left_filled(self, width: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        ids_BP = torch.tensor([[self.pad_id] * (width - len(ids)) + ids for ids in self.prompts])
        lengths = torch.tensor([len(ids) for ids in self.prompts])
        seen_BL = torch.arange(width + steps)[None, :] >= (width - lengths)[:, None]
        position_BP = (torch.arange(width)[None, :] - (width - lengths)[:, None]).clamp(min=0)
        return ids_BP, seen_BL, position_BP

    def _as_mask(self, allowed: Tensor) -> Tensor:
        return attention_mask(allowed, rules=self.device.rules).to(self.device.torch)

    def _forward(self, ids: Tensor, mask: Tensor, position: Tensor, cache: SlotCache) -> Tensor:
        place = self.device.torch
        output = self.model(input_ids=ids.to(place), attention_mask=mask, position_ids=position.to(place),
                            past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits_BV: Tensor = output.logits[:, -1].float()
        return logits_BV.cpu() if self.device.rules.cpu_sampling else logits_BV

    def _choose(self, logits_BV: Tensor, step: int, active: Sequence[int]) -> list[int]:
        if self.draws is None:
            greedy: list[int] = logits_BV.argmax(-1).cpu().tolist()
            return greedy
        return sample(logits_BV.cpu(), temperature=self.temperature, top_p=self.top_p, draws=self.draws[list(active), step]).tolist()

    def _take(self, row: int, token: int) -> bool:
        """Note a row's next token; False when the row has ended."""
        if self.stopped[row] or len(self.answers[row]) >= self.limits[row]:
            return False
        if token == self.end_id:
            self.stopped[row] = True
            return False
        self.answers[row].append(token)
        return len(self.answers[row]) < self.limits[row]


def _prompt_mask(seen_BP: Tensor) -> Tensor:
    """[B, 1, P, P]: causal, without the filling; a filled place sees itself, because a row that sees nothing gives NaN."""
    width = seen_BP.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    return (causal & seen_BP[:, None, :] | torch.eye(width, dtype=torch.bool))[:, None]


def sample(logits_BV: Tensor, *, temperature: float, top_p: float, draws: Tensor) -> Tensor:
    """One token a row by temperature and top-p (nucleus, arXiv:1904.09751) from one uniform number a row in [0, 1)."""
    probability_BV, token_BV = (logits_BV.double() / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    before_BV = probability_BV.cumsum(-1) - probability_BV
    kept_BV = torch.where((before_BV < top_p) | (torch.arange(probability_BV.shape[1]) == 0), probability_BV, 0.0)
    reach_BV = kept_BV.cumsum(-1)
    place_B1 = (reach_BV <= draws[:, None].double() * reach_BV[:, -1:]).sum(-1, keepdim=True).clamp(max=probability_BV.shape[1] - 1)
    return token_BV.gather(-1, place_B1).squeeze(-1)
