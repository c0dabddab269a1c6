"""Stand-in for torch_directml: a simulated card, with the number of devices and the fault that the environment names.

STANDIN_DEVICES: how many there are, or "error" for a driver that doesn't answer. STANDIN_FAULT: a fault of simulated_card,
or "abort" for a process that ends. Put this folder on the path to have it; the real package has the same functions.
"""

import os
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))


def is_available() -> bool:
    """Whether there is a device."""
    return device_count() > 0


def device_count() -> int:
    """How many devices there are; raises as the real one does without a driver."""
    count = os.environ.get("STANDIN_DEVICES", "1")
    if count == "error":
        raise RuntimeError("Unknown error")
    return int(count)


def device_name(index: int) -> str:
    """The real one gives names that end in a NUL."""
    return f"Stand-in card {index}\0"


def device(index: int) -> torch.device:
    """The card; from here on this process computes on it under its rules."""
    import simulated_card

    fault = os.environ.get("STANDIN_FAULT", "")
    if fault == "abort":
        os.abort()
    simulated_card.SimulatedCard(fault).__enter__()
    return simulated_card.CARD
