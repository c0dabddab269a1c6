"""One pass of a model that goes on from a cache, whatever this transformers calls its arguments.

Versions differ: `past_key_values` until 5.23, `cache` since 5.24.
Knows names alone; does not choose tokens and does not build masks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

CACHE_NAMES = "cache", "past_key_values", "cache_params"  # of models and layers, newest first


def read_on(model: PreTrainedModel, ids: Tensor, *, cache: Any, **more: Any) -> tuple[Tensor, Any]:
    """Logits of a pass over ids (B, T) that follow what the cache holds, and the cache with them in it. cache: None at the beginning.

    more: further arguments of the model's forward; those that it doesn't know are left out, since places have other names from version to version.
    """
    name = _cache_name(model)
    output = model(input_ids=ids, use_cache=True, return_dict=True, **{name: cache}, **_known(model, more))
    logits: Tensor = output.logits
    return logits, output[name]


def holds_cache(arguments: Mapping[str, Any]) -> bool:
    """Whether a layer was called with a cache, under any of its names."""
    return any(arguments.get(name) is not None for name in CACHE_NAMES)


def _cache_name(model: PreTrainedModel) -> str:
    return next(name for name in CACHE_NAMES if name in _parameters(type(model).forward))


def _known(model: PreTrainedModel, arguments: Mapping[str, Any]) -> dict[str, Any]:
    takes = _parameters(type(model).forward)
    return {name: value for name, value in arguments.items() if name in takes}


@lru_cache(maxsize=64)
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)
