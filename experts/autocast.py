"""Autocast where a device has it: whether it is on, and work that leaves it.

On devices without (MPS before torch 2.5, DirectML) torch refuses the very word, even to switch it off; that is asked here, once.
Does not choose a precision (device.py gives autocast, training/execution.py decides).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

TYPES = ("cpu", "cuda", "xpu")  # torch's names of the devices on which we ever autocast; ROCm calls itself cuda


def is_on(place: torch.device) -> bool:
    """Whether autocast is in force for tensors of that device."""
    return place.type in TYPES and torch.is_autocast_enabled(place.type)


def outside(place: torch.device) -> AbstractContextManager[Any]:
    """Within it tensors of that device keep their precision, whatever surrounds it."""
    return torch.autocast(place.type, enabled=False) if place.type in TYPES else nullcontext()
