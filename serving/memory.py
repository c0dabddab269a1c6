"""Memory that was freed goes back to the system, so that swapping versions for months doesn't grow the process."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Return free pages of the C library's heaps, which glibc keeps; elsewhere nothing is done."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none and keeps little
        if trim is not None:
            trim(0)
