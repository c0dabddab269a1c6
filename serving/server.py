"""waitress around the app: the socket, sizes and time limits, who notices a client that left, and the end of the process.

waitress ends at once on a signal and cuts streams, so draining is ours. Does not know routes or models.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import waitress.server
from waitress.channel import HTTPChannel

from experts import durable
from serving.errors import JsonErrorTask
from settings import ServeSettings

log = logging.getLogger(__name__)
ADDRESS_FILE = "gateway.json"
_SPARE_THREADS = 16  # threads beyond the gateway's answers, so that a refusal never waits behind one
_CONNECTIONS = 400 if os.name == "nt" else 1000  # Windows waits with select(), which takes 512 sockets at most


class PortTaken(OSError):
    """The address can't be listened on."""


class _Channel(HTTPChannel):  # type: ignore[misc]
    error_task_class = JsonErrorTask


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises PortTaken with what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    # On Windows SO_REUSEADDR would let two gateways share a port; elsewhere it only skips the wait after a restart.
    exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR if exclusive is None else exclusive, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise PortTaken(f"can't listen on {host}:{port}: {error.strerror or error}; end the program that holds the port, "
                        f"or choose another with --port (0: any free one)") from error
    return sock


class Server:
    """One listening gateway. start() returns at once; stop() ends it after the answers were sent."""

    def __init__(self, app: Any, sock: socket.socket, *, serve: ServeSettings, answers: int) -> None:
        """answers: the most that the app has under way at once; each holds a thread."""
        self._server = waitress.server.create_server(
            app, sockets=[sock], threads=answers + _SPARE_THREADS, backlog=1024, connection_limit=_CONNECTIONS, asyncore_use_poll=True,
            channel_request_lookahead=1,       # without it a disconnect is only seen when the next bytes are sent
            max_request_body_size=serve.body_kib * 1024, max_request_header_size=65_536,
            channel_timeout=60, cleanup_interval=10, asyncore_loop_timeout=1, ident=None, log_socket_errors=False, clear_untrusted_proxy_headers=True)
        self._server.channel_class = _Channel
        self.host, self.port = sock.getsockname()[:2]
        self._thread = threading.Thread(target=self._server.run, name="http", daemon=True)

    @property
    def url(self) -> str:
        """Where clients find it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def start(self) -> None:
        """Listen from now on."""
        self._thread.start()

    def flush(self, *, timeout_s: float) -> None:
        """Wait until every byte that was written has left."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until and any(channel.total_outbufs_len or channel.requests for channel in list(self._server.active_channels.values())):
            time.sleep(0.02)

    def stop(self) -> None:
        """Close the listening socket and the threads."""
        self._server.close()
        self._server.task_dispatcher.shutdown(timeout=1)


class StopSignal:
    """SIGTERM, SIGINT and (Windows) CTRL_BREAK as an event. A second SIGINT ends the process at once."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def install(self) -> None:
        """Take the signals; main thread only."""
        names = ("SIGTERM", "SIGINT", "SIGBREAK")  # Windows sends CTRL_BREAK, which Python calls SIGBREAK, and no SIGTERM
        for name in names:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.event.set()


def parent_watch(pid: int | None) -> Callable[[], bool]:
    """Whether the process that started us still lives. A pid that was given to another process since counts as dead."""
    if pid is None:
        return lambda: True
    try:
        parent = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return lambda: False

    def alive() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return bool(parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE)
        return False

    return alive


def write_address(run_dir: Path, server: Server) -> Path:
    """Say in the run folder where the gateway listens, so that others find a port chosen by 0."""
    durable.ensure_folder(run_dir)
    file = run_dir / ADDRESS_FILE
    durable.write_json(file, {"url": server.url, "host": server.host, "port": server.port, "pid": os.getpid()})
    return file


def remove_address(file: Path) -> None:
    """Take the address back, unless another gateway has written its own since."""
    with contextlib.suppress(OSError, ValueError):
        if f'"pid": {os.getpid()}' in file.read_text(encoding="utf-8"):
            file.unlink()
