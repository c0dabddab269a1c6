"""A card made of software that behaves as torch-directml does: it has the listed kernels, and anything else falls back to the CPU with a warning.

Its tensors say that they live on the device "meta" and carry their numbers along, so mixing them up with CPU tensors fails as on
a real card. It can be made faulty. It proves which operations are asked for; it says nothing about any hardware.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchgen
import transformers
import yaml
from torch import Tensor
from torch._C import DispatchKey
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map

CARD = torch.device("meta")
# With DirectML transformers 4 is never installed, and what it makes on the device isn't looked at.
transformers_fits = pytest.mark.skipif(int(transformers.__version__.partition(".")[0]) < 5, reason="the extra directml has transformers 5.12.1")
LIST = Path(__file__).with_name("directml_ops.txt")
# Composite in torch, and yet reported as falling back or wrong on the card (see experts/device_rules.py for the issues).
REFUSED = ("_foreach_", "_fused_", "lerp", "silu_backward", "index_copy", "index_add", "roll.", "repeat_interleave.", "bfloat16")
_FORBIDDEN_TYPES = (torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.complex128)


class CardTensor(Tensor):
    """A tensor on the card; elem: its numbers, on the CPU."""

    elem: Tensor

    @staticmethod
    def __new__(cls, elem: Tensor) -> CardTensor:
        card: CardTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(), dtype=elem.dtype, device=CARD)
        card.elem = elem
        return card

    def __repr__(self, **_: Any) -> str:
        return f"CardTensor({tuple(self.shape)}, {self.dtype})"  # torch's own would compute outside of the card and crash a failing test

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a card tensor outside of the simulated card")

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


@cache
def kernels() -> frozenset[str]:
    """The listed operations and those that torch makes out of a listed out= kernel (structured operations)."""
    listed = {line for line in LIST.read_text("utf-8").splitlines() if not line.startswith("#")}
    source = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    made = {entry["func"].partition("(")[0] for entry in yaml.load(source.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            if entry.get("structured_delegate") in listed}
    filled = {name for name in ("arange", "arange.start", "arange.start_step", "linspace") if {"arange.start_out", "linspace.out"} <= listed}
    return frozenset(listed | made | filled)  # filled: an empty tensor, resized and written by the listed out= kernel


def name_of(func: Any) -> str:
    """aten name as the list writes it: operation, a dot and the overload unless it is the default one."""
    name, _, overload = func.name().removeprefix("aten::").partition(".")
    return f"{name}.{overload}" if overload else name


class _Constants(TorchFunctionMode):
    """torch.tensor(numbers, device=CARD) would forget the numbers on the way to "meta"; here it makes them on the CPU and sends them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.scalar_tensor, torch.as_tensor) and kwargs.get("device") == CARD:
            del kwargs["device"]
            return func(*args, **kwargs).to(CARD)
        return func(*args, **kwargs)


class SimulatedCard(TorchDispatchMode):
    """While active, tensors sent to CARD compute under the card's rules.

    faults: "zero" zeroes gradients, "nan" spoils a norm, "fallback" loses a kernel, "hang" never ends. seen counts the kernels that
    ran, fallbacks the operations that have none, wrong_types the tensors of a type that the card can't hold.
    """

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        assert fault in ("", "zero", "nan", "fallback", "hang"), fault
        self.fault = fault
        self.seen: Counter[str] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.wrong_types: Counter[str] = Counter()
        self._depth, self._constants = 0, _Constants()

    def __enter__(self) -> Any:
        if self._depth == 0:
            self._constants.__enter__()
        self._depth += 1
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._depth -= 1
        if self._depth == 0:
            self._constants.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat: list[Any] = []
        tree_map(flat.append, (args, kwargs))
        here = any(isinstance(item, CardTensor) for item in flat)
        name, target = name_of(func), kwargs.get("device")
        if name == "_to_copy":
            return self._transfer(args[0], kwargs)
        if name == "copy_":
            return self._copy(args[0], args[1])
        if not here and target != CARD:
            return func(*args, **kwargs)
        self._no_strangers(name, flat)
        if name == "detach":  # no arithmetic: torch makes it without a kernel
            return self._compute(func, name, args, kwargs)
        if not self._has_kernel(name) and (composite := _composite(func, name)) is not None:
            with self:
                return composite(*args, **kwargs)
        self._count(name)
        return self._compute(func, name, args, kwargs)

    def _has_kernel(self, name: str) -> bool:
        return name in kernels() and not (self.fault == "fallback" and name == "_softmax")

    def _count(self, name: str) -> None:
        if self._has_kernel(name):
            self.seen[name] += 1
        else:
            if name not in self.fallbacks:
                warnings.warn(f"The operator 'aten::{name}' is not currently supported on the DML backend and will fall back to run on the CPU.",
                              UserWarning, stacklevel=2)
            self.fallbacks[name] += 1

    def _compute(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        opened = [_as_tensor(item, place=place, func=func) for place, item in enumerate(tree_map(_open, args))]
        inner = func(*opened, **tree_map(_open, kwargs))
        inner = self._spoil(name, inner)
        return return_and_correct_aliasing(func, args, kwargs, tree_map(self._close, inner))

    def _spoil(self, name: str, inner: Any) -> Any:
        if self.fault == "zero" and name == "_log_softmax_backward_data":
            return torch.zeros_like(inner)
        if self.fault == "nan" and name == "rsqrt":
            return inner * float("nan")
        if self.fault == "hang" and name == "_softmax":
            time.sleep(3600)
        return inner

    def _close(self, item: Any) -> Any:
        if not isinstance(item, Tensor) or isinstance(item, CardTensor):
            return item
        if item.dtype in _FORBIDDEN_TYPES:
            self.wrong_types[str(item.dtype)] += 1
        return CardTensor(item)

    def _transfer(self, tensor: Tensor, kwargs: dict[str, Any]) -> Tensor:
        source = _open(tensor)
        target = kwargs.pop("device", None) or tensor.device
        copied: Tensor = torch.ops.aten._to_copy.default(source, **kwargs)
        return self._close(copied) if target == CARD else copied

    def _copy(self, target: Tensor, source: Tensor) -> Tensor:
        _open(target).copy_(_open(source))
        return target

    @staticmethod
    def _no_strangers(name: str, flat: list[Any]) -> None:
        for item in flat:
            if isinstance(item, Tensor) and not isinstance(item, CardTensor) and item.dim() > 0:
                raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got one on the card and one on the CPU")


def _open(item: Any) -> Any:
    return item.elem if isinstance(item, CardTensor) else item


def _as_tensor(item: Any, *, place: int, func: Any) -> Any:
    """Numbers reach here bare where torch had wrapped them as tensors."""
    expects = str(func._schema.arguments[place].type)
    return torch.tensor(item) if isinstance(item, int | float) and expects == "Tensor" else item


def _composite(func: Any, name: str) -> Callable[..., Any] | None:
    """The way torch makes this operation of others on every device, unless the card is known to be bad at it."""
    if name.startswith(REFUSED):
        return None
    for key in (DispatchKey.CompositeExplicitAutograd, DispatchKey.CompositeImplicitAutograd):
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key.name):
            return partial(func._op_dk, key)
    return None
