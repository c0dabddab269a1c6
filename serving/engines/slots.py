"""The KV cache of one model: preallocated slots, rows kept side by side so that a step reads plain slices.

Does not decide which request gets a row. Legend: L layers, S slots, H key-value heads, C context columns, D head
width, T new tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from experts.device import Device


class Slots:
    """Keys and values of up to S rows. Row i lies in slot i; when a row leaves, another is copied into its slot.

    scattered: whether the device writes columns at different offsets at once; else write() copies slices.
    """

    def __init__(self, *, layers: int, slots: int, heads: int, columns: int, head_width: int, dtype: torch.dtype, device: Device) -> None:
        shape = (layers, slots, heads, columns, head_width)
        self._device = device
        self.slots = slots
        self.columns = columns
        self.keys_LSHCD = _zeros(shape, dtype=dtype, device=device.torch)
        self.values_LSHCD = _zeros(shape, dtype=dtype, device=device.torch)
        self.scattered = device.rules.cache_writes == "index"

    @property
    def memory_bytes(self) -> int:
        """Bytes when every slot is full; on a CPU pages are only taken as they are written."""
        return 2 * self.keys_LSHCD.numel() * self.keys_LSHCD.element_size()

    def write(self, layer: int, rows: Sequence[int], offsets: Sequence[int], keys_BHTD: Tensor, values_BHTD: Tensor) -> None:
        """Put T new columns of every row at its offset. One shared offset with neighbouring rows is one slice copy."""
        width = keys_BHTD.shape[2]
        first, shared = rows[0], offsets[0]
        if len(rows) == 1 or all(offset == shared for offset in offsets):
            self.keys_LSHCD[layer, first:first + len(rows), :, shared:shared + width] = keys_BHTD
            self.values_LSHCD[layer, first:first + len(rows), :, shared:shared + width] = values_BHTD
            return
        for index, (row, offset) in enumerate(zip(rows, offsets, strict=True)):
            self.keys_LSHCD[layer, row, :, offset:offset + width] = keys_BHTD[index]
            self.values_LSHCD[layer, row, :, offset:offset + width] = values_BHTD[index]

    def write_step(self, layer: int, offsets_B: Tensor, row_index_B: Tensor, keys_BHTD: Tensor, values_BHTD: Tensor) -> None:
        """Put one new column of each row at its own offset, all rows at once; only where slots are scattered."""
        self.keys_LSHCD[layer, row_index_B, :, offsets_B] = keys_BHTD[:, :, 0]
        self.values_LSHCD[layer, row_index_B, :, offsets_B] = values_BHTD[:, :, 0]

    def read(self, layer: int, start: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Keys and values of neighbouring rows, as views: (rows, H, columns, D)."""
        return self.keys_LSHCD[layer, start:start + rows, :, :columns], self.values_LSHCD[layer, start:start + rows, :, :columns]

    def layers(self, row: int, columns: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Keys and values of one row, layer by layer, as views: (1, H, columns, D)."""
        return self.keys_LSHCD[:, row:row + 1, :, :columns].unbind(0), self.values_LSHCD[:, row:row + 1, :, :columns].unbind(0)

    def write_layers(self, row: int, offset: int, keys_LHD: Tensor, values_LHD: Tensor) -> None:
        """Put one new column of one row at its offset, all layers at once."""
        self.keys_LSHCD[:, row, :, offset] = keys_LHD
        self.values_LSHCD[:, row, :, offset] = values_LHD

    def move(self, source: int, target: int, columns: int) -> None:
        """Copy the first columns of one slot into another."""
        if source != target:
            self.keys_LSHCD[:, target, :, :columns] = self.keys_LSHCD[:, source, :, :columns]
            self.values_LSHCD[:, target, :, :columns] = self.values_LSHCD[:, source, :, :columns]

    def wipe(self, row: int) -> None:
        """Make a slot as new: what isn't a number there would spoil the rows that come to lie in it, through columns that they don't see."""
        self.keys_LSHCD[:, row] = 0
        self.values_LSHCD[:, row] = 0

    def grown(self, slots: int, filled: Sequence[int]) -> Slots:
        """The same rows among more slots. filled: columns of each row from slot 0 on."""
        layers, _, heads, columns, head_width = self.keys_LSHCD.shape
        more = Slots(layers=layers, slots=slots, heads=heads, columns=columns, head_width=head_width, dtype=self.keys_LSHCD.dtype, device=self._device)
        for row, count in enumerate(filled):
            more.keys_LSHCD[:, row, :, :count] = self.keys_LSHCD[:, row, :, :count]
            more.values_LSHCD[:, row, :, :count] = self.values_LSHCD[:, row, :, :count]
        return more


def _zeros(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, because a masked column still takes part as 0 x value and must not be NaN. On a CPU through calloc, which
    hands out pages lazily: an idle node then costs no memory for its slots."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = torch.empty((), dtype=dtype).element_size()
    raw = np.zeros(math.prod(shape) * size, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).view(shape)
