"""A gateway that really listens on a free loopback port, in this process or as a child, for benchmarks and tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

import settings as configuration
from serving.app import create_app
from serving.gateway import Gateway
from serving.server import ADDRESS_FILE, Server, listen
from serving.wiring import make_gateway
from settings import Settings


@dataclass(frozen=True, slots=True)
class Live:
    """A gateway in this process."""

    url: str
    gateway: Gateway
    server: Server


@contextmanager
def live_gateway(settings: Settings, *, keys: tuple[str, ...] = ()) -> Iterator[Live]:
    """Serve in this process until the block ends. The first look at the registry is made before it is yielded."""
    gateway = make_gateway(settings)
    sock = listen("127.0.0.1", 0)
    server = Server(create_app(gateway, keys=keys), sock, serve=settings.serve, answers=gateway.most_answers)
    gateway.look()
    gateway.start()
    server.start()
    try:
        yield Live(server.url, gateway, server)
    finally:
        gateway.drain(0.0)
        server.stop()
        gateway.close()


@dataclass(frozen=True, slots=True)
class Child:
    """A gateway in a process of its own."""

    url: str
    process: subprocess.Popen[str]

    def stop(self) -> None:
        """Ask it to drain and end."""
        number = signal.SIGTERM
        if sys.platform == "win32":
            number = signal.CTRL_BREAK_EVENT
        self.process.send_signal(number)


@contextmanager
def gateway_process(settings: Settings, *, arguments: Sequence[str] = (), start_s: float = 60.0, threads: int | None = None) -> Iterator[Child]:
    """`python -m serving` over the run of settings, on a free port; killed at the end if it still runs."""
    run_dir = Path(settings.run.dir)
    config = run_dir / "gateway-settings.toml"
    config.write_text(configuration.to_toml(settings), encoding="utf-8")
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP  # CTRL_BREAK reaches groups only
    environment = None if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen([sys.executable, "-m", "serving", "--config", str(config), "--port", "0", *arguments], cwd=configuration.HOME,
                               creationflags=flags, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        yield Child(_address(run_dir / ADDRESS_FILE, process, until=time.monotonic() + start_s), process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_ready(url: str, *, timeout_s: float = 60.0) -> None:
    """Return once it takes requests; raises TimeoutError."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if requests.get(f"{url}/readyz", timeout=30).status_code == 200:
            return
        time.sleep(0.05)
    raise TimeoutError(f"{url} did not become ready")


def _address(file: Path, process: subprocess.Popen[str], *, until: float) -> str:
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the gateway ended with {process.returncode}: {process.stderr.read() if process.stderr else ''}")
        if file.exists():
            facts = json.loads(file.read_text(encoding="utf-8"))
            if facts["pid"] == process.pid:
                return str(facts["url"])
        time.sleep(0.05)
    raise TimeoutError(f"the gateway did not say where it listens ({file})")
