"""Memory that was freed goes back to the system, so that swapping versions for months doesn't grow the process."""

from __future__ import annotations

import ctypes
import gc
import sys


def settle() -> None:
    """Leave what is there now (modules, mostly) out of later collections, which then take milliseconds instead of tenths of a second."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Free models that are only held by cycles, then return free pages of the C library's heaps, which glibc keeps."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none and keeps little
        if trim is not None:
            trim(0)
