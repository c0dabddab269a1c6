"""How far back a model's layers look. Decides nothing: packing, exams and engines choose their ways by it."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel


def sees_everything(model: PreTrainedModel) -> bool:
    """Whether each layer is attention to every earlier token of a text as long as the model takes.

    Else it carries a state or a convolution (Mamba, hybrids) or sees a window alone (Mistral, Gemma), and keys and values in plain columns
    under a mask of ours would give other numbers than the model's own.
    """
    config: Any = model.config
    kinds = set(getattr(config, "layer_types", None) or ()) | set(getattr(config, "layers_block_type", None) or ())
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings and (not kinds or "sliding_attention" in kinds):
        return False
    return not getattr(model, "_is_stateful", False) and kinds <= {"full_attention", "attention", "sliding_attention"}
