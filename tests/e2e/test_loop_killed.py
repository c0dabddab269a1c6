"""A real loop process killed with SIGKILL (TerminateProcess on Windows) at random moments goes on each time and loses nothing."""

import contextlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import settings
from experts.journal import Journal
from experts.registry import Registry

PATIENCE_S = 60.0


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


def _kill_rounds(run, data, overrides, *, kills, seed):
    chance = random.Random(seed)
    generation, ended = 0, 0
    for number in range(1, kills + 1):
        process = subprocess.Popen(_command(run, data, overrides, "--no-serve"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _wait_for_start(run, process, starts=number)
            time.sleep(chance.uniform(0.0, 1.5))
        finally:
            process.kill()
            _, errors = process.communicate(timeout=PATIENCE_S)
        assert b"Traceback" not in errors, errors.decode()
        registry = Registry(run)
        pointer = registry.pointer()
        for name, version in {**pointer.nodes, **({"router": pointer.router} if pointer.router else {})}.items():
            registry.verify(name, version)
        assert pointer.generation >= generation
        done = sum(event.kind == "cycle_ended" for event in _events(run))
        assert done >= ended
        generation, ended = pointer.generation, done
    return generation, ended


def _promoted_in_order(events):
    """Versions by node in the order in which the journal saw them promoted."""
    seen = {}
    for event in events:
        if event.kind == "promoted":
            seen.setdefault(event.node, []).append(event.facts["version"])
    return seen


@pytest.mark.timeout(280)
def test_loop_killed_ten_times_goes_on_and_loses_nothing(tmp_path, records_folder, toy_overrides):
    run = tmp_path / "run"
    _kill_rounds(run, records_folder, toy_overrides, kills=10, seed=4)
    done = subprocess.run(_command(run, records_folder, toy_overrides, "--no-serve", "--cycles", "1"), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    events, registry = _events(run), Registry(run)
    assert sum(event.kind == "cycle_ended" for event in events) >= 1
    for node, versions in _promoted_in_order(events).items():
        assert versions == sorted(versions)
        assert registry.pointer().version(node) >= versions[-1]
    cycles = [event.facts["cycle"] for event in events if event.kind == "cycle_ended"]
    assert cycles == list(range(len(cycles)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_loop_killed_two_hundred_times_goes_on_and_loses_nothing(tmp_path, records_folder, toy_overrides):
    generation, ended = _kill_rounds(tmp_path / "run", records_folder, toy_overrides, kills=200, seed=5)
    assert generation > 8
    assert ended > 0


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
                   check=True, timeout=120)
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
