"""What a stopped run needs to go on bit for bit: captured into tensors and facts, checked, and put back.

Promised for the same device, torch and thread count. Writing it whole or not at all is experts/checkpoint.py's work.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experts import device as devices
from experts.checkpoint import load_newest
from experts.device import Device
from settings import TrainSettings
from training.optim import Optimizers
from training.plan import Mix, Plan, StateMismatch

_log = logging.getLogger(__name__)

# Settings that change the numbers of a run; rates, schedule and seed stand in the plan.
_NUMERIC_SETTINGS = ("row_tokens", "batch_rows", "accumulate", "optimizer", "beta1", "beta2", "weight_decay", "clip_norm")
_ADAPTER_SETTINGS = ("lora_rank", "lora_alpha")


def saved_plan(folder: Path) -> Plan | None:
    """The plan of the newest saved state, so that a resumed run keeps its length; None when nothing is saved."""
    state = load_newest(folder)
    return Plan(**state.facts["identity"]["plan"]) if state is not None else None


def identity(model: nn.Module, *, plan: Plan, mix: Mix, settings: TrainSettings, fingerprint: str) -> dict[str, Any]:
    """What must be equal for a state to be resumed."""
    return {
        "plan": plan.to_json(),
        "mix": dict(sorted(mix.shares.items())),
        "prompts": sorted(mix.prompts),
        "data": fingerprint,
        "settings": {key: getattr(settings, key) for key in (*_NUMERIC_SETTINGS, *(_ADAPTER_SETTINGS if settings.lora_rank is not None else ()))},
        "parameters": {name: list(param.shape) for name, param in model.named_parameters()},
    }


def machine(device: Device) -> dict[str, Any]:
    """What must be equal for a resume to be bit-exact."""
    return {"torch": torch.__version__, "device": f"{device.kind} {device.name}", "threads": torch.get_num_threads()}


def require_same(saved: Mapping[str, Any], *, ours: Mapping[str, Any], folder: Path) -> None:
    """Raise StateMismatch that lists each difference between two identities."""
    found = list(_differences(saved, ours, path=""))
    if found:
        raise StateMismatch(f"the trainer state in {folder} belongs to another run: {'; '.join(found)}. "
                            "Give the run its old settings and data back, or delete that folder to start it anew")


def warn_of_other_machine(saved: Mapping[str, Any], *, ours: Mapping[str, Any]) -> None:
    """Say so when the numbers may differ in the last bits."""
    found = list(_differences(saved, ours, path=""))
    if found:
        _log.warning("resuming on another machine, so not bit-exact: %s", "; ".join(found))


def _differences(saved: Any, ours: Any, *, path: str) -> list[str]:
    if isinstance(saved, Mapping) and isinstance(ours, Mapping):
        keys = [*saved, *(key for key in ours if key not in saved)]
        return [line for key in keys for line in _differences(saved.get(key), ours.get(key), path=f"{path}.{key}".lstrip("."))]
    return [] if saved == ours else [f"{path} was {saved!r}, is {ours!r}"]


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters (tied ones once) and buffers by name, on the CPU."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: _on_cpu(tensor) for name, tensor in named.items()}


def load_model_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put model_tensors() back."""
    with torch.no_grad():
        for name, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
            tensor.copy_(tensors[name])


def optimizer_tensors(optimizers: Optimizers) -> dict[str, Tensor]:
    """Optimizer state by name, on the CPU."""
    return {name: _on_cpu(tensor) for name, tensor in optimizers.state_tensors().items()}


def random_state(device: Device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of every generator that a step may draw from: tensors, and facts for JSON."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    tensors = {"torch": torch.get_rng_state(), "python": torch.tensor(internal, dtype=torch.int64),
               "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64))}
    if (own := devices.random_state(device.torch)) is not None:
        tensors[device.torch.type] = own
    facts = {"python": [version, gauss], "numpy": [name, position, has_gauss, cached]}
    return tensors, facts


def set_random_state(tensors: Mapping[str, Tensor], facts: Mapping[str, Any], *, device: Device) -> None:
    """Put random_state() back."""
    version, gauss = facts["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    name, position, has_gauss, cached = facts["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    if device.torch.type in tensors:  # a run may go on on a device of another kind
        devices.set_random_state(device.torch, tensors[device.torch.type])


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, their names below a prefix."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def below_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of with_prefix; other tensors are left out."""
    return {name[len(prefix) + 1:]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").contiguous()
