"""Settings of models: their shape, and what a model of plain text is sampled with. Part of settings.py, which imports it.

Holds sections only; reading, merging and error texts are settings.py's.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """One table of config.toml: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


HYBRID_KEYS = ("attention_layers", "ssm_expand", "ssm_heads", "ssm_groups", "ssm_state", "ssm_kernel", "ssm_chunk")  # of architecture bamba alone


class ModelSettings(Section):
    architecture: Literal["qwen3", "bamba"] = Field("qwen3", description="transformers class of a model built from scratch; bamba: attention/SSM hybrid")
    layers: int = Field(4, description="transformer layers", ge=1, le=200)
    width: int = Field(192, description="hidden size", ge=8, le=32_768)
    heads: int = Field(4, description="attention heads; must divide the width", ge=1, le=512)
    kv_heads: int = Field(2, description="key-value heads (grouped-query attention); must divide the heads", ge=1, le=512)
    intermediate: int = Field(512, description="width of the SwiGLU layer", ge=8, le=262_144)
    context_tokens: int = Field(512, description="longest sequence, prompt and answer together", ge=32, le=1_048_576)

    attention_layers: tuple[int, ...] = Field((2,), description="bamba: layers that are attention, counted from 0; the others are state spaces (Mamba 2)")
    ssm_expand: int = Field(2, description="bamba: width of a state-space layer as a multiple of model.width", ge=1, le=16)
    ssm_heads: int = Field(8, description="bamba: heads of a state-space layer; must divide its width", ge=1, le=4096)
    ssm_groups: int = Field(1, description="bamba: groups of heads that share inputs and outputs of the state; must divide model.ssm_heads", ge=1, le=512)
    ssm_state: int = Field(64, description="bamba: numbers of state a channel", ge=1, le=4096)
    ssm_kernel: int = Field(4, description="bamba: tokens that the convolution before the state space sees", ge=2, le=64)
    ssm_chunk: int = Field(64, description="bamba: tokens computed at once by matrix products", ge=1, le=4096)

    @model_validator(mode="after")
    def _shapes_fit(self) -> ModelSettings:
        if self.width % self.heads:
            raise ValueError(f"model.width = {self.width} isn't a multiple of model.heads = {self.heads}; change one of them")
        if (self.width // self.heads) % 2:
            raise ValueError(f"model.width / model.heads = {self.width // self.heads} must be even for rotary positions")
        if self.heads % self.kv_heads:
            raise ValueError(f"model.heads = {self.heads} isn't a multiple of model.kv_heads = {self.kv_heads}; change one of them")
        if self.architecture == "bamba":
            self._hybrid_fits()
        return self

    def _hybrid_fits(self) -> None:
        wide = self.width * self.ssm_expand
        if wide % self.ssm_heads:
            raise ValueError(f"model.width x model.ssm_expand = {self.width} x {self.ssm_expand} = {wide} isn't a multiple of "
                             f"model.ssm_heads = {self.ssm_heads}; change one of them")
        if self.ssm_heads % self.ssm_groups:
            raise ValueError(f"model.ssm_heads = {self.ssm_heads} isn't a multiple of model.ssm_groups = {self.ssm_groups}; change one of them")
        outside = [layer for layer in self.attention_layers if not 0 <= layer < self.layers]
        if outside or len(set(self.attention_layers)) != len(self.attention_layers):
            raise ValueError(f"model.attention_layers = {list(self.attention_layers)} must name layers of 0 .. {self.layers - 1}, "
                             f"each once (model.layers = {self.layers})")
        if not 0 < len(self.attention_layers) < self.layers:
            raise ValueError(f"model.attention_layers = {list(self.attention_layers)} of model.layers = {self.layers}: a hybrid has at least one layer of "
                             "attention and one of state space; take architecture qwen3 for attention alone")


class TextSettings(Section):
    validation_share: float = Field(0.1, description="last part of a plain text that is held out", gt=0, lt=0.9)
    prompts: tuple[str, ...] = Field(("To be", "The king"), description="beginnings that are continued at each examination of a plain-text model")
    prompt_symbols: int = Field(64, description="tokens written after each of them", ge=1, le=100_000)
    sample_symbols: int = Field(500, description="characters written at the end of the training", ge=1, le=1_000_000)
    temperature: float = Field(0.8, description="temperature of these samples", gt=0, le=10)
