"""python -m serving: the gateway alone. Reads settings, wires, serves until a signal, drains. Exit 0, or 2 for a wrong start."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from experts.console import accept_any_text
from settings import Settings, SettingsError, add_arguments, check, from_arguments

log = logging.getLogger("serving")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    accept_any_text()
    parser = argparse.ArgumentParser(prog="python -m serving", description="answer over HTTP with the promoted versions of a run")
    add_arguments(parser)
    parser.add_argument("--host", help="address to listen on (serve.host)")
    parser.add_argument("--port", type=int, help="port to listen on, 0: any free one (serve.port)")
    parser.add_argument("--parent-pid", type=int, help="drain and end when this process is gone")
    parsed = parser.parse_args(arguments)
    settings = _with_address(from_arguments(parser, parsed), parser, host=parsed.host, port=parsed.port)
    logging.basicConfig(level=settings.run.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    return _serve(settings, parser, parent_pid=parsed.parent_pid)


def _with_address(settings: Settings, parser: argparse.ArgumentParser, *, host: str | None, port: int | None) -> Settings:
    serve = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    try:
        return check({**settings.model_dump(), "serve": {**settings.serve.model_dump(), **serve}})
    except SettingsError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _serve(settings: Settings, parser: argparse.ArgumentParser, *, parent_pid: int | None) -> int:
    from serving.limits import read_keys  # after the settings are known to be right: torch takes seconds to import
    from serving.server import PortTaken, Server, StopSignal, listen, parent_watch, remove_address, write_address

    stop, alive = StopSignal(), parent_watch(parent_pid)
    stop.install()
    try:
        keys = read_keys(settings.serve)
        sock = listen(settings.serve.host, settings.serve.port)
    except (SettingsError, PortTaken) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    from serving.app import create_app
    from serving.memory import settle
    from serving.wiring import DeviceError, make_gateway

    try:
        gateway = make_gateway(settings)
    except (DeviceError, SettingsError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")

    server = Server(create_app(gateway, keys=keys), sock, serve=settings.serve, answers=gateway.most_answers)
    settle()
    server.start()
    gateway.start()
    address = write_address(Path(settings.run.dir), server)
    log.info("listening on %s, device %s (%s)", server.url, gateway.device.kind, gateway.device.reason)
    while not stop.event.wait(timeout=settings.serve.poll_s):
        if not alive():
            log.warning("process %s, which started this gateway, is gone; draining", parent_pid)
            break
    log.info("draining: %d answers under way, at most %g s", gateway.running, settings.serve.drain_s)
    cut = gateway.drain(settings.serve.drain_s)
    server.flush(timeout_s=2.0)
    remove_address(address)
    server.stop()
    gateway.close()
    log.info("ended; %d answers were cut", cut)
    return 0


if __name__ == "__main__":
    sys.exit(main())
