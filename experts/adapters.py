"""LoRA (arXiv 2106.09685) by peft: small trainable matrices beside frozen ones, folded into them before a version is written.

A model with adapters stays an object of its own class, so that trainer and exam treat it like any other. Does not train.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from experts.extras import require


def require_peft() -> None:
    """Raises PackageMissing without it."""
    require("peft", asked_by="train.lora_rank (LoRA)", install='-e ".[pretrained]"', instead="unset train.lora_rank to train all weights")


def add_adapters(model: PreTrainedModel, *, rank: int, alpha: float, seed: int, train_embeddings: bool) -> PreTrainedModel:
    """Freeze the model and put adapters of that rank beside every linear layer but the output head, in place; they change nothing at first.

    alpha: adapters count alpha / rank. train_embeddings: the token embeddings stay trainable, for a vocabulary that has new tokens.
    Raises PackageMissing.
    """
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    conv = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2's linear layers keep their weights transposed
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", fan_in_fan_out=conv)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    if train_embeddings:
        model.get_input_embeddings().weight.requires_grad_(True)
    return model


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether some of the model's layers carry adapters."""
    return hasattr(model, "peft_config")


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with the adapters folded into its weights, an object of stock layers alone; the model itself when it has none."""
    if not has_adapters(model):
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer

    stock = copy.deepcopy(model)
    for parent in list(stock.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                layer: Any = child
                layer.merge()
                setattr(parent, name, layer.get_base_layer())
    del stock.peft_config
    stock.requires_grad_(True)
    stock.tie_weights()
    return stock
