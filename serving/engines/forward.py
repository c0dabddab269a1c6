"""One forward pass of a loaded model over rows whose keys and values lie in slots: lean for Qwen3, or transformers' own.

Knows shapes and weights; does not schedule rows and does not sample.
Legend: B rows, T new tokens a row, V vocabulary, H query heads, K key-value heads, G = H / K, D head width, C columns
(positions) that may be attended, E model width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from experts.device import Device
from experts.device_rules import attend, attention_mask, place_model, rms_norm, silu
from serving.engines.slots import Slots


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows take part in a pass. ids: T tokens a row, the shorter ones padded at the right; offsets: position of the
    first of them; last: index of each row's last real token."""

    start: int
    ids: Sequence[Sequence[int]]
    offsets: Sequence[int]
    last: Sequence[int]


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


class Forward(Protocol):
    """A model that can be stepped."""

    weight_bytes: int

    def new_slots(self, slots: int) -> Slots:
        """Empty slots of this model's shape."""

    def logits(self, rows: Rows, slots: Slots) -> Tensor:
        """fp32 logits (B, V) on the CPU after each row's last token; writes the new keys and values."""


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


def make_forward(model: PreTrainedModel, *, device: Device) -> Forward:
    """The fastest forward that is known to be right for this model."""
    config: Any = model.config
    plain = getattr(config, "model_type", "") == "qwen3" and config.hidden_act == "silu" and not config.attention_bias
    full = all(kind == "full_attention" for kind in getattr(config, "layer_types", None) or ())
    return LeanQwen3(model, device=device) if plain and full else HubForward(model, device=device)


@dataclass(frozen=True, slots=True)
class _Layer:
    norm_E: Tensor
    qkv: Tensor
    qk_norm_HD: Tensor
    out: Tensor
    mlp_norm_E: Tensor
    gate_up: Tensor
    down: Tensor


