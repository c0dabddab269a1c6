"""One loop a run folder: a lock that the system itself frees when its holder dies, and a note of who holds it.

Does not guard the registry's pointer (registry.py has a lock of its own, so that other processes may promote too).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from experts import durable

logger = logging.getLogger(__name__)

LOCK = "run.lock"
HOLDER = "run.pid.json"  # beside the lock, since Windows lets nobody read a locked file


class RunLocked(RuntimeError):
    """The run folder is another process's. pid: its number, None when it could not be read."""

    def __init__(self, run_dir: Path, *, holder: dict[str, Any]) -> None:
        pid = holder.get("pid")
        self.pid = pid if isinstance(pid, int) else None
        details = ", ".join(str(part) for part in (holder.get("command"), holder.get("host"), holder.get("since")) if part)
        who = f"process {self.pid}" if self.pid is not None else "a process that left no number"
        super().__init__(f"run folder {run_dir} is in use by {who}{f' ({details})' if details else ''}; "
                         "stop that one first, or choose another folder with --run DIR")


class RunLock:
    """Holds a run folder within a with-statement. Raises RunLocked at once when another process has it; a dead holder's lock is taken over."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = Path(run_dir)
        self._lock = FileLock(self.run_dir / LOCK, timeout=0, thread_local=False)

    def __enter__(self) -> RunLock:
        durable.ensure_folder(self.run_dir)
        try:
            with durable.explained(self.run_dir):
                self._lock.acquire()
        except Timeout:
            raise RunLocked(self.run_dir, holder=self._holder()) from None
        if former := self._holder().get("pid"):
            logger.warning("run folder %s was left by process %s without a clean end; taken over", self.run_dir, former)
        try:
            durable.remove_leftovers(self.run_dir)
            durable.write_json(self.run_dir / HOLDER, {"pid": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.argv)[:200],
                                                       "since": datetime.now(UTC).isoformat(timespec="seconds")})
        except OSError:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            (self.run_dir / HOLDER).unlink(missing_ok=True)
        except OSError as refusal:
            logger.warning("%s can't be removed: %s; the next start says that it takes the folder over", self.run_dir / HOLDER, refusal)
        finally:
            self._lock.release()

    def _holder(self) -> dict[str, Any]:
        try:
            holder = json.loads(durable.read_bytes(self.run_dir / HOLDER))
        except (OSError, ValueError):  # absent, or torn from outside: the lock alone decides, this is only for the message
            return {}
        return holder if isinstance(holder, dict) else {}
