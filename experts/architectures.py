"""From settings to an untrained model of a transformers class.

Makes the config, the seeded weights and the generation settings. Does not load trained models (expert.py) nor move them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from experts.hybrid import bamba_config, bamba_model
from experts.moe.model import make_moe, moe_config
from settings import ModelSettings


def build(settings: ModelSettings, *, vocab_size: int, end_id: int, pad_id: int, seed: int) -> PreTrainedModel:
    """An untrained model in fp32 on the CPU with tied embeddings.

    The same seed gives the same weights whatever was drawn before, and the random state of the caller stays as it was.
    """
    if not (0 <= end_id < vocab_size and 0 <= pad_id < vocab_size):
        raise ValueError(f"end_id = {end_id} and pad_id = {pad_id} must lie below vocab_size = {vocab_size}; take all three from the same tokenizer")
    make_config, make_model = _MAKERS[settings.architecture]
    config = make_config(settings, vocab_size=vocab_size, end_id=end_id, pad_id=pad_id)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        model = make_model(config).to(torch.float32)
    model.generation_config = GenerationConfig(eos_token_id=end_id, pad_token_id=pad_id, do_sample=False, max_new_tokens=settings.context_tokens // 2)
    return model.eval()


def qwen3_config(settings: ModelSettings, *, vocab_size: int, end_id: int, pad_id: int) -> Qwen3Config:
    """Qwen3: grouped-query attention with normed queries and keys, rotary positions, SwiGLU (arXiv:2505.09388)."""
    return Qwen3Config(
        vocab_size=vocab_size, hidden_size=settings.width, intermediate_size=settings.intermediate, num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads, num_key_value_heads=settings.kv_heads, head_dim=settings.width // settings.heads,
        max_position_embeddings=settings.context_tokens, tie_word_embeddings=True, attention_bias=False, attention_dropout=0.0,
        bos_token_id=None, eos_token_id=end_id, pad_token_id=pad_id, use_cache=True)


# One line an architecture: its configuration from the settings, and its class.
_MAKERS: Mapping[str, tuple[Callable[..., Any], Any]] = {
    "qwen3": (qwen3_config, Qwen3ForCausalLM),
    "qwen3_moe": (moe_config, make_moe),
    "bamba": (bamba_config, bamba_model),
}
