"""Expert: a model with its tokenizer on a device, which answers conversations and measures how likely a text is.

Loads and saves stock Hugging Face folders. Does not know versions (registry.py), routes or HTTP.
Shapes: B active rows, P prompt tokens, L cached tokens (columns), V vocabulary.
"""

from __future__ import annotations

import logging
from collections import deque
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
from experts.moe.model import make_known
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

    def joined(self, other: SlotCache, *, drop: int, capacity: int) -> SlotCache:
        """A cache with the rows of both, this one's without its first columns; the last columns of both lie side by side."""
        end = max(self.length - drop, other.length)
        both = SlotCache(capacity=capacity)
        both.length, both._filled = end, [end] * len(self._keys)
        both._keys = [_side_by_side(mine[:, :, drop:self.length], theirs[:, :, :other.length], end=end, capacity=capacity)
                      for mine, theirs in zip(self._keys, other._keys, strict=True)]
        both._values = [_side_by_side(mine[:, :, drop:self.length], theirs[:, :, :other.length], end=end, capacity=capacity)
                        for mine, theirs in zip(self._values, other._values, strict=True)]
        return both

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of that layer so far."""
        return self._filled[layer_idx] if layer_idx < len(self._filled) else 0

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """How many tokens fit."""
        return self.capacity

    def __len__(self) -> int:
        return len(self._keys)


def _side_by_side(mine: Tensor, theirs: Tensor, *, end: int, capacity: int) -> Tensor:
    rows, heads, columns, width = mine.shape
    both = mine.new_zeros((rows + theirs.shape[0], heads, capacity, width))
    both[:rows, :, end - columns:end] = mine
    both[rows:, :, end - theirs.shape[2]:end] = theirs
    return both


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
                 seed: int = 0, batch_rows: int = 64) -> list[Answer]:
        """One answer a conversation, in their order; temperature 0 is greedy; batch_rows: how many are written at once.

        An answer depends on its own conversation, the seed and its number alone, not on its neighbours in the batch.
        A prompt that leaves no room for max_new_tokens loses tokens after its first role mark, down to half of the context.
        """
        prompts = [self._fit_prompt(tokens.prompt_ids(self.tokenizer, messages), max_new_tokens) for messages in conversations]
        limits = [min(max_new_tokens, self.context_tokens - len(prompt)) for prompt in prompts]
        draws = _draws(len(prompts), steps=max(limits, default=0), seed=seed) if temperature > 0 else None
        stream = _Stream(self, prompts, limits=limits, temperature=temperature, top_p=top_p, draws=draws)
        with self.device.turn():
            stream.run(batch_rows)
        return [Answer(tokens.decode(self.tokenizer, ids), tuple(ids), "stop" if stopped else "length", len(prompt))
                for prompt, ids, stopped in zip(prompts, stream.answers, stream.stopped, strict=True)]

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


class _Stream:
    """Answers of many prompts: one cached step a token for all active rows, ended rows leave, waiting ones take their places."""

    def __init__(self, expert: Expert, prompts: Sequence[list[int]], *, limits: Sequence[int], temperature: float, top_p: float, draws: Tensor | None) -> None:
        self.model, self.device = expert.model, expert.device
        self.end_id, self.pad_id = tokens.end_id(expert.tokenizer), tokens.pad_id(expert.tokenizer)
        self.prompts, self.limits = prompts, limits
        self.temperature, self.top_p, self.draws = temperature, top_p, draws
        self.answers: list[list[int]] = [[] for _ in prompts]
        self.stopped = [False] * len(prompts)
        # Of the active rows: numbers, last tokens [B, 1], their positions [B, 1], columns that they may see [B, L], keys and values.
        self.active: list[int] = []
        self.ids: Tensor
        self.position: Tensor
        self.seen: Tensor
        self.cache: SlotCache

    @torch.no_grad()
    def run(self, batch_rows: int) -> None:
        """Fill answers (without the end token) and stopped (whether the end token came)."""
        waiting = deque(sorted(range(len(self.prompts)), key=lambda row: len(self.prompts[row])))
        while waiting or self.active:
            # Joining copies the cache, which costs about a step: not for every row that ends.
            if waiting and len(self.active) <= batch_rows // 2:
                self._admit([waiting.popleft() for _ in range(min(len(waiting), batch_rows - len(self.active)))])
            else:
                self._step()

    def _admit(self, rows: list[int]) -> None:
        width = max(len(self.prompts[row]) for row in rows)
        cache = SlotCache(capacity=width + max(self.limits[row] for row in rows))
        ids_BP, seen_BP, position_BP = self._left_filled(rows, width)
        chosen = self._choose(self._forward(ids_BP, _prompt_mask(seen_BP), position_BP, cache), rows)
        earlier = (self.active, self.ids, self.position, self.seen, self.cache) if self.active else None
        self.active, self.ids, self.position, self.seen, self.cache = rows, torch.tensor(chosen)[:, None], position_BP[:, -1:] + 1, seen_BP, cache
        self._drop_ended(chosen, slack=1.0)
        if earlier is not None:
            self._join(*earlier)

    def _join(self, active: list[int], ids: Tensor, position: Tensor, seen_BL: Tensor, cache: SlotCache) -> None:
        """Put rows that were active before back in front of the new ones."""
        if not self.active:
            self.active, self.ids, self.position, self.seen, self.cache = active, ids, position, seen_BL, cache
            return
        drop = int(seen_BL.int().argmax(1).min())  # columns that no row uses any more
        seen_BL = seen_BL[:, drop:]
        end = max(seen_BL.shape[1], self.seen.shape[1])
        self.seen = torch.cat([torch.nn.functional.pad(seen, (end - seen.shape[1], 0)) for seen in (seen_BL, self.seen)])
        self.active, self.ids, self.position = active + self.active, torch.cat([ids, self.ids]), torch.cat([position, self.position])
        left = max(self.limits[row] - len(self.answers[row]) for row in self.active)
        self.cache = cache.joined(self.cache, drop=drop, capacity=end + left)

    def _step(self) -> None:
        self.seen = torch.cat([self.seen, torch.ones(len(self.active), 1, dtype=torch.bool)], dim=1)
        chosen = self._choose(self._forward(self.ids, self.seen[:, None, None], self.position, self.cache), self.active)
        self.ids, self.position = torch.tensor(chosen)[:, None], self.position + 1
        self._drop_ended(chosen, slack=0.8)

    def _drop_ended(self, chosen: Sequence[int], *, slack: float) -> None:
        """Note the chosen tokens and take ended rows out, once at most slack of the rows go on."""
        alive = [place for place, token in enumerate(chosen) if self._take(self.active[place], token)]
        if len(alive) == len(chosen) or (alive and len(alive) > slack * len(chosen)):
            return
        self.active = [self.active[place] for place in alive]
        if alive:
            rows = torch.tensor(alive)
            self.cache.keep_rows(rows.to(self.device.torch))
            self.ids, self.position, self.seen = self.ids[rows], self.position[rows], self.seen[rows]

    def _left_filled(self, rows: Sequence[int], width: int) -> tuple[Tensor, Tensor, Tensor]:
        prompts = [self.prompts[row] for row in rows]
        ids_BP = torch.tensor([[self.pad_id] * (width - len(ids)) + ids for ids in prompts])
        place_BP = torch.arange(width)[None, :] - torch.tensor([width - len(ids) for ids in prompts])[:, None]
        return ids_BP, place_BP >= 0, place_BP.clamp(min=0)

    def _forward(self, ids: Tensor, allowed: Tensor, position: Tensor, cache: SlotCache) -> Tensor:
        place = self.device.torch
        mask = attention_mask(allowed, rules=self.device.rules).to(place)
        output = self.model(input_ids=ids.to(place), attention_mask=mask, position_ids=position.to(place),
                            past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits_BV: Tensor = output.logits[:, -1].float()
        return logits_BV.cpu() if self.device.rules.cpu_sampling else logits_BV

    def _choose(self, logits_BV: Tensor, rows: Sequence[int]) -> list[int]:
        if self.draws is None:
            greedy: list[int] = logits_BV.argmax(-1).cpu().tolist()
            return greedy
        # A row that has ended and is still computed draws its last number again; nobody reads what comes of it.
        draws = self.draws[list(rows), [min(len(self.answers[row]), self.draws.shape[1] - 1) for row in rows]]
        return sample(logits_BV.cpu(), temperature=self.temperature, top_p=self.top_p, draws=draws).tolist()

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
