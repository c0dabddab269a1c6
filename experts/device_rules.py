"""What each kind of device asks of the code that runs on it, and the forms that follow from it, in one place.

Trainer, exam, engine and self-test call these functions or read the rules; nobody asks for the kind of a device.
Does not find devices (device.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

from experts.moe.block import take_over

Kind = Literal["cpu", "cuda", "rocm", "xpu", "mps", "directml"]


@dataclass(frozen=True, slots=True)
class DeviceRules:
    """Rules of one kind of device.

    autocast_dtype: dtype of autocast, None for plain fp32. bf16: whether a bfloat16 tensor may exist there at all.
    optimizer_form: how AdamW and clipping run; "single" is one tensor at a time without lerp. loss_form: "log_softmax" is
    log_softmax + gather. silu_form: "product" is x * sigmoid(x). attention: transformers' attn_implementation; "eager" also
    stands for norms and attention of plain operations. routing_form: whose mixture-of-experts layer evaluates, transformers' own or
    ours, which sorts tokens by expert and needs no index_add (training is always ours). cache_writes: how the columns of a step get
    into the KV cache, "slice" is a copy a row. cpu_sampling: logits go to the CPU to be sampled. one_at_a_time: no two threads on the
    device at once. shared: a gateway may use it beside the loop. trial: it must pass the self-test in a process of its own before it
    is used.
    The same for every device: weights are loaded on the CPU and moved (place_model), generators are the CPU's, torch.no_grad
    stands in place of inference_mode.
    """

    autocast_dtype: torch.dtype | None = None
    bf16: bool = True
    optimizer_form: Literal["fused", "foreach", "single"] = "foreach"
    loss_form: Literal["cross_entropy", "log_softmax"] = "cross_entropy"
    silu_form: Literal["native", "product"] = "native"
    attention: Literal["sdpa", "eager"] = "sdpa"
    routing_form: Literal["stock", "sorted"] = "stock"
    cache_writes: Literal["index", "slice"] = "index"
    cpu_sampling: bool = False
    one_at_a_time: bool = False
    shared: bool = True
    trial: bool = True


# DirectML (torch-directml 0.2.5, issues of microsoft/DirectML): bfloat16 aborts the process (688), there is no autocast
# (454), cross_entropy without reduction gives a zero gradient (739), _foreach_ and lerp (604, 626, 675) and silu_backward
# have no kernel, fused attention neither and masked_fill with -inf overflows (702), index_put is wrong in places (400, 449),
# threads are untested and memory is not given back before the process ends (412).
RULES: Mapping[Kind, DeviceRules] = {
    "cpu": DeviceRules(optimizer_form="fused", trial=False),
    "cuda": DeviceRules(autocast_dtype=torch.bfloat16, optimizer_form="fused", trial=False),
    "rocm": DeviceRules(autocast_dtype=torch.bfloat16),
    "xpu": DeviceRules(autocast_dtype=torch.bfloat16),
    "mps": DeviceRules(),
    "directml": DeviceRules(bf16=False, optimizer_form="single", loss_form="log_softmax", silu_form="product", attention="eager",
                            routing_form="sorted", cache_writes="slice", cpu_sampling=True, one_at_a_time=True, shared=False),
}


def place_model(model: PreTrainedModel, *, to: torch.device, rules: DeviceRules) -> PreTrainedModel:
    """Adapt a model and move it to a device, in place; make its optimizer afterwards, because its parameters may be new objects.

    Moving parts tied weights on backends that can't swap a tensor's storage (DirectML, XLA): they are tied again here.
    """
    model = adapt_model(model, rules=rules).to(to)
    model.tie_weights()
    return model


def adapt_model(model: PreTrainedModel, *, rules: DeviceRules) -> PreTrainedModel:
    """Give a model the attention, activation and routed layers that its device asks for, in place; its weights and config on disk stay the same."""
    if getattr(model.config, "_attn_implementation", rules.attention) != rules.attention:
        model.set_attn_implementation(rules.attention)
    if rules.routing_form == "sorted":
        take_over(model)
    if rules.silu_form == "product":
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.SiLU) or type(child).__name__ == "SiLUActivation":
                    setattr(module, name, ProductSiLU())
    return model


class ProductSiLU(nn.Module):
    """x * sigmoid(x) as two operations, each of which has a backward kernel everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x."""
        return x * torch.sigmoid(x)


def silu(x: Tensor, *, rules: DeviceRules) -> Tensor:
    """SiLU (arXiv:1702.03118) of every number."""
    return x * torch.sigmoid(x) if rules.silu_form == "product" else nn.functional.silu(x)


def rms_norm(x: Tensor, weight: Tensor | None, *, eps: float, rules: DeviceRules) -> Tensor:
    """Root-mean-square norm (arXiv:1910.07467) over the last dimension."""
    if rules.attention == "sdpa":
        return nn.functional.rms_norm(x, x.shape[-1:], weight, eps)
    normed = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
    return normed if weight is None else normed * weight


def attend(query: Tensor, keys: Tensor, values: Tensor, *, mask: Tensor | None, rules: DeviceRules) -> Tensor:
    """Attention over the last two dimensions; mask: from attention_mask, None where every key may be seen."""
    if rules.attention == "sdpa":
        return nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    scores = query @ keys.transpose(-1, -2) * query.shape[-1] ** -0.5
    return torch.softmax(scores if mask is None else scores + mask, dim=-1) @ values


def attention_mask(allowed: Tensor, *, rules: DeviceRules) -> Tensor:
    """A 4-D mask (True: may be seen) in the form that the device's attention takes; eager attention adds it to the scores."""
    if rules.attention == "sdpa":
        return allowed
    return torch.where(allowed, 0.0, torch.finfo(torch.float32).min)


