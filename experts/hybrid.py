"""Attention/SSM hybrids: Bamba (Mamba 2 layers with a few of attention) from settings, as transformers' own class, made fast to train.

transformers' plain-torch state space is what runs where its CUDA kernels are missing, and it repeats work a head. Here the same layers
compute the same numbers in fewer operations when a whole row is read; decoding, saving and loading stay transformers'.
Does not choose between architectures (architectures.py).
Legend: B rows, T tokens, H heads, D width of a head.
"""

from __future__ import annotations

import importlib.util
import logging
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BambaConfig, BambaForCausalLM, PreTrainedModel
from transformers.models.bamba import modeling_bamba

from experts.cached_pass import holds_cache
from experts.state_space import causal_convolution, chunked_scan
from settings import ModelSettings

_log = logging.getLogger(__name__)


def bamba_config(settings: ModelSettings, *, vocab_size: int, end_id: int, pad_id: int) -> BambaConfig:
    """Bamba (https://huggingface.co/blog/bamba): Mamba 2 (arXiv:2405.21060), grouped-query attention with rotary positions, SwiGLU after each."""
    return BambaConfig(
        vocab_size=vocab_size, hidden_size=settings.width, intermediate_size=settings.intermediate, num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads, num_key_value_heads=settings.kv_heads, attn_layer_indices=sorted(settings.attention_layers),
        mamba_expand=settings.ssm_expand, mamba_n_heads=settings.ssm_heads, mamba_d_head=settings.width * settings.ssm_expand // settings.ssm_heads,
        mamba_n_groups=settings.ssm_groups, mamba_d_state=settings.ssm_state, mamba_d_conv=settings.ssm_kernel, mamba_chunk_size=settings.ssm_chunk,
        max_position_embeddings=settings.context_tokens, tie_word_embeddings=True, attention_bias=False, attention_dropout=0.0,
        bos_token_id=None, eos_token_id=end_id, pad_token_id=pad_id, use_cache=True)


def bamba_model(config: BambaConfig) -> PreTrainedModel:
    """A new model with the fast layers, where they are right."""
    return with_fast_layers(BambaForCausalLM(config))


@torch.no_grad()
def with_fast_layers(model: PreTrainedModel) -> PreTrainedModel:
    """The same model; layers of Bamba read whole rows the fast way, unless its CUDA kernels are installed or the fast way gives other logits."""
    classes = {module: type(module) for module in model.modules() if type(module) in _fast_classes()}
    if not classes or importlib.util.find_spec("mamba_ssm") is not None or _groups_are_others(model):
        return model
    tokens = (torch.arange(2 * 24) * 7 % model.config.vocab_size).view(2, 24).to(model.device)
    training = model.training
    model.eval()
    stock = model(input_ids=tokens, use_cache=False).logits
    for module, kind in classes.items():
        module.__class__ = _fast_classes()[kind]
    gap = float((model(input_ids=tokens, use_cache=False).logits - stock).abs().max())
    if not gap <= 1e-5 + 1e-4 * float(stock.abs().max()):  # a transformers whose layers compute something else
        _log.warning("fast state-space layers differ from transformers' by %.2g and aren't used", gap)
        for module, kind in classes.items():
            module.__class__ = kind
    model.train(training)
    return model


def _groups_are_others(model: PreTrainedModel) -> bool:
    """Whether this transformers gives heads to groups in another order and norms over all of them (5.12 does); new weights hardly show it."""
    norms = [module.norm for module in model.modules() if isinstance(module, modeling_bamba.BambaMixer) and module.n_groups > 1]
    return any(not hasattr(norm, "group_size") for norm in norms)


@lru_cache(maxsize=1)
def _fast_classes() -> dict[type, type]:
    return {modeling_bamba.BambaMixer: FastMixer, modeling_bamba.BambaAttention: FastAttention}


class FastMixer(modeling_bamba.BambaMixer):  # type: ignore[misc]
    """transformers' Mamba 2 layer with our scan for whole rows; same weights, same names. With a cache or padding: transformers' own."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **more: Any) -> Tensor:
        """B x T x width to the same shape."""
        if attention_mask is not None or holds_cache(more):
            found: Tensor = super().forward(hidden_states, attention_mask=attention_mask, **more)
            return found
        rows, length, _ = hidden_states.shape
        projected = self.in_proj(hidden_states)
        gate, mixed, dt = projected.split([self.intermediate_size, self.conv_dim, self.num_heads], dim=-1)
        dt_BTH = functional.softplus(dt.float() + self.dt_bias).clamp(*self.time_step_limit)
        mixed = self.act(causal_convolution(mixed, self.conv1d.weight.squeeze(1), self.conv1d.bias)).to(projected.dtype)
        state = self.n_groups * self.ssm_state_size
        x, inputs, outputs = mixed.split([self.intermediate_size, state, state], dim=-1)
        y = chunked_scan(x.reshape(rows, length, self.num_heads, self.head_dim), dt_BTH, -self.A_log.float().exp(),
                         inputs.reshape(rows, length, self.n_groups, -1), outputs.reshape(rows, length, self.n_groups, -1), self.D, chunk=self.chunk_size)
        gated = y.float() * self.act(gate.float())
        grouped = gated.view(rows, length, self.n_groups, -1)
        normed = (grouped * torch.rsqrt(grouped.pow(2).mean(-1, keepdim=True) + self.norm.variance_epsilon)).view(gated.shape)
        out: Tensor = self.out_proj((self.norm.weight * normed).to(hidden_states.dtype))
        return out


class FastAttention(modeling_bamba.BambaAttention):  # type: ignore[misc]
    """transformers' attention by plain products for whole rows: on a CPU twice as fast as its fused form for short rows."""

    def forward(self, hidden_states: Tensor, position_embeddings: Any = None, attention_mask: Tensor | None = None,
                **more: Any) -> tuple[Tensor, Tensor | None]:
        """B x T x width to the same shape."""
        if attention_mask is not None or holds_cache(more) or self.config._attn_implementation != "sdpa" or hidden_states.device.type != "cpu":
            found: tuple[Tensor, Tensor | None] = super().forward(hidden_states, position_embeddings=position_embeddings, attention_mask=attention_mask, **more)
            return found
        rows, length, _ = hidden_states.shape
        projections = self.q_proj, self.k_proj, self.v_proj
        query, key, value = (project(hidden_states).view(rows, length, -1, self.head_dim).transpose(1, 2) for project in projections)
        query, key = modeling_bamba.apply_rotary_pos_emb(query, key, *position_embeddings)
        heads = query.size(1)
        query = query.reshape(rows * key.size(1), -1, self.head_dim).to(value.dtype)  # heads that share a key stand below each other
        key, value = (x.reshape(rows * key.size(1), length, self.head_dim).to(value.dtype) for x in (key, value))
        later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1).repeat(heads * rows // key.size(0), 1)
        scores = (query @ key.mT).float() * self.scaling
        shares = scores.masked_fill(later, -torch.inf).softmax(-1).to(value.dtype)
        mixed = (shares @ value).view(rows, heads, length, self.head_dim).transpose(1, 2).reshape(rows, length, -1)
        return self.o_proj(mixed), None
