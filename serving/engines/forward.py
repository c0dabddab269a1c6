"""Which forward steps a model: the lean one for Qwen3, transformers' own over slots, or with transformers' cache a row."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from experts.device import Device
from experts.reach import sees_everything
from serving.engines.hub_forward import CacheForward, HubForward
from serving.engines.lean_qwen3 import LeanQwen3
from serving.engines.passes import Forward

__all__ = ["make_forward"]


def make_forward(model: PreTrainedModel, *, device: Device) -> Forward:
    """The fastest forward that is known to be right for this model."""
    if not sees_everything(model):
        return CacheForward(model, device=device)
    config: Any = model.config
    plain = getattr(config, "model_type", "") == "qwen3" and config.hidden_act == "silu" and not config.attention_bias
    return LeanQwen3(model, device=device) if plain else HubForward(model, device=device)