def summed_cost(logits_NV: Tensor, targets_N: Tensor, *, rules: DeviceRules) -> Tensor:
    """Differentiable sum of the targets' costs in nats."""
    if rules.loss_form == "log_softmax":
        return -torch.log_softmax(logits_NV, dim=-1).gather(1, targets_N[:, None]).sum()
    return nn.functional.cross_entropy(logits_NV, targets_N, reduction="sum")


def make_adamw(groups: Iterable[Any], *, lr: float, betas: tuple[float, float], weight_decay: float = 0.0, rules: DeviceRules) -> Optimizer:
    """AdamW in the form that the device runs; all forms keep the same state (step, exp_avg, exp_avg_sq)."""
    if rules.optimizer_form == "single":
        return PlainAdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay)
    form: dict[str, bool] = {"fused": True} if rules.optimizer_form == "fused" else {"foreach": True}
    return AdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay, **form)


class PlainAdamW(Optimizer):
    """AdamW (arXiv:1711.05101) by multiplications and additions alone; torch's own uses lerp even when told not to fuse."""

    def __init__(self, params: Iterable[Any], *, lr: float, betas: tuple[float, float], weight_decay: float, eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group=group)

    def _update(self, parameter: Tensor, *, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        state["step"] += 1  # on the CPU, as torch's own keeps it
        steps, (beta1, beta2) = float(state["step"]), group["betas"]
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        mean = state["exp_avg"].mul_(beta1).add_(gradient, alpha=1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).add_(gradient * gradient, alpha=1 - beta2)
        root = (square.sqrt() / (1 - beta2**steps) ** 0.5).add_(group["eps"])
        parameter.add_(mean / root, alpha=-group["lr"] / (1 - beta1**steps))


def clip_gradients(parameters: Iterable[Tensor], *, limit: float, rules: DeviceRules) -> Tensor:
    """Scale gradients so that their joint norm is at most limit; gives the norm before (one number, on the device)."""
    return torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=rules.optimizer_form != "single")