class LeanQwen3:
    """Qwen3's arithmetic over fused copies of its weights: the same numbers as transformers' classes up to rounding, with
    a third of the kernel launches, which is what a small model's step costs."""

    def __init__(self, model: PreTrainedModel, *, device: Device) -> None:
        config: Any = model.config
        inner: Any = model.model
        self._device, to = device, device.torch
        self._heads, self._kv_heads, self._width = config.num_attention_heads, config.num_key_value_heads, inner.layers[0].self_attn.head_dim
        self._eps = config.rms_norm_eps
        self._context = config.max_position_embeddings
        self._embed = inner.embed_tokens.weight.detach().clone().to(to)
        head: Any = model.get_output_embeddings()
        tied = head.weight is inner.embed_tokens.weight
        self._head = self._embed if tied else head.weight.detach().clone().to(to)
        self._norm_E = inner.norm.weight.detach().clone().to(to)
        self._layers = [self._fuse(layer) for layer in inner.layers]
        cos_CD, sin_CD = inner.rotary_emb(self._embed.cpu()[:1, None], torch.arange(self._context)[None])
        half = self._width // 2
        self._cos_CD = cos_CD[0].detach().to(to)
        self._sin_CD = torch.cat((-sin_CD[0, :, :half], sin_CD[0, :, half:]), dim=-1).detach().to(to)
        tensors = [self._embed, self._norm_E, *(() if tied else (self._head,)),
                   *(getattr(layer, name) for layer in self._layers for name in _Layer.__slots__)]
        self.weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _fuse(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp

        def move(tensor: Tensor) -> Tensor:  # a copy, so that no file of the version stays mapped: Windows could not remove it
            return tensor.detach().clone().to(self._device.torch)

        norms = [attention.q_norm.weight.expand(self._heads, -1), attention.k_norm.weight.expand(self._kv_heads, -1)]
        return _Layer(move(layer.input_layernorm.weight), move(torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])),
                      move(torch.cat(norms)), move(attention.o_proj.weight), move(layer.post_attention_layernorm.weight),
                      move(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])), move(mlp.down_proj.weight))

    def new_slots(self, slots: int) -> Slots:
        """Empty slots of this model's shape."""
        return Slots(layers=len(self._layers), slots=slots, heads=self._kv_heads, columns=self._context, head_width=self._width,
                     dtype=self._embed.dtype, device=self._device)

    def logits(self, rows: Rows, slots: Slots) -> Tensor:
        """fp32 logits (B, V) on the CPU after each row's last token; writes the new keys and values."""
        placed = place(rows, device=self._device)
        hidden_BTE = F.embedding(placed.ids_BT, self._embed)
        cos_BT1D, sin_BT1D = self._cos_CD[placed.positions_BT].unsqueeze(2), self._sin_CD[placed.positions_BT].unsqueeze(2)
        width, group = hidden_BTE.shape[1], self._heads // self._kv_heads
        mask = None if placed.mask_B1TC is None else placed.mask_B1TC.repeat(1, 1, group, 1)
        for index, layer in enumerate(self._layers):
            attended_BTE = self._attend(self._normed(hidden_BTE, layer.norm_E), layer, index, placed, slots, cos_BT1D, sin_BT1D, mask)
            hidden_BTE = hidden_BTE + F.linear(attended_BTE, layer.out)
            gate, up = F.linear(self._normed(hidden_BTE, layer.mlp_norm_E), layer.gate_up).chunk(2, dim=-1)
            hidden_BTE = hidden_BTE + F.linear(silu(gate, rules=self._device.rules) * up, layer.down)
        last_BE = hidden_BTE[:, 0] if width == 1 else hidden_BTE[placed.rows_B, placed.last_B]
        return F.linear(self._normed(last_BE, self._norm_E), self._head).float().cpu()

    def _normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return rms_norm(x, weight, eps=self._eps, rules=self._device.rules)

    def _attend(self, normed_BTE: Tensor, layer: _Layer, index: int, placed: Placed, slots: Slots,
                cos_BT1D: Tensor, sin_BT1D: Tensor, mask: Tensor | None) -> Tensor:
        rows, width = normed_BTE.shape[:2]
        heads, kv_heads, group = self._heads, self._kv_heads, self._heads // self._kv_heads
        qkv_BTHD = F.linear(normed_BTE, layer.qkv).view(rows, width, heads + 2 * kv_heads, self._width)
        qk_BTHD = self._normed(qkv_BTHD[:, :, :heads + kv_heads], None) * layer.qk_norm_HD
        half = self._width // 2
        qk_BTHD = qk_BTHD * cos_BT1D + torch.cat((qk_BTHD[..., half:], qk_BTHD[..., :half]), dim=-1) * sin_BT1D
        write_columns(placed, slots, index, qk_BTHD[:, :, heads:].transpose(1, 2), qkv_BTHD[:, :, heads + kv_heads:].transpose(1, 2))
        keys, values = slots.read(index, placed.start, rows, placed.columns)
        # The G query heads of one key-value head are folded into the query length, so keys and values aren't repeated.
        query = qk_BTHD[:, :, :heads].reshape(rows, width, kv_heads, group, self._width).permute(0, 2, 3, 1, 4)
        query = query.reshape(rows, kv_heads, group * width, self._width)
        out = attend(query, keys, values, mask=mask, rules=self._device.rules)
        return out.reshape(rows, kv_heads, group, width, self._width).permute(0, 3, 1, 2, 4).reshape(rows, width, heads * self._width)


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
    """transformers' own forward over slots: any decoder-only model with full attention, token-level MoE included."""

    def __init__(self, model: PreTrainedModel, *, device: Device) -> None:
        self._device = device
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # no file of the version stays mapped: Windows could not remove it
        self._model: Callable[..., Any] = place_model(model, to=device.torch, rules=device.rules).eval()
        config: Any = model.config
        self._config = config
        self.weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())

    def new_slots(self, slots: int) -> Slots:
        """Empty slots of this model's shape."""
        config = self._config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return Slots(layers=config.num_hidden_layers, slots=slots, heads=config.num_key_value_heads, columns=config.max_position_embeddings,
                     head_width=width, dtype=torch.float32, device=self._device)

    def logits(self, rows: Rows, slots: Slots) -> Tensor:
        """fp32 logits (B, V) on the CPU after each row's last token; writes the new keys and values."""
        placed = place(rows, device=self._device)
        mask = placed.mask_B1TC
        if mask is None:
            mask = attention_mask(torch.ones((1, 1, 1, placed.columns), dtype=torch.bool), rules=self._device.rules).to(self._device.torch)
        out = self._model(input_ids=placed.ids_BT, position_ids=placed.positions_BT, attention_mask=mask,
                          past_key_values=_SlotCache(placed, slots), use_cache=True, return_dict=True)
        result: Tensor = out.logits[placed.rows_B, placed.last_B].float().cpu()
        return result
