"""Settings of models: their shape, how they write, and what a model of plain text is sampled with. Part of settings.py, which imports it.

Holds sections only; reading, merging and error texts are settings.py's.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """One table of config.toml: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


ROUTED_KEYS = ("experts", "top_k", "normalize_top_k", "head_gate", "choice_bias")  # of architecture qwen3_moe alone
HYBRID_KEYS = ("attention_layers", "ssm_expand", "ssm_heads", "ssm_groups", "ssm_state", "ssm_kernel", "ssm_chunk")  # of architecture bamba alone


class ModelSettings(Section):
    base: str | None = Field(None,
                             description="folder or Hub id of a pretrained causal language model to start from; unset: a new one of this shape", min_length=1)
    architecture: Literal["qwen3", "qwen3_moe", "bamba"] = Field(
        "qwen3", description="transformers class of a model built from scratch; qwen3_moe: mixture of experts; bamba: attention/SSM hybrid")
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

    experts: int = Field(8, description="qwen3_moe: experts a layer, each model.intermediate wide", ge=2, le=1024)
    top_k: int = Field(1, description="qwen3_moe: experts that answer for each token", ge=1, le=1024)
    normalize_top_k: bool = Field(False, description="qwen3_moe: a token's expert weights sum to 1; needs top_k of 2 or more")
    head_gate: bool = Field(False, description="qwen3_moe: a sigmoid gate on each attention head; such a folder loads through us alone")
    choice_bias: bool = Field(False, description="qwen3_moe: balance by a bias on the choice, moved by moe.bias_rate; such a folder loads through us alone")

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
        self._routing_fits()
        return self

    def _routing_fits(self) -> None:
        if self.architecture != "qwen3_moe":
            if self.head_gate or self.choice_bias:
                raise ValueError(f"model.head_gate and model.choice_bias are parts of architecture qwen3_moe, not of {self.architecture!r}; leave them false")
            return
        if self.top_k > self.experts:
            raise ValueError(f"model.top_k = {self.top_k} is more than model.experts = {self.experts}; lower the first or raise the second")
        if self.normalize_top_k and self.top_k == 1:
            raise ValueError("model.normalize_top_k with model.top_k = 1 makes every weight 1, so that the router learns nothing from the loss; "
                             "set it to false or top_k to 2 or more")

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


class DecodingSettings(Section):
    dry: Literal["auto", "always", "never"] = Field(
        "auto", description="DRY, a cost of repetition in exams and answers; auto: for versions whose plain answers to held-out prompts go in circles")
    dry_multiplier: float = Field(1.0, description="what a token loses of its logit for going on with a repeated sequence", gt=0, le=100)
    dry_base: float = Field(1.75, description="times as much for each token that the repeated sequence is longer", ge=1, le=16)
    dry_allowed_tokens: int = Field(4, description="longest sequence that may be repeated without a loss", ge=1, le=10_000)
    dry_window_tokens: int = Field(256, description="tokens back in which a sequence counts as repeated, prompt included", ge=2, le=1_048_576)


class TextSettings(Section):
    validation_share: float = Field(0.1, description="last part of a plain text that is held out", gt=0, lt=0.9)
    prompts: tuple[str, ...] = Field(("To be", "The king"), description="beginnings that are continued at each examination of a plain-text model")
    prompt_symbols: int = Field(64, description="tokens written after each of them", ge=1, le=100_000)
    sample_symbols: int = Field(500, description="characters written at the end of the training", ge=1, le=1_000_000)
    temperature: float = Field(0.8, description="temperature of these samples", gt=0, le=10)


class MoeSettings(Section):
    balance_weight: float = Field(0.01, description="weight of the balance loss of each routed layer; 0: off", ge=0, le=100)
    z_weight: float = Field(0.001, description="weight of the mean squared logsumexp of the router's logits; 0: off", ge=0, le=100)
    bias_rate: float = Field(0.003, description="how far a step moves an expert's choice bias, with model.choice_bias", ge=0, le=1)
    temperature: float = Field(1.0, description="the choice is made from logits / temperature, at the start of a training", gt=0, le=100)
    final_temperature: float = Field(1.0, description="temperature after moe.anneal_steps", gt=0, le=100)
    noise: Literal["gumbel", "normal"] = Field("gumbel", description="noise on the choice of experts in training")
    noise_std: float = Field(0.0, description="its scale at the start, 0 after moe.anneal_steps", ge=0, le=100)
    anneal_steps: int = Field(1000, description="steps over which temperature and noise go to their end, in a straight line", ge=1, le=10_000_000)
    capacity_factor: float | None = Field(None, description="tokens an expert takes in training, as a multiple of its even share; unset: no token is dropped",
                                          gt=0, le=1000)
    dropout: float = Field(0.0, description="share of the numbers that a routed model's layers add which training sets to 0", ge=0, lt=1)
    health_every_steps: int = Field(10, description="steps that one reading of the router's metrics sums up", ge=1, le=100_000)
    sustained_readings: int = Field(3, description="readings in a row after which a limit that is passed is an alarm", ge=1, le=10_000)
    auto_heal: bool = Field(False, description="raise balance weight or temperature on an alarm, and say so")
    wandb_project: str | None = Field(None, description="Weights & Biases project that gets the metrics too; needs the package wandb", min_length=1)

    @model_validator(mode="after")
    def _temperature_falls(self) -> MoeSettings:
        if self.final_temperature > self.temperature:
            raise ValueError(f"moe.final_temperature = {self.final_temperature} is more than moe.temperature = {self.temperature}; annealing lowers it")
        return self
