"""Keys and values of rows that are decoded side by side, for models whose every layer attends to everything (reach.py)."""

from __future__ import annotations

from torch import Tensor


class SlotCache:
    """Buffers that are allocated once and written by slices (transformers' own cache copies all of it each step); stands in for that."""

    is_compileable = False

    def __init__(self, *, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._filled: list[int] = []

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *more: object, **named: object) -> tuple[Tensor, Tensor]:  # noqa: ARG002
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
