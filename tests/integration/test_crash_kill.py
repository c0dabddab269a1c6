"""kill -9 at random moments of a process that saves, promotes and prunes: what it reported as done is there, whole, afterwards."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from experts.checkpoint import load_newest
from experts.journal import Journal
from experts.registry import Registry, RegistryError
from experts.run_lock import RunLock

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("crash_worker.py")


@dataclass
class Deaths:
    """A folder and the processes that die in it. told: the highest number of each kind that a dead one reported or a look found done."""

    run_dir: Path
    random: random.Random
    told: dict[str, int] = field(default_factory=lambda: {"step": 0, "number": 0, "event": 0})
    process: subprocess.Popen[str] | None = None

    def kill_one(self) -> None:
        """Start a worker, let it live up to a few cycles, kill it."""
        if self.process is None:
            self.process = subprocess.Popen([sys.executable, str(WORKER), str(self.run_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("work\n")
        self.process.stdin.flush()
        word, pid = self.process.stdout.readline().split()
        assert word == "pid"
        self._wait_until_it_works()
        os.kill(int(pid), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows SIGTERM ends a process at once
        if hasattr(os, "fork"):
            self._listen(iter(self.process.stdout.readline, "dead\n"))
        else:
            self._listen(self.process.communicate()[0].splitlines())
            self.process = None

    def _wait_until_it_works(self) -> None:
        """Half of the deaths fall into the first moments (lock, recovery, first save), half after up to two cycles (three reports each)."""
        assert self.process is not None
        assert self.process.stdout is not None
        for _ in range(max(0, self.random.randint(-6, 7))):
            self._listen([self.process.stdout.readline()])
        time.sleep(self.random.uniform(0, 0.06))

    def _listen(self, lines) -> None:
        for line in lines:
            word, number = line.split()
            self.told[word] = max(self.told[word], int(number))

    def end(self) -> None:
        if self.process is not None:
            self.process.communicate()


def losses(deaths: Deaths) -> list[str]:
    """What is gone or broken, as a new process sees it."""
    found = []
    registry = Registry(deaths.run_dir)
    state = load_newest(deaths.run_dir / "work" / "math")
    step = 0 if state is None else state.facts["step"]
    if step not in (deaths.told["step"], deaths.told["step"] + 1):
        found.append(f"state of step {step}, {deaths.told['step']} was there before")
    deaths.told["step"] = step  # a death between the save and its report leaves one more than was told
    if state is not None and state.tensors["weight"].tolist() != [float(step)] * 5000:
        found.append(f"state of step {step} holds other numbers")
    pointer = registry.pointer()
    numbers = {name: served_number(registry, name) for name in ("math", "router")}
    if numbers["math"] != numbers["router"]:
        found.append(f"mixed set: {numbers}")
    if (numbers["math"] or 0) < deaths.told["number"]:
        found.append(f"number {numbers['math']} is served, {deaths.told['number']} was promoted")
    if registry.pointer() != pointer:
        found.append("the pointer had to be mended")
    for name in ("math", "router"):
        for version in registry.versions(name):
            try:
                registry.verify(name, version)
            except RegistryError as error:
                found.append(str(error))
    found += [f"half of it was there: {path}" for path in deaths.run_dir.rglob("*.damaged-*")]
    with Journal(deaths.run_dir / "journal.db", read_only=True) as journal:
        ids = [event.id for event in journal.events()]
    if ids != list(range(1, len(ids) + 1)) or len(ids) < deaths.told["event"]:
        found.append(f"journal has {len(ids)} events, {deaths.told['event']} were reported")
    return found


def served_number(registry: Registry, name: str) -> int | None:
    folder = registry.served(name)
    if folder is None:
        return None
    text = (folder / "model.safetensors").read_text()
    number = int(text.split()[1])
    assert text == f"{name} {number} " * 2000
    return number


def die_and_look(run_dir: Path, *, times: int, seed: int) -> tuple[Deaths, list[str]]:
    deaths = Deaths(run_dir, random.Random(seed))
    found = []
    try:
        for death in range(1, times + 1):
            deaths.kill_one()
            found += [f"death {death}: {loss}" for loss in losses(deaths)]
    finally:
        deaths.end()
    return deaths, found


def test_kill_at_ten_random_moments_loses_nothing_that_was_reported(tmp_path):
    deaths, found = die_and_look(tmp_path / "run", times=10, seed=1)
    assert found == []
    assert deaths.told["number"] > 0
    with RunLock(deaths.run_dir):
        Registry(deaths.run_dir).prune(2)
    assert list((deaths.run_dir / "nodes").rglob(".tmp-*")) == []


@pytest.mark.slow
def test_kill_at_two_hundred_random_moments_loses_nothing_that_was_reported(tmp_path, capsys):
    deaths, found = die_and_look(tmp_path / "run", times=200, seed=2)
    with capsys.disabled():
        print(f"\nkilled 200 times after {deaths.told['step']} saves, {deaths.told['number']} promotions, {deaths.told['event']} events; "
              f"states or versions lost: {len(found)}")
    assert found == []
