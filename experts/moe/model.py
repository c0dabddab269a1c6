"""Mixture-of-experts models from settings: transformers' Qwen3Moe, or our class of it where heads have a gate or choices a bias.

Our class has a model type of its own, so that transformers alone refuses such a folder instead of answering without those parts.
Does not train (control.py). Legend: B rows, T places, H heads, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeAttention

from experts.moe.block import MoeBlock, is_routed
from settings import ModelSettings

MODEL_TYPE = "branchwise_moe"


class BranchwiseMoeConfig(Qwen3MoeConfig):  # type: ignore[misc]
    """Qwen3Moe's settings and two of ours: head_gate, choice_bias."""

    model_type = MODEL_TYPE

    def __init__(self, head_gate: bool = False, choice_bias: bool = False, **more: Any) -> None:
        super().__init__(**more)
        self.head_gate, self.choice_bias = head_gate, choice_bias


class BranchwiseMoeForCausalLM(Qwen3MoeForCausalLM):  # type: ignore[misc]
    """Qwen3Moe with a sigmoid gate on each attention head, and a bias on the choice of experts."""

    config_class = BranchwiseMoeConfig

    def __init__(self, config: BranchwiseMoeConfig) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.model.layers):
            if config.head_gate:
                layer.self_attn = GatedAttention(config, number)
            if config.choice_bias and is_routed(layer.mlp):
                layer.mlp = MoeBlock(layer.mlp, top_k=config.num_experts_per_tok, normalize=config.norm_topk_prob, choice_bias=True)
        self.post_init()


class GatedAttention(Qwen3MoeAttention):  # type: ignore[misc]
    """Attention whose heads are each multiplied by sigmoid(head_gate(x)) before they are mixed (arXiv:2505.06708)."""

    def __init__(self, config: BranchwiseMoeConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.head_gate = nn.Linear(config.hidden_size, config.num_attention_heads)
        self.o_proj = _GatedOutput(config.num_attention_heads * self.head_dim, config.hidden_size, bias=config.attention_bias)

    def forward(self, hidden_states: Tensor, *args: Any, **more: Any) -> Any:
        """As transformers' own; the gate meets the heads in the output projection, the first place where they stand side by side."""
        self.o_proj.gate_BTH = torch.sigmoid(self.head_gate(hidden_states))
        found = super().forward(hidden_states, *args, **more)
        self.o_proj.gate_BTH = None
        return found


class _GatedOutput(nn.Linear):
    gate_BTH: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self.gate_BTH is not None:
            heads_BTHF = input.view(*self.gate_BTH.shape, -1)
            input = (heads_BTHF * self.gate_BTH[..., None]).flatten(-2)
        return super().forward(input)


def moe_config(settings: ModelSettings, *, vocab_size: int, end_id: int, pad_id: int) -> Qwen3MoeConfig:
    """Qwen3Moe (arXiv:2505.09388): every layer routed, experts of model.intermediate; ours where settings ask for parts of ours."""
    ours = {"head_gate": settings.head_gate, "choice_bias": settings.choice_bias} if settings.head_gate or settings.choice_bias else {}
    make = BranchwiseMoeConfig if ours else Qwen3MoeConfig
    return make(
        vocab_size=vocab_size, hidden_size=settings.width, intermediate_size=settings.intermediate, moe_intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads, num_key_value_heads=settings.kv_heads,
        head_dim=settings.width // settings.heads, max_position_embeddings=settings.context_tokens, tie_word_embeddings=True,
        num_experts=settings.experts, num_experts_per_tok=settings.top_k, norm_topk_prob=settings.normalize_top_k, decoder_sparse_step=1,
        router_aux_loss_coef=0.0, output_router_logits=False, attention_bias=False, attention_dropout=0.0,
        bos_token_id=None, eos_token_id=end_id, pad_token_id=pad_id, use_cache=True, **ours)


def make_moe(config: Qwen3MoeConfig) -> Qwen3MoeForCausalLM:
    """An untrained model of the class that the configuration asks for."""
    if isinstance(config, BranchwiseMoeConfig):
        register()
        return BranchwiseMoeForCausalLM(config)
    return Qwen3MoeForCausalLM(config)


def register() -> None:
    """Make our class known to transformers' Auto classes; doing it again changes nothing."""
    AutoConfig.register(MODEL_TYPE, BranchwiseMoeConfig, exist_ok=True)
    AutoModelForCausalLM.register(BranchwiseMoeConfig, BranchwiseMoeForCausalLM, exist_ok=True)


def make_known(folder: Path) -> None:
    """Before a model folder is loaded: register our class when the folder is of it."""
    config = folder / "config.json"
    if config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("model_type") == MODEL_TYPE:
        register()
