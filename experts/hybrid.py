"""Attention/SSM hybrids: Bamba (Mamba 2 layers with a few of attention) from settings, as transformers' own class.

Does not choose between architectures (architectures.py).
"""

from __future__ import annotations

from transformers import BambaConfig

from settings import ModelSettings


def bamba_config(settings: ModelSettings, *, vocab_size: int, end_id: int, pad_id: int) -> BambaConfig:
    """Bamba (https://huggingface.co/blog/bamba): Mamba 2 (arXiv:2405.21060), grouped-query attention with rotary positions, SwiGLU after each."""
    return BambaConfig(
        vocab_size=vocab_size, hidden_size=settings.width, intermediate_size=settings.intermediate, num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads, num_key_value_heads=settings.kv_heads, attn_layer_indices=sorted(settings.attention_layers),
        mamba_expand=settings.ssm_expand, mamba_n_heads=settings.ssm_heads, mamba_d_head=settings.width * settings.ssm_expand // settings.ssm_heads,
        mamba_n_groups=settings.ssm_groups, mamba_d_state=settings.ssm_state, mamba_d_conv=settings.ssm_kernel, mamba_chunk_size=settings.ssm_chunk,
        max_position_embeddings=settings.context_tokens, tie_word_embeddings=True, attention_bias=False, attention_dropout=0.0,
        bos_token_id=None, eos_token_id=end_id, pad_token_id=pad_id, use_cache=True)
