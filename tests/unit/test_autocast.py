"""Autocast on devices that have it, and silence on those where torch refuses the word."""

import pytest
import torch

from experts import autocast
from experts.device import RULES, Device

DIRECTML = torch.device("privateuseone", 0)  # what torch_directml.device(0) gives


def test_outside_leaves_a_surrounding_autocast() -> None:
    x, cpu = torch.ones(2, 2), torch.device("cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ((x @ x).dtype, autocast.is_on(cpu)) == (torch.bfloat16, True)
        with autocast.outside(cpu):
            assert ((x @ x).dtype, autocast.is_on(cpu)) == (torch.float32, False)


def test_outside_on_a_device_without_autocast_does_nothing_where_torch_would_raise() -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        torch.autocast(DIRECTML.type, enabled=False)
    with autocast.outside(DIRECTML):
        assert not autocast.is_on(DIRECTML)


@pytest.mark.parametrize(("kind", "place"), [("directml", DIRECTML), ("mps", torch.device("mps"))])
def test_device_without_autocast_gives_none_whatever_is_asked_for(kind: str, place: torch.device) -> None:
    device = Device(kind, "test", 0, "test", place, RULES[kind])  # type: ignore[arg-type,index]
    with device.autocast(torch.bfloat16), device.autocast():
        assert not autocast.is_on(place)
