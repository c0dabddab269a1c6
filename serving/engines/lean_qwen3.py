"""Qwen3 over slots: the arithmetic of transformers' classes with fused weights, for one model or for rows of several at once.

Does not schedule rows and does not sample. Legend: B rows, T new tokens a row, V vocabulary, H query heads, K key-value heads,
G = H / K, D head width, C columns that may be attended, E model width.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from experts.device import Device
from experts.device_rules import attend, rms_norm, silu
from serving.engines.compiled_step import CompiledStep
from serving.engines.layer_step import LayerShape
from serving.engines.passes import Forward, Placed, Rows, place, write_columns
from serving.engines.slots import Slots


class Layer(NamedTuple):
    """Weights of one layer, those that take the same input side by side. Matrices are (in, out): a product with few rows then
    reads them a quarter faster where they come from memory (float32, Zen 5)."""

    norm_E: Tensor
    qkv: Tensor
    qk_norm_HD: Tensor
    out: Tensor
    mlp_norm_E: Tensor
    gate_up: Tensor
    down: Tensor


class LeanQwen3:
    """The same numbers as transformers' classes up to rounding, with a third of the kernel launches, which is what a small
    model's step costs."""

    whole_prompts = False

    def __init__(self, model: PreTrainedModel, *, device: Device) -> None:
        config: Any = model.config
        inner: Any = model.model
        self._device, to = device, device.torch
        self._heads, self._kv_heads, self._width = config.num_attention_heads, config.num_key_value_heads, inner.layers[0].self_attn.head_dim
        self._eps = config.rms_norm_eps
        self._context = config.max_position_embeddings
        self.embed = inner.embed_tokens.weight.detach().clone().to(to)
        head: Any = model.get_output_embeddings()
        tied = head.weight is inner.embed_tokens.weight
        self.head = self.embed if tied else head.weight.detach().clone().to(to)
        self.norm_E = inner.norm.weight.detach().clone().to(to)
        self.layers = [self._fuse(layer) for layer in inner.layers]
        cos_CD, sin_CD = inner.rotary_emb(self.embed.cpu()[:1, None], torch.arange(self._context)[None])
        half = self._width // 2
        self._cos_CD = cos_CD[0].detach().to(to)
        self._sin_CD = torch.cat((-sin_CD[0, :, :half], sin_CD[0, :, half:]), dim=-1).detach().to(to)
        tensors = [self.embed, self.norm_E, *(() if tied else (self.head,)), *(getattr(layer, name) for layer in self.layers for name in Layer._fields)]
        self.weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        rope = getattr(config, "rope_parameters", None) or (config.rope_theta, config.rope_scaling)
        self.layer_shape = LayerShape(config.hidden_size, self._heads, self._kv_heads, self._width, config.intermediate_size, self._context, self._eps, str(to))
        self.compiled: CompiledStep | None = None  # set once, by another thread
        self.shape: Hashable = ("qwen3", str(self.embed.dtype), self._heads, self._eps, self._context, str(rope), *(tuple(tensor.shape) for tensor in tensors))

    def _fuse(self, layer: Any) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp

        def move(tensor: Tensor) -> Tensor:  # a copy, so that no file of the version stays mapped: Windows could not remove it
            return tensor.detach().clone().to(self._device.torch)

        def matrix(*parts: Tensor) -> Tensor:
            return move(torch.cat(parts).t().contiguous())

        norms = [attention.q_norm.weight.expand(self._heads, -1), attention.k_norm.weight.expand(self._kv_heads, -1)]
        return Layer(move(layer.input_layernorm.weight), matrix(attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight),
                     move(torch.cat(norms)), matrix(attention.o_proj.weight), move(layer.post_attention_layernorm.weight),
                     matrix(mlp.gate_proj.weight, mlp.up_proj.weight), matrix(mlp.down_proj.weight))

    def new_slots(self, slots: int) -> Slots:
        """Empty slots of this model's shape."""
        return Slots(layers=len(self.layers), slots=slots, heads=self._kv_heads, columns=self._context, head_width=self._width,
                     dtype=self.embed.dtype, device=self._device)

    def joined(self, forwards: Sequence[Forward]) -> Forward:
        """One forward for rows of several models of this shape."""
        if all(forward is self for forward in forwards):
            return self
        return JoinedQwen3([forward for forward in forwards if isinstance(forward, LeanQwen3)])

    def logits(self, rows: Rows, slots: Slots) -> Tensor:
        """fp32 logits (B, V) on the CPU after each row's last token; writes the new keys and values."""
        step = self.compiled
        if step is not None and step.takes(rows):
            return self.compiled_logits(rows, slots, step)
        placed = place(rows, device=self._device)
        hidden_BTE = self._embedded(placed.ids_BT)
        cos_BT1D, sin_BT1D = self._cos_CD[placed.positions_BT].unsqueeze(2), self._sin_CD[placed.positions_BT].unsqueeze(2)
        mask = None if placed.mask_B1TC is None else placed.mask_B1TC.repeat(1, 1, self._heads // self._kv_heads, 1)
        for index in range(len(self.layers)):
            attended_BTE = self._attend(self._normed(hidden_BTE, index, "norm_E"), index, placed, slots, cos_BT1D, sin_BT1D, mask)
            hidden_BTE = hidden_BTE + self._linear(attended_BTE, index, "out")
            gate, up = self._linear(self._normed(hidden_BTE, index, "mlp_norm_E"), index, "gate_up").chunk(2, dim=-1)
            hidden_BTE = hidden_BTE + self._linear(silu(gate, rules=self._device.rules) * up, index, "down")
        return self._scores(hidden_BTE, placed).float().cpu()

    def compiled_logits(self, rows: Rows, slots: Slots, step: CompiledStep) -> Tensor:
        """The same by a compiled step, of rows that it takes."""
        to = self._device.torch
        hidden_BE = F.embedding(torch.tensor(rows.ids[0]).to(to), self.embed)
        positions_B = torch.tensor(rows.offsets).to(to)
        hidden_BE = step(hidden_BE, self._cos_CD[positions_B], self._sin_CD[positions_B], layers=self.layers, slots=slots, rows=rows)
        return F.linear(rms_norm(hidden_BE, self.norm_E, eps=self._eps, rules=self._device.rules), self.head).float().cpu()

    def _attend(self, normed_BTE: Tensor, index: int, placed: Placed, slots: Slots,
                cos_BT1D: Tensor, sin_BT1D: Tensor, mask: Tensor | None) -> Tensor:
        rows, width = normed_BTE.shape[:2]
        heads, kv_heads, group = self._heads, self._kv_heads, self._heads // self._kv_heads
        qkv_BTHD = self._to_slots(self._linear(normed_BTE, index, "qkv")).view(rows, width, heads + 2 * kv_heads, self._width)
        qk_BTHD = rms_norm(qkv_BTHD[:, :, :heads + kv_heads], None, eps=self._eps, rules=self._device.rules) * self._qk_gain(index)
        half = self._width // 2
        qk_BTHD = qk_BTHD * cos_BT1D + torch.cat((qk_BTHD[..., half:], qk_BTHD[..., :half]), dim=-1) * sin_BT1D
        write_columns(placed, slots, index, qk_BTHD[:, :, heads:].transpose(1, 2), qkv_BTHD[:, :, heads + kv_heads:].transpose(1, 2))
        keys, values = slots.read(index, placed.start, rows, placed.columns)
        # The G query heads of one key-value head are folded into the query length, so keys and values aren't repeated.
        query = qk_BTHD[:, :, :heads].reshape(rows, width, kv_heads, group, self._width).permute(0, 2, 3, 1, 4)
        query = query.reshape(rows, kv_heads, group * width, self._width)
        out = attend(query, keys, values, mask=mask, rules=self._device.rules)
        return self._from_slots(out.reshape(rows, kv_heads, group, width, self._width).permute(0, 3, 1, 2, 4).reshape(rows, width, heads * self._width))

    # What differs when rows belong to several models; the order of rows outside of attention is then by model.

    def _embedded(self, ids_BT: Tensor) -> Tensor:
        return F.embedding(ids_BT, self.embed)

    def _linear(self, x: Tensor, index: int, name: str) -> Tensor:
        out: Tensor = x @ getattr(self.layers[index], name)
        return out

    def _normed(self, x: Tensor, index: int, name: str) -> Tensor:
        return rms_norm(x, getattr(self.layers[index], name), eps=self._eps, rules=self._device.rules)

    def _qk_gain(self, index: int) -> Tensor:
        return self.layers[index].qk_norm_HD

    def _to_slots(self, x: Tensor) -> Tensor:
        return x

    def _from_slots(self, x: Tensor) -> Tensor:
        return x

    def _scores(self, hidden_BTE: Tensor, placed: Placed) -> Tensor:
        last_BE = hidden_BTE[:, 0] if hidden_BTE.shape[1] == 1 else hidden_BTE[placed.rows_B, placed.last_B]
        return F.linear(rms_norm(last_BE, self.norm_E, eps=self._eps, rules=self._device.rules), self.head)


class JoinedQwen3(LeanQwen3):
    """Rows of several models in one pass: attention and everything that goes number by number for all rows together, each
    product for the rows of its model. Holds the models' weights: to be dropped when one of them leaves."""

    def __init__(self, forwards: Sequence[LeanQwen3]) -> None:
        first = forwards[0]
        self.__dict__.update(first.__dict__)
        self.compiled = None  # it knows the weights of one model
        models = list(dict.fromkeys(forwards))
        owner = [models.index(forward) for forward in forwards]
        order = sorted(range(len(owner)), key=owner.__getitem__)
        bounds = [sum(one < number for one in owner) for number in range(len(models) + 1)]
        to = self._device.torch
        self._models = [(model, start, end) for model, (start, end) in zip(models, pairwise(bounds), strict=True)]
        self._order_B = torch.tensor(order).to(to)
        self._back_B = torch.tensor(sorted(range(len(order)), key=order.__getitem__)).to(to)
        self._gains = {name: [self._by_row([getattr(model.layers[index], name) for model in models])[:, None] for index in range(len(self.layers))]
                       for name in ("norm_E", "mlp_norm_E", "qk_norm_HD")}
        self._gains["qk_norm_HD"] = [self._to_slots(gain) for gain in self._gains["qk_norm_HD"]]
        self._last_gain_BE = self._by_row([model.norm_E for model in models])

    def _by_row(self, gains: Sequence[Tensor]) -> Tensor:
        """A model's gain for each of its rows, rows by model."""
        return torch.cat([gain.expand(end - start, *gain.shape) for (_, start, end), gain in zip(self._models, gains, strict=True)])

    def _embedded(self, ids_BT: Tensor) -> Tensor:
        ids_BT = ids_BT.index_select(0, self._order_B)
        return torch.cat([F.embedding(ids_BT[start:end], model.embed) for model, start, end in self._models])

    def _linear(self, x: Tensor, index: int, name: str) -> Tensor:
        return torch.cat([x[start:end] @ getattr(model.layers[index], name) for model, start, end in self._models])

    def _normed(self, x: Tensor, index: int, name: str) -> Tensor:
        return rms_norm(x, None, eps=self._eps, rules=self._device.rules) * self._gains[name][index]

    def _qk_gain(self, index: int) -> Tensor:
        return self._gains["qk_norm_HD"][index]

    def _to_slots(self, x: Tensor) -> Tensor:
        return x.index_select(0, self._back_B)

    def _from_slots(self, x: Tensor) -> Tensor:
        return x.index_select(0, self._order_B)

    def _scores(self, hidden_BTE: Tensor, placed: Placed) -> Tensor:
        width = hidden_BTE.shape[1]
        last_BE = hidden_BTE[:, 0] if width == 1 else hidden_BTE[placed.rows_B, placed.last_B.index_select(0, self._order_B)]
        normed_BE = rms_norm(last_BE, None, eps=self._eps, rules=self._device.rules) * self._last_gain_BE
        return torch.cat([F.linear(normed_BE[start:end], model.head) for model, start, end in self._models]).index_select(0, self._back_B)
