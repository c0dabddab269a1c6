"""python -m experts doctor: what this machine can compute on. (python -m experts trial DEVICE is what a run starts to try a device.)"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

import settings as settings_of_run


def main(arguments: list[str] | None = None) -> int:
    """Run a command; gives the exit code: 0 healthy, 1 the wanted device can't be used, 2 wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m experts", description="Look at the devices of this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="table of devices, the one used and why, self-test, speed, advice")
    settings_of_run.add_arguments(doctor)
    doctor.add_argument("--device", metavar="D", help="device to look at in place of run.device: auto, cpu, cuda[:n], directml[:n], xpu or mps")
    doctor.add_argument("--limit", type=float, default=180.0, metavar="SECONDS", help="longest self-test (default 180)")
    doctor.add_argument("--json", type=Path, metavar="FILE", help="write the report to a file, too")
    trial = commands.add_parser("trial", help="self-test of one device in this process; one line of JSON")
    trial.add_argument("device", metavar="DEVICE")
    options = parser.parse_args(arguments)
    return _doctor(doctor, options) if options.command == "doctor" else _trial(options.device)


def _doctor(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.device is not None:
        options.overrides = [*options.overrides, f"run.device={options.device}"]
    settings = settings_of_run.from_arguments(parser, options)
    from rich.console import Console

    from experts import doctor  # after the settings: a wrong one is refused before torch is loaded

    logging.basicConfig(level=settings.run.log_level, format="%(levelname)s %(name)s: %(message)s")
    report = doctor.examine(settings.run.device, limit_s=options.limit)
    doctor.show(report, console=Console(width=None if sys.stdout.isatty() else 160))
    if options.json is not None:
        doctor.write_json(report, options.json)
    return 0 if report.healthy else 1


def _trial(wanted: str) -> int:
    from experts.device import DeviceError, find
    from experts.self_test import self_test

    try:
        device = find(wanted, reason="trial")
    except DeviceError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    result = self_test(device)
    sys.stdout.write(json.dumps(result.to_json()) + "\n")
    sys.stdout.flush()
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
