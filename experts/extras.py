"""Packages of our extras: imported when a setting asks for what they do, and named with the repair when they are missing.

Does not know what they do.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class PackageMissing(RuntimeError):
    """A setting asks for a package that isn't installed; the message says which, and what else to set."""


def require(module: str, *, asked_by: str, install: str, instead: str) -> ModuleType:
    """The module; raises PackageMissing. asked_by: the setting, install: what pip takes, instead: how to do without."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PackageMissing(f"{asked_by} needs the package {module}, which can't be imported ({error}); "
                             f"python -m pip install {install}, or {instead}") from None
