"""Answers written token by token: many rows side by side over one cache, or, for models that keep another memory, prompts of one length together.

Chooses tokens, greedily or by given random numbers, and knows when a row has ended. Does not know conversations (expert.py).
Shapes: B active rows, P prompt tokens, L cached tokens (columns), V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from experts.cached_pass import read_on
from experts.device import Device
from experts.device_rules import attention_mask
from experts.reach import sees_everything
from experts.repetition import Repetition
from experts.slot_cache import SlotCache
from settings import DecodingSettings


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be written. prompts: ids; limits: longest answer a prompt. end_id: ends an answer (None: nothing does).

    draws: uniform numbers [prompts, steps], None: greedy. never: ids that are not chosen. repetition: see repetition.py; None: off.
    """

    prompts: Sequence[list[int]]
    limits: Sequence[int]
    end_id: int | None
    pad_id: int
    temperature: float = 0.0
    top_p: float = 1.0
    draws: Tensor | None = None
    never: tuple[int, ...] = ()
    repetition: DecodingSettings | None = None


class Writer:
    """The answers of a task so far. answers: ids without the end token; stopped: whether the end token came."""

    def __init__(self, model: PreTrainedModel, task: Task, *, device: Device) -> None:
        self.model, self.device, self.task = model, device, task
        self.answers: list[list[int]] = [[] for _ in task.prompts]
        self.stopped = [False] * len(task.prompts)
        self._repetitions = [Repetition(task.repetition, prompt) for prompt in task.prompts] if task.repetition is not None else []

    def run(self, batch_rows: int) -> None:
        """Fill answers and stopped, so many rows at once."""
        raise NotImplementedError

    def _choose(self, logits_BV: Tensor, rows: Sequence[int]) -> list[int]:
        penalties = {place: found for place, row in enumerate(rows) if self._repetitions and (found := self._repetitions[row].penalties())}
        if penalties or self.task.never or self.task.draws is not None or self.device.rules.cpu_sampling:
            logits_BV = logits_BV.cpu()
        for place, found in penalties.items():
            logits_BV[place, list(found)] -= torch.tensor(list(found.values()))
        if self.task.never:
            logits_BV[:, list(self.task.never)] = -torch.inf
        if self.task.draws is None:
            greedy: list[int] = logits_BV.argmax(-1).tolist()
            return greedy
        # A row that has ended and is still computed draws its last number again; nobody reads what comes of it.
        draws = self.task.draws[list(rows), [min(len(self.answers[row]), self.task.draws.shape[1] - 1) for row in rows]]
        return sample(logits_BV, temperature=self.task.temperature, top_p=self.task.top_p, draws=draws).tolist()

    def _take(self, row: int, token: int) -> bool:
        """Note a row's next token; False when the row has ended."""
        if self.stopped[row] or len(self.answers[row]) >= self.task.limits[row]:
            return False
        if token == self.task.end_id:
            self.stopped[row] = True
            return False
        self.answers[row].append(token)
        if self._repetitions:
            self._repetitions[row].push(token)
        return len(self.answers[row]) < self.task.limits[row]


class SideBySide(Writer):
    """One cached step a token for all active rows; ended rows leave, waiting ones take their places."""

    def __init__(self, model: PreTrainedModel, task: Task, *, device: Device) -> None:
        super().__init__(model, task, device=device)
        # Of the active rows: numbers, last tokens [B, 1], their positions [B, 1], columns that they may see [B, L], keys and values.
        self.active: list[int] = []
        self.ids: Tensor
        self.position: Tensor
        self.seen: Tensor
        self.cache: SlotCache

    @torch.no_grad()
    def run(self, batch_rows: int) -> None:
        """Fill answers and stopped."""
        waiting = deque(sorted(range(len(self.task.prompts)), key=lambda row: len(self.task.prompts[row])))
        while waiting or self.active:
            # Joining copies the cache, which costs about a step: not for every row that ends.
            if waiting and len(self.active) <= batch_rows // 2:
                self._admit([waiting.popleft() for _ in range(min(len(waiting), batch_rows - len(self.active)))])
            else:
                self._step()

    def _admit(self, rows: list[int]) -> None:
        width = max(len(self.task.prompts[row]) for row in rows)
        cache = SlotCache(capacity=width + max(self.task.limits[row] for row in rows))
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
        left = max(self.task.limits[row] - len(self.answers[row]) for row in self.active)
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
        prompts = [self.task.prompts[row] for row in rows]
        ids_BP = torch.tensor([[self.task.pad_id] * (width - len(ids)) + ids for ids in prompts])
        place_BP = torch.arange(width)[None, :] - torch.tensor([width - len(ids) for ids in prompts])[:, None]
        return ids_BP, place_BP >= 0, place_BP.clamp(min=0)

    def _forward(self, ids: Tensor, allowed: Tensor, position: Tensor, cache: SlotCache) -> Tensor:
        place = self.device.torch
        mask = attention_mask(allowed, rules=self.device.rules).to(place)
        logits_BTV, _ = read_on(self.model, ids.to(place), cache=cache, attention_mask=mask, position_ids=position.to(place), logits_to_keep=1)
        return logits_BTV[:, -1].float()


class LengthByLength(Writer):
    """Prompts of one length together, without filling, each with the memory that transformers' own generate would keep: right for every model."""

    @torch.no_grad()
    def run(self, batch_rows: int) -> None:
        """Fill answers and stopped."""
        lengths = [len(prompt) for prompt in self.task.prompts]
        for _, group in groupby(sorted(range(len(lengths)), key=lengths.__getitem__), key=lengths.__getitem__):
            rows = list(group)
            for first in range(0, len(rows), batch_rows):
                self._write(rows[first:first + batch_rows])

    def _write(self, rows: list[int]) -> None:
        ids, seen = torch.tensor([self.task.prompts[row] for row in rows]), 0
        cache = None
        going = [True]
        while any(going):
            logits_BV, cache = self._pass(ids, seen=seen, cache=cache)
            seen += ids.shape[1]
            chosen = self._choose(logits_BV, rows)
            going = [self._take(row, token) for row, token in zip(rows, chosen, strict=True)]
            ids = torch.tensor(chosen)[:, None]

    def _pass(self, ids: Tensor, *, seen: int, cache: Any) -> tuple[Tensor, Any]:
        place, positions = self.device.torch, torch.arange(seen, seen + ids.shape[1])
        logits_BTV, cache = read_on(self.model, ids.to(place), cache=cache, position_ids=positions.expand(len(ids), -1).to(place),
                                    cache_position=positions.to(place), logits_to_keep=1)
        return logits_BTV[:, -1].float(), cache


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


def writer(model: PreTrainedModel, task: Task, *, device: Device) -> Writer:
    """The fastest way of writing that is right for a model."""
    return (SideBySide if sees_everything(model) else LengthByLength)(model, task, device=device)
