"""What one pass of a model over rows is, and what every model that can be stepped offers; rows as tensors on the device.

Does not schedule rows, knows no architecture. Legend: B rows, T new tokens a row, V vocabulary, K key-value heads,
D head width, C columns (positions) that may be attended.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from experts.device import Device
from experts.device_rules import attention_mask
from serving.engines.slots import Slots


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows take part in a pass. ids: T tokens a row, the shorter ones padded at the right; offsets: position of the
    first of them; last: index of each row's last real token."""

    start: int
    ids: Sequence[Sequence[int]]
    offsets: Sequence[int]
    last: Sequence[int]


class Forward(Protocol):
    """A model that can be stepped. shape: forwards of equal shape share slots and passes; whole_prompts: a prompt is read
    in one pass of its own, not in chunks and not padded."""

    weight_bytes: int
    shape: Hashable
    whole_prompts: bool

    def new_slots(self, slots: int) -> Any:
        """Empty slots (slots.Slots, or what has its methods) of this model's shape."""

    def logits(self, rows: Rows, slots: Any) -> Tensor:
        """fp32 logits (B, V) on the CPU after each row's last token; writes the new keys and values."""

    def joined(self, forwards: Sequence[Forward]) -> Forward:
        """One forward for rows of several models of this shape: row i of its passes is answered by forwards[i]."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Rows as tensors on the device. mask_B1TC: in the form of the device's attention, None where every
    column may be seen."""

    start: int
    rows: int
    columns: int
    offsets: Sequence[int]
    ids_BT: Tensor
    positions_BT: Tensor
    row_index_B: Tensor
    rows_B: Tensor
    last_B: Tensor
    mask_B1TC: Tensor | None


def place(rows: Rows, *, device: Device) -> Placed:
    """Move the description of a pass to the device and build its mask."""
    count, width, to = len(rows.ids), len(rows.ids[0]), device.torch
    ids_BT = torch.tensor(rows.ids, dtype=torch.int64)
    positions_BT = torch.tensor(rows.offsets, dtype=torch.int64)[:, None] + torch.arange(width)
    columns = max(rows.offsets) + width
    mask_B1TC = None
    if count > 1 or width > 1:
        allowed_B1TC = (torch.arange(columns)[None, None, :] <= positions_BT[:, :, None])[:, None]
        mask_B1TC = attention_mask(allowed_B1TC, rules=device.rules).to(to)
    return Placed(rows.start, count, columns, rows.offsets, ids_BT.to(to), positions_BT.to(to), torch.arange(rows.start, rows.start + count).to(to),
                  torch.arange(count).to(to), torch.tensor(rows.last, dtype=torch.int64).to(to), mask_B1TC)


def write_columns(placed: Placed, slots: Slots, layer: int, keys_BKTD: Tensor, values_BKTD: Tensor) -> None:
    """Store a layer's new keys and values in the rows' slots."""
    if keys_BKTD.shape[2] == 1 and placed.rows > 1 and slots.scattered:
        slots.write_step(layer, placed.positions_BT[:, 0], placed.row_index_B, keys_BKTD, values_BKTD)
    else:
        slots.write(layer, range(placed.start, placed.start + placed.rows), placed.offsets, keys_BKTD, values_BKTD)
