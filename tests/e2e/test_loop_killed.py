"""A real loop process killed with SIGKILL (TerminateProcess on Windows) at random moments goes on each time and loses nothing.

Moments are counted in the processor time of the loop, so that a busy machine makes the test longer and not another one.
"""

import contextlib
import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

import settings
from experts.journal import Journal
from experts.registry import Registry, RegistryError

TORN = (b"pickle data was truncated", b"EOFError: Ran out of input")  # last words of a child whose start the kill cut in two
LIVES_S = (1.5, 1.5, 12.0)  # processor time after its start: most die in its first moments, some get past the router's fit and a few jobs
PATIENCE_S = 1800.0  # only ends what hangs: a start takes 6 s of a free core, and minutes where it gets leftovers


def _command(run, data, overrides, *extra):
    return [sys.executable, str(settings.HOME / "continuous_loop.py"), "--run", str(run), "--data", str(data), "--quiet",
            *(f"--set={override}" for override in overrides), *extra]


def _events(run):
    if not (run / "journal.db").exists():
        return []
    with contextlib.closing(Journal(run / "journal.db", read_only=True)) as journal:
        return journal.events()


def _wait_for_start(run, process, *, starts):
    until = time.monotonic() + PATIENCE_S
    while sum(event.kind == "loop_started" for event in _events(run)) < starts:
        assert process.poll() is None, f"the loop ended with {process.returncode} before it began"
        assert time.monotonic() < until, "the loop did not begin"
        time.sleep(0.05)


def _processor_s(pid):
    """Seconds of processor time of a process and its children, so that it is killed while one of them works, too."""
    process, found = psutil.Process(pid), 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            found += times.user + times.system + times.children_user + times.children_system
    return found


def _let_work(process, *, seconds):
    """Wait until the process has had so much processor time from now on."""
    until, before = time.monotonic() + PATIENCE_S, _processor_s(process.pid)
    while _processor_s(process.pid) < before + seconds:
        assert process.poll() is None, f"the loop ended with {process.returncode} before it was killed"
        assert time.monotonic() < until, "the loop stands still"
        time.sleep(0.01)


@dataclass(frozen=True)
class Kills:
    """generation: of the pointer at the end; cycles, events: in the journal; lost: what was gone or broken after some kill."""

    generation: int
    cycles: int
    events: int
    lost: list[str]


def _kill_rounds(run, data, overrides, *, kills, seed, say=lambda line: None):
    chance, lost = random.Random(seed), []
    generation, cycles, events = 0, 0, []
    for number in range(1, kills + 1):
        process = subprocess.Popen(_command(run, data, overrides, "--no-serve"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _wait_for_start(run, process, starts=number)
            _let_work(process, seconds=chance.uniform(0.0, chance.choice(LIVES_S)))
        finally:
            process.kill()
            _, errors = process.communicate(timeout=PATIENCE_S)
        assert errors.count(b"Traceback") == sum(errors.count(end) for end in TORN), errors.decode()
        known, pointer, events = len(events), Registry(run).pointer(), _events(run)
        ended = [event.facts["cycle"] for event in events if event.kind == "cycle_ended"]
        lost += [f"kill {number}: {loss}" for loss in _broken(run, pointer)]
        if pointer.generation < generation or len(ended) < cycles or len(events) < known:
            lost.append(f"kill {number}: generation {generation} -> {pointer.generation}, cycles {cycles} -> {len(ended)}, events {known} -> {len(events)}")
        if ended != list(range(len(ended))):
            lost.append(f"kill {number}: cycles ended {ended}")
        generation, cycles = pointer.generation, len(ended)
        say(f"kill {number}: generation {generation}, {cycles} cycles, {len(events)} events, lost {len(lost)}")
    return Kills(generation, cycles, len(events), lost)


def _broken(run, pointer):
    registry, found = Registry(run), []
    for name in pointer.names:
        try:
            registry.verify(name, pointer.version(name))
        except RegistryError as error:
            found.append(str(error))
    return found


def _promoted_in_order(events):
    """Versions by node in the order in which the journal saw them promoted."""
    seen = {}
    for event in events:
        if event.kind == "promoted":
            seen.setdefault(event.node, []).append(event.facts["version"])
    return seen


@pytest.mark.timeout(PATIENCE_S)
def test_loop_killed_ten_times_goes_on_and_loses_nothing(tmp_path, records_folder, toy_overrides):
    run = tmp_path / "run"
    assert _kill_rounds(run, records_folder, toy_overrides, kills=10, seed=4).lost == []
    done = subprocess.run(_command(run, records_folder, toy_overrides, "--no-serve", "--cycles", "1"), capture_output=True, text=True, timeout=PATIENCE_S,
                          check=False)
    assert done.returncode == 0, done.stderr
    events, registry = _events(run), Registry(run)
    assert sum(event.kind == "cycle_ended" for event in events) >= 1
    for node, versions in _promoted_in_order(events).items():
        assert versions == sorted(versions)
        assert registry.pointer().version(node) >= versions[-1]
    cycles = [event.facts["cycle"] for event in events if event.kind == "cycle_ended"]
    assert cycles == list(range(len(cycles)))


@pytest.mark.slow
@pytest.mark.timeout(0)  # as long as the machine takes; each start has its own patience
def test_loop_killed_two_hundred_times_goes_on_and_loses_nothing(tmp_path, records_folder, toy_overrides, capsys):
    def say(line):
        with capsys.disabled():
            print(line, flush=True)

    found = _kill_rounds(tmp_path / "run", records_folder, toy_overrides, kills=200, seed=5, say=say)
    say(f"killed 200 times: {found.generation} changes of the pointer, {found.cycles} cycles, {found.events} events; lost: {len(found.lost)}")
    assert found.lost == []
    assert found.generation > 8  # every node and the router came into force on the way
    assert found.cycles > 0


def test_loop_second_on_the_same_run_is_refused_with_the_pid_of_the_first(tmp_path, records_folder, toy_overrides):
    run = tmp_path / "run"
    first = subprocess.Popen(_command(run, records_folder, toy_overrides, "--no-serve"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_start(run, first, starts=1)
        second = subprocess.run(_command(run, records_folder, toy_overrides, "--no-serve"), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    finally:
        first.kill()
        first.wait(timeout=PATIENCE_S)
    assert second.returncode == 2
    assert str(first.pid) in second.stderr
    assert "Traceback" not in second.stderr


def test_loop_damaged_version_is_set_aside_and_the_one_before_is_served(tmp_path, records_folder, toy_overrides):
    run = tmp_path / "run"
    subprocess.run(_command(run, records_folder, toy_overrides, "--no-serve", "--cycles", "1", "--set=loop.first_answer_s=0.001", "--set=loop.steps=60"),
                   check=True, timeout=PATIENCE_S)
    registry = Registry(run)
    served = registry.served("generalist")
    before = [name for name in registry.versions("generalist") if name != served.name]
    assert before, "the early version and the final one should both be there"
    weights = served / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    weights.write_bytes(bytes(damaged))
    assert Registry(run).served("generalist") == Path(registry.path("generalist", before[-1]))
    assert json.loads((Registry(run).served("generalist") / "card.json").read_text(encoding="utf-8"))["scorecard"]
