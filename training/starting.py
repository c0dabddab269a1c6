"""The model that a job begins with: a served version, a pretrained base or a new one, with adapters where those are trained.

A pretrained base is measured by its outline first, so that what doesn't fit is refused before its weights are read. Does not train.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel

from experts import architectures, pretrained
from experts import tokenizer as tokens
from experts.adapters import add_adapters
from experts.device import Device
from experts.expert import Expert
from experts.hybrid import with_fast_layers
from experts.moe.control import attach
from experts.tokenizer import Tokenizer
from settings import Settings
from training.memory import Need, need_of, require_room


def starting_model(settings: Settings, *, folder: Path | None, tokenizer: Tokenizer, device: Device, note: Callable[[str], None]) -> PreTrainedModel:
    """The model in folder when there is one, else the start of a family, ready to be trained.

    note: gets the memory that a pretrained base needs. Raises BaseModelError, PackageMissing, DoesNotFit.
    """
    if settings.model.base is not None:
        need = need_of_base(settings, tokenizer=tokenizer)
        note(f"{settings.model.base}: training needs about {need}")
        require_room(need, device=device, name=settings.model.base)
    if folder is not None:
        return _adapted(opened(folder, settings=settings, device=device), settings=settings, tokenizer=tokenizer)
    if settings.model.base is not None:
        model = pretrained.load_base(settings.model, tokenizer=tokenizer, seed=settings.run.seed)
    else:
        model = architectures.build(settings.model, vocab_size=len(tokenizer), end_id=tokens.end_id(tokenizer), pad_id=tokens.pad_id(tokenizer),
                                    seed=settings.run.seed)
    attach(model, settings.moe)
    return _adapted(model, settings=settings, tokenizer=tokenizer)


def opened(folder: Path, *, settings: Settings, device: Device) -> PreTrainedModel:
    """A version as a training begins with it, adapters aside."""
    model = with_fast_layers(Expert.load(folder, device=device).model)
    attach(model, settings.moe)
    return model


def need_of_base(settings: Settings, *, tokenizer: Tokenizer) -> Need:
    """What training settings.model.base takes; only its config.json is read."""
    outline = pretrained.outline(settings.model, vocab_size=len(tokenizer))
    return need_of(_adapted(outline, settings=settings, tokenizer=tokenizer), settings=settings.train)


def _adapted(model: PreTrainedModel, *, settings: Settings, tokenizer: Tokenizer) -> PreTrainedModel:
    if settings.train.lora_rank is None:
        return model
    # Role marks that the base never saw must be learned, and adapters leave embeddings alone.
    return add_adapters(model, rank=settings.train.lora_rank, alpha=settings.train.lora_alpha, seed=settings.run.seed,
                        train_embeddings=tokens.has_own_marks(tokenizer))
