"""One layer of a Qwen3 decode step as one function of tensors, and the command that compiles it ahead of time.

`python -m serving.engines.layer_step SHAPE FILE`: SHAPE is LayerShape as JSON, FILE a .pt2 that compiled_step.py loads. A process of its own,
because compiling takes hundreds of MiB and holds Python's lock for seconds. Runs no model. Legend: B rows (1 when compiled), one new token each,
E model width, H query heads, K key-value heads, G = H / K, D head width, C columns that are filled.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FEWEST_COLUMNS = 2  # torch.export takes a size of 0 or 1 for a constant


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What the compiled code is fixed to, besides one row. context: columns of a slot; device: as torch writes it."""

    width: int
    heads: int
    kv_heads: int
    head_width: int
    intermediate: int
    context: int
    eps: float
    device: str

    def to_json(self) -> str:
        """As the command takes it."""
        return json.dumps(asdict(self))


class LayerStep(torch.nn.Module):
    """The arithmetic of lean_qwen3 for one token a row, without changing the slots: the new column stands beside the filled ones."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self._heads, self._kv_heads, self._width, self._eps = shape.heads, shape.kv_heads, shape.head_width, shape.eps

    def forward(self, hidden_BE: Tensor, cos_BD: Tensor, sin_BD: Tensor, keys_BKCD: Tensor, values_BKCD: Tensor, norm_E: Tensor, qkv: Tensor,
                qk_norm_HD: Tensor, out: Tensor, mlp_norm_E: Tensor, gate_up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's output (B, E), new keys and new values (B, K, D), for rows with equally many filled columns."""
        rows, heads, kv_heads, width = hidden_BE.shape[0], self._heads, self._kv_heads, self._width
        qkv_BHD = (self._normed(hidden_BE, norm_E) @ qkv).view(rows, heads + 2 * kv_heads, width)
        qk_BHD = F.rms_norm(qkv_BHD[:, :heads + kv_heads], (width,), None, self._eps) * qk_norm_HD
        half = width // 2
        qk_BHD = qk_BHD * cos_BD[:, None] + torch.cat((qk_BHD[..., half:], qk_BHD[..., :half]), dim=-1) * sin_BD[:, None]
        key_BKD, value_BKD = qk_BHD[:, heads:], qkv_BHD[:, heads + kv_heads:]
        query_BKGD = (qk_BHD[:, :heads] * width**-0.5).reshape(rows, kv_heads, heads // kv_heads, width)
        before_BKGC = query_BKGD @ keys_BKCD.transpose(-1, -2)
        own_BKG1 = (query_BKGD * key_BKD[:, :, None]).sum(-1, keepdim=True)
        top = torch.maximum(before_BKGC.amax(-1, keepdim=True), own_BKG1)
        before_BKGC, own_BKG1 = (before_BKGC - top).exp(), (own_BKG1 - top).exp()
        mixed_BKGD = (before_BKGC @ values_BKCD + own_BKG1 * value_BKD[:, :, None]) / (before_BKGC.sum(-1, keepdim=True) + own_BKG1)
        hidden_BE = hidden_BE + mixed_BKGD.reshape(rows, heads * width) @ out
        gate, up = (self._normed(hidden_BE, mlp_norm_E) @ gate_up).chunk(2, dim=-1)
        return hidden_BE + (F.silu(gate) * up) @ down, key_BKD.contiguous(), value_BKD.contiguous()

    def _normed(self, x: Tensor, gain: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), gain, self._eps)


def compile_layer(shape: LayerShape, file: str) -> None:
    """Write the compiled layer. Raises whatever torch and the compiler raise."""
    columns = {2: torch.export.Dim("columns", min=FEWEST_COLUMNS, max=shape.context - 1)}  # the new token has the last
    sizes = ({}, {}, {}, columns, columns, *[{}] * 7)
    with torch.no_grad():
        exported = torch.export.export(LayerStep(shape), _example(shape), dynamic_shapes=sizes, strict=False)
    # One thread outside of the products: a row is too short to be worth another.
    torch._inductor.aoti_compile_and_package(exported, package_path=file, inductor_configs={"compile_threads": 1, "cpp.threads": 1})


def _example(shape: LayerShape) -> tuple[Tensor, ...]:
    """Arguments of the sizes that are compiled; columns are fewer than a slot has, so that a slot's stride isn't taken for their number."""
    width, heads, kv_heads, head_width = shape.width, shape.heads, shape.kv_heads, shape.head_width
    slot = (1, kv_heads, shape.context, head_width)
    sizes = ((1, width), (1, head_width), (1, head_width), slot, slot, (width,), (width, (heads + 2 * kv_heads) * head_width),
             (heads + kv_heads, head_width), (heads * head_width, width), (width,), (width, 2 * shape.intermediate), (shape.intermediate, width))
    tensors = [torch.ones(size, device=shape.device) for size in sizes]
    tensors[3:5] = [tensor[:, :, :min(7, shape.context - 1)] for tensor in tensors[3:5]]
    return tuple(tensors)


def main(arguments: Sequence[str]) -> None:
    """The command."""
    shape, file = arguments
    compile_layer(LayerShape(**json.loads(shape)), file)


if __name__ == "__main__":
    main(sys.argv[1:])
