"""python -m experts doctor: what this machine can compute on. (trial, start and page are for runs and start scripts.)"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

import settings as settings_of_run
from experts.console import accept_any_text


def main(arguments: list[str] | None = None) -> int:
    """Run a command; gives the exit code: 0 done or healthy, 1 the wanted device can't be used, 2 wrong arguments; of start the loop's."""
    accept_any_text()
    parser = argparse.ArgumentParser(prog="python -m experts", description="Look at the devices of this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="table of devices, the one used and why, self-test, speed, advice")
    settings_of_run.add_arguments(doctor)
    doctor.add_argument("--device", metavar="D", help="device to look at in place of run.device: auto, cpu, cuda[:n], directml[:n], xpu or mps")
    doctor.add_argument("--limit", type=float, default=180.0, metavar="SECONDS", help="longest self-test (default 180)")
    doctor.add_argument("--json", type=Path, metavar="FILE", help="write the report to a file, too")
    trial = commands.add_parser("trial", help="self-test of one device in this process; one line of JSON")
    trial.add_argument("device", metavar="DEVICE")
    for name, words in (("start", "run continuous_loop.py, or follow the one that runs"), ("page", "open the page once the gateway answers")):
        joined = commands.add_parser(name, help=words, add_help=False)  # the loop's own --help comes later
        settings_of_run.add_arguments(joined)
        joined.add_argument("--no-serve", action="store_true")
    exported = commands.add_parser("export", help="a promoted version as one file for llama.cpp, Ollama or LM Studio")
    settings_of_run.add_arguments(exported)
    exported.add_argument("--format", choices=("gguf",), default="gguf", help="kind of file (default gguf)")
    exported.add_argument("--node", metavar="NAME", help="node whose version in force is written (default: the root)")
    exported.add_argument("--numbers", choices=("f32", "f16", "q8_0"), default="f16", help="numbers of the weights (default f16)")
    exported.add_argument("--out", type=Path, metavar="FILE", help="file to write (default NODE-VERSION.gguf here)")
    given = sys.argv[1:] if arguments is None else arguments
    options, others = parser.parse_known_args(given)
    if options.command in ("start", "page"):
        return _joined(parser, options, given=given[1:], others=others)
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if options.command == "export":
        return _export(exported, options)
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


def _export(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    settings = settings_of_run.from_arguments(parser, options)
    from experts.gguf_export import ExportError, export_served

    try:
        file = export_served(settings, node=options.node, out=options.out, kind=options.numbers)
    except (ExportError, ImportError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    _say(f"{file}: {file.stat().st_size:,} bytes")
    return 0


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


def _joined(parser: argparse.ArgumentParser, options: argparse.Namespace, *, given: list[str], others: list[str]) -> int:
    from experts import attach

    if {"-h", "--help"} & set(others) or options.print_config:
        return attach.run_loop(given, page=False)  # which answers these itself
    settings = settings_of_run.from_arguments(parser, options)
    if options.command == "page":
        return 0 if attach.open_page_when_ready(settings) else 1
    if attach.attach(settings, say=_say):
        return 0
    code = attach.run_loop(given, page=not options.no_serve)
    if code == 2 and attach.attach(settings, say=_say):  # another window was quicker
        return 0
    return code


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # the way out of following
        sys.exit(0)
