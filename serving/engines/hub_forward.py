"""transformers' own forward, over slots where a model has full attention alone, else with transformers' cache a row.

Knows caches and masks; does not schedule rows and does not sample.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from experts.cached_pass import read_on
from experts.device import Device
from experts.device_rules import attention_mask, place_model
from serving.engines.passes import Forward, Placed, Rows, place, write_columns
from serving.engines.slots import Slots


class _SlotCache(Cache):  # type: ignore[misc]
    """transformers' cache interface over slots, for one pass."""

    def __init__(self, placed: Placed, slots: Slots) -> None:  # the base class would allocate layers of its own
        self._placed = placed
        self._slots = slots
        self.layers: list[object] = []

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        write_columns(self._placed, self._slots, layer_idx, key_states, value_states)
        return self._slots.read(layer_idx, self._placed.start, self._placed.rows, self._placed.columns)

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        return self._placed.columns - self._placed.ids_BT.shape[1]

    def __len__(self) -> int:
        return self._slots.keys_LSHCD.shape[0]


class HubForward:
    """Any decoder-only model with full attention, token-level MoE included."""

    whole_prompts = False

    def __init__(self, model: PreTrainedModel, *, device: Device) -> None:
        self._device = device
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # no file of the version stays mapped: Windows could not remove it
        self._model = place_model(model, to=device.torch, rules=device.rules).eval()
        config: Any = model.config
        self._config = config
        self.weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
        self.shape: Hashable = object()  # its own: its passes are shared with no other model

    def joined(self, forwards: Sequence[Forward]) -> Forward:
        """Itself, since no other model shares its shape."""
        assert all(forward is self for forward in forwards)
        return self

    def new_slots(self, slots: int) -> Any:
        """Empty slots of this model's shape."""
        config = self._config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads  # GPT-2 has no shared ones
        return Slots(layers=config.num_hidden_layers, slots=slots, heads=heads, columns=config.max_position_embeddings,
                     head_width=width, dtype=torch.float32, device=self._device)

    def logits(self, rows: Rows, slots: Any) -> Tensor:
        """fp32 logits (B, V) on the CPU after each row's last token; writes the new keys and values."""
        placed = place(rows, device=self._device)
        mask = placed.mask_B1TC
        if mask is None:
            mask = attention_mask(torch.ones((1, 1, 1, placed.columns), dtype=torch.bool), rules=self._device.rules).to(self._device.torch)
        logits_BTV, _ = read_on(self._model, placed.ids_BT, cache=_SlotCache(placed, slots), position_ids=placed.positions_BT, attention_mask=mask)
        return logits_BTV[placed.rows_B, placed.last_B].float().cpu()


class RowCaches:
    """Slots that hold transformers' own cache of each row, whatever it is made of. Memory is what running rows take."""

    memory_bytes = 0

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.caches: list[Any] = [None] * slots

    def move(self, source: int, target: int, columns: int) -> None:  # noqa: ARG002
        """Hand a row's cache to another slot; to its own when the last row left, whose cache is then dropped."""
        self.caches[target] = self.caches[source] if source != target else None
        self.caches[source] = None

    def wipe(self, row: int) -> None:
        """Drop a slot's cache."""
        self.caches[row] = None

    def grown(self, slots: int, filled: Sequence[int]) -> RowCaches:  # noqa: ARG002
        """The same rows among more slots."""
        more = RowCaches(slots)
        more.caches[:self.slots] = self.caches
        return more


class CacheForward(HubForward):
    """Models whose memory isn't a plain column a token (attention/SSM hybrids, state spaces, sliding windows): every row has
    the cache that generate would give it and is stepped by itself, which makes it right for all of them and fast for none."""

    whole_prompts = True

    def new_slots(self, slots: int) -> Any:
        """Empty slots."""
        return RowCaches(slots)

    def logits(self, rows: Rows, slots: Any) -> Tensor:
        """fp32 logits (B, V) on the CPU after each row's last token."""
        return torch.cat([self._one(rows, index, slots) for index in range(len(rows.ids))])

    def _one(self, rows: Rows, index: int, slots: RowCaches) -> Tensor:
        place, offset, ids = rows.start + index, rows.offsets[index], rows.ids[index]
        assert offset == 0 or len(ids) == 1, "a prompt is read in one pass"
        to = self._device.torch
        positions = torch.arange(offset, offset + len(ids))
        cache = slots.caches[place] if offset else None
        logits_BTV, slots.caches[place] = read_on(self._model, torch.tensor([ids]).to(to), cache=cache,
                                                  position_ids=positions[None].to(to), cache_position=positions.to(to))
        return logits_BTV[:, rows.last[index]].float().cpu()
