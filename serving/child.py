"""The gateway as a child process of the loop: started, kept alive, drained at the end.

Imports nothing heavy. Does not serve by itself (server.py does, in the child).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

STARTED_S = 3.0  # a gateway that can't start (port taken, no key) says so within this time
LONGEST_PAUSE_S = 60.0


class GatewayFailed(RuntimeError):
    """The gateway could not start; its own message is on standard error."""


class GatewayChild:
    """One gateway process, started again when it dies, with growing pauses. start() and stop() once each."""

    def __init__(self, arguments: Sequence[str], *, folder: Path, stop_s: float, first_pause_s: float = 1.0) -> None:
        """arguments: of python -m serving; folder: working directory of the child; stop_s: seconds it gets to drain."""
        self._command = [sys.executable, "-m", "serving", *arguments, "--parent-pid", str(os.getpid())]
        self._folder, self._stop_s, self._pause_s = folder, stop_s, first_pause_s
        self._stopping = threading.Event()
        self._starting = threading.Lock()  # so that no child is started behind the back of stop()
        self._child: subprocess.Popen[bytes] | None = None
        self._keeper = threading.Thread(target=self._keep, name="gateway keeper", daemon=True)

    @property
    def pid(self) -> int | None:
        """Process id of the present gateway; None before start()."""
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        """Start the gateway and keep it alive from then on. Raises GatewayFailed when it ends at once."""
        self._child = self._launch()
        try:
            code = self._child.wait(timeout=STARTED_S)
        except subprocess.TimeoutExpired:
            self._keeper.start()
            return
        raise GatewayFailed(f"the gateway ended at once with exit code {code}; its message stands above. "
                            "Use --set serve.port=PORT for another port, or --no-serve to train without it")

    def stop(self) -> None:
        """Let the gateway drain and end; kill it after stop_s."""
        with self._starting:
            self._stopping.set()
            child = self._child
        if child is None:
            return
        if child.poll() is None:
            _ask_to_stop(child.send_signal)
        try:
            child.wait(timeout=self._stop_s)
        except subprocess.TimeoutExpired:
            log.warning("the gateway did not drain within %.0f s and is ended", self._stop_s)
            child.kill()
            child.wait()

    def _launch(self) -> subprocess.Popen[bytes]:
        flags = 0
        if sys.platform == "win32":
            flags = subprocess.CREATE_NEW_PROCESS_GROUP  # CTRL_BREAK reaches groups only
        return subprocess.Popen(self._command, cwd=self._folder, creationflags=flags)

    def _keep(self) -> None:
        pause = self._pause_s
        while True:
            assert self._child is not None
            code = self._child.wait()
            if self._stopping.is_set():
                return
            log.error("the gateway ended with exit code %s; it is started again in %.0f s", code, pause)
            self._stopping.wait(pause)
            with self._starting:
                if self._stopping.is_set():
                    return
                self._child = self._launch()
            pause = min(2 * pause, LONGEST_PAUSE_S)


def _ask_to_stop(send: Callable[[int], None]) -> None:
    if sys.platform == "win32":
        send(signal.CTRL_BREAK_EVENT)
    else:
        send(signal.SIGTERM)
