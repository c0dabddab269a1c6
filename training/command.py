"""What entry scripts share: errors that end a command with a message, a look at the files that it is to write, and stopping cleanly on Ctrl-C.

Imports the rooms only when asked, so that a wrong setting is refused before torch is loaded.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

log = logging.getLogger(__name__)


class CommandFailed(RuntimeError):
    """A command can't go on; the message says what happened and what to do."""


def repairable(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Exception types whose text is meant for the user, with the caller's own."""
    from data_prep.sources import DataError
    from experts.device import DeviceError
    from experts.durable import NotWritable, OutOfSpace
    from experts.extras import PackageMissing
    from experts.journal import JournalError
    from experts.pointer import NewerPointer
    from experts.pretrained import BaseModelError
    from experts.registry import RegistryError
    from experts.run_lock import RunLocked
    from settings import SettingsError
    from training.memory import DoesNotFit
    from training.plan import StateMismatch
    from training.run_folder import RunMismatch

    return (BaseModelError, CommandFailed, DataError, DeviceError, DoesNotFit, JournalError, NewerPointer, NotWritable, OutOfSpace, PackageMissing,
            RegistryError, RunLocked, RunMismatch, SettingsError, StateMismatch, *more)


def require_folders(parser: argparse.ArgumentParser, files: Mapping[str, Path | None]) -> None:
    """End the command, with exit code 2 and what to do, where a file to be written at its end has no folder to lie in. files: by option."""
    for option, file in files.items():
        if file is not None and file.is_dir():
            parser.error(f"{option} {file}: is a folder; give a file, as in {option} {file / 'out.json'}")
        if file is not None and not file.parent.is_dir():
            parser.error(f"{option} {file}: there is no folder {file.parent}; make it first, or give a file in a folder that is there")


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (SIGTERM, CTRL_BREAK) sets; the second leaves at once, which is safe at any moment."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        log.warning("stopping after this step; once more to leave at once")

    names = [signal.SIGINT, signal.SIGTERM]
    if sys.platform == "win32":
        names.append(signal.SIGBREAK)
    before = {name: signal.signal(name, on_signal) for name in names}
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
