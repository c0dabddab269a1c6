"""What commands print to: output that takes any text, and a console that shows it as it stands. Prints nothing itself."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def accept_any_text(*streams: TextIO | None) -> None:
    """Let streams (none given: standard output and error) write as an escape what their encoding lacks, as Python's standard error does.

    On Windows output to a file or a pipe has the code page of the system, without emoji and without most alphabets; answers and records may hold all of
    them, and printing is no reason to end. Streams that already have a way around that keep it.
    """
    for stream in streams or (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):  # the second: Python's choice for the locale C
            stream.reconfigure(errors="backslashreplace")


def plain_console(*, stderr: bool = False, soft_wrap: bool = True) -> Console:
    """A console for texts of users and models: "[b]" is no markup and the ":100:" of "file.jsonl:100: ..." no emoji, in tables neither."""
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)
