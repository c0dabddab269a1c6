"""The experts' products on tokens sorted by expert: one slice an expert, or torch's grouped product on a graphics card.

Does not choose experts (routing.py). Legend: N tokens, K choices a token, S = N K assignments in the order of the experts,
E experts, D width, I width of an expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from experts import autocast
from experts.moe.routing import ends_of, inverse_of


@dataclass(frozen=True)
class Order:
    """Assignments in the order of their experts. assignment a is choice a // N of token a % N.

    from_S: which assignment stands at each place; to_S: the place of each assignment; ends_E: where each expert's part ends.
    Those that no expert serves stand behind all others; all_served: there are none.
    """

    from_S: Tensor
    to_S: Tensor
    ends_E: Tensor
    tokens: int
    all_served: bool

    @cached_property
    def parts(self) -> list[tuple[int, int]]:
        """Start and end of each expert's part, on the CPU."""
        ends = self.ends_E.cpu().tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))


def sort_by_expert(chosen_NK: Tensor, *, experts: int, served_NK: Tensor | None = None) -> Order:
    """The order in which each expert's assignments lie together, within an expert by choice and token."""
    expert_S = chosen_NK.T.reshape(-1)
    if served_NK is not None:
        expert_S = torch.where(served_NK.T.reshape(-1), expert_S, experts)
    sorted_S, from_S = expert_S.sort(stable=True)
    return Order(from_S, inverse_of(from_S), ends_of(sorted_S, experts=experts), len(chosen_NK), served_NK is None)


def swiglu_experts(x_ND: Tensor, order: Order, weight_NK: Tensor, *, gate_up_EID: Tensor, down_EDI: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum over the choices of weight x expert(x), N x D; gate_up_EID has the gate's rows before the up's."""
    x_SD: Tensor = _ToExperts.apply(x_ND, order)  # type: ignore[no-untyped-call]
    hidden: Tensor = _grouped(x_SD, gate_up_EID, order)
    gate_SI, up_SI = hidden.chunk(2, dim=-1)
    y_SD = _grouped(act(gate_SI) * up_SI, down_EDI, order)
    y_KND: Tensor = _FromExperts.apply(y_SD, order)  # type: ignore[no-untyped-call]
    top_k = weight_NK.size(1)
    if top_k == 1:
        return y_KND * weight_NK.to(y_KND.dtype)
    return torch.einsum("knd,nk->nd", y_KND.view(top_k, order.tokens, -1), weight_NK.to(y_KND.dtype))


def _grouped(x_SA: Tensor, weight_EBA: Tensor, order: Order) -> Tensor:
    if autocast.is_on(x_SA.device):
        dtype = torch.get_autocast_dtype(x_SA.device.type)
        x_SA, weight_EBA = x_SA.to(dtype), weight_EBA.to(dtype)
    if x_SA.device.type == "cuda" and x_SA.dtype == torch.bfloat16 and hasattr(torch.nn.functional, "grouped_mm"):
        return _by_kernel(x_SA, weight_EBA, order)
    found: Tensor = _BySlices.apply(x_SA, weight_EBA, order)  # type: ignore[no-untyped-call]
    return found


def _by_kernel(x_SA: Tensor, weight_EBA: Tensor, order: Order) -> Tensor:
    served = len(x_SA) if order.all_served else order.parts[-1][1]
    found: Tensor = torch.nn.functional.grouped_mm(x_SA[:served], weight_EBA.mT, offs=order.ends_E.to(torch.int32))
    return found if served == len(x_SA) else torch.cat([found, found.new_zeros(len(x_SA) - served, found.size(1))])


class _BySlices(torch.autograd.Function):
    """x[part of e] times weight[e]^T for every expert; places behind the last part give zeros and get no gradient."""

    @staticmethod
    def forward(ctx: Any, x_SA: Tensor, weight_EBA: Tensor, order: Order) -> Tensor:
        ctx.save_for_backward(x_SA, weight_EBA)
        ctx.order = order
        y_SB = x_SA.new_empty(len(x_SA), weight_EBA.size(1))
        for expert, (start, end) in enumerate(order.parts):
            torch.mm(x_SA[start:end], weight_EBA[expert].T, out=y_SB[start:end])
        y_SB[order.parts[-1][1]:] = 0
        return y_SB

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x_SA, weight_EBA), grad_SB = ctx.saved_tensors, grads[0].contiguous()
        dx_SA, dweight_EBA = torch.empty_like(x_SA), torch.empty_like(weight_EBA)
        for expert, (start, end) in enumerate(ctx.order.parts):
            torch.mm(grad_SB[start:end], weight_EBA[expert], out=dx_SA[start:end])
            torch.mm(grad_SB[start:end].T, x_SA[start:end], out=dweight_EBA[expert])
        dx_SA[ctx.order.parts[-1][1]:] = 0
        return dx_SA, dweight_EBA, None


class _ToExperts(torch.autograd.Function):
    """N x D to S x D: each token once a choice. Its gradient is gathered, where autograd's own would scatter."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, order: Order) -> Tensor:
        ctx.order = order
        return x_ND.index_select(0, order.from_S % order.tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        order = ctx.order
        grad_KND = grads[0].index_select(0, order.to_S)
        return (grad_KND if len(grad_KND) == order.tokens else grad_KND.view(-1, order.tokens, grad_KND.size(1)).sum(0)), None


class _FromExperts(torch.autograd.Function):
    """S x D in the order of the experts to the order of the assignments."""

    @staticmethod
    def forward(ctx: Any, y_SD: Tensor, order: Order) -> Tensor:
        ctx.order = order
        return y_SD.index_select(0, order.to_S)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].index_select(0, ctx.order.from_S), None
