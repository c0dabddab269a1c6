"""Every effect on the disk fails once, for good, or is the last before a crash or a power cut: a reader must find whole things.

SQLite's way (https://sqlite.org/testing.html, 3.2 to 3.4): fail at effect 1, 2, 3 ... until the operation gets through.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from experts import durable
from experts.checkpoint import clear_states, load_newest, prune_states, save_state
from experts.registry import Registry, RegistryError
from experts.run_lock import RunLock

MODES = ("once", "lasting", "torn", "after", "power", "power, names too")


class Killed(BaseException):
    """The process is no more: nothing below may catch it, and no clean-up reaches the disk."""


class QuickDisk(durable.Disk):
    """Syncs nothing: waiting for the real disk would prove nothing here."""

    def write_file(self, path, data):
        with path.open("xb") as file:
            file.write(data)

    def sync_file(self, path):
        pass

    def sync_folder(self, path):
        pass


class FaultyDisk(QuickDisk):
    """Fails at effect number `at`.

    once, lasting: the disk is full at that effect, or from it on. torn: half of the effect, then the process is dead.
    after: the effect, then dead. power: the same, and files that were not synced are empty. names too: and renames whose
    folder was not synced didn't happen.
    """

    def __init__(self, at: int, *, mode: str, root: Path) -> None:
        self.at, self.mode, self.root = at, mode, root
        self.calls, self.hit, self.dead = 0, False, False
        self.synced = {mark(path) for path in root.rglob("*") if path.is_file()}
        self.renames: list[tuple[Path, Path, bytes | None]] = []

    def make_folder(self, path):
        self._do(lambda: super(FaultyDisk, self).make_folder(path))

    def write_file(self, path, data):
        self._do(lambda: super(FaultyDisk, self).write_file(path, data), half=lambda: path.write_bytes(data[:len(data) // 2]))
        self.synced.add(mark(path))

    def fill(self, path, write):
        self._do(lambda: write(path), half=lambda: (write(path), os.truncate(path, path.stat().st_size // 2)))

    def sync_file(self, path):
        self._do(lambda: super(FaultyDisk, self).sync_file(path))
        self.synced.add(mark(path))

    def sync_folder(self, path):
        self._do(lambda: super(FaultyDisk, self).sync_folder(path))
        self.renames = [rename for rename in self.renames if path not in (rename[0].parent, rename[1].parent)]

    def replace(self, source, target):
        before = target.read_bytes() if target.is_file() else None

        def act():
            super(FaultyDisk, self).replace(source, target)
            self.renames.append((source, target, before))
        self._do(act)

    def remove_file(self, path):
        self._do(lambda: super(FaultyDisk, self).remove_file(path))

    def remove_folder(self, path):
        self._do(lambda: super(FaultyDisk, self).remove_folder(path), half=lambda: next(file for file in path.rglob("*") if file.is_file()).unlink())

    def _do(self, act: Callable[[], object], *, half: Callable[[], object] | None = None) -> None:
        if self.dead:
            raise Killed
        self.calls += 1
        if self.mode in ("once", "lasting") and (self.calls == self.at or (self.mode == "lasting" and self.calls > self.at)):
            self.hit = True
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.calls != self.at:
            act()
            return
        self.hit = self.dead = True
        if self.mode != "torn":
            act()
        elif half is not None:
            half()
        if self.mode.startswith("power"):
            self.cut_power()
        raise Killed

    def cut_power(self) -> None:
        for path in [path for path in self.root.rglob("*") if path.is_file() and path.suffix != ".lock" and mark(path) not in self.synced]:
            os.truncate(path, 0)
        for source, target, before in reversed(self.renames if "names" in self.mode else []):
            if target.is_dir():
                target.rename(source)
            elif before is None:
                target.unlink()
            else:
                target.write_bytes(before)


def mark(path: Path) -> tuple[int, int, int]:
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


@dataclass
class World:
    """A run with three promoted versions of math, one of code, two of the router, a candidate more of math and router, and three states."""

    root: Path
    before: dict[str, str] = field(default_factory=lambda: {"math": "v000003", "code": "v000001", "router": "v000002"})

    @property
    def registry(self) -> Registry:
        """As a new process sees it."""
        return Registry(self.root / "run")

    @property
    def states(self) -> Path:
        return self.root / "run" / "work" / "math"


def write_model(name: str, number: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_text(f"{name} {number}")
        (folder / "config.json").write_text("{}")
    return write


def save(folder: Path, step: int) -> Path:
    return save_state(folder, tensors={"weight": torch.full((64,), float(step)), "rng": torch.arange(16, dtype=torch.uint8)}, facts={"step": step})


@pytest.fixture(scope="module", autouse=True)
def quick_disk() -> Iterator[None]:
    sound, durable.disk = durable.disk, QuickDisk()
    yield
    durable.disk = sound


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder, in memory where the system has such a place: thousands of small trees are made and thrown away."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    world = World(tmp_path_factory.mktemp("template"))
    registry = world.registry
    for name, count in (("math", 3), ("code", 1), ("router", 2)):
        for number in range(1, count + 1):
            registry.promote({name: registry.add(name, write_model(name, number), card={"number": number})}, reason=f"better {number}")
    registry.add("math", write_model("math", 4), card={})
    registry.add("router", write_model("router", 3), card={})
    for step in (1, 2, 3):
        save(world.states, step)
    return world.root


def spoil(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + b"?")


@dataclass(frozen=True)
class Operation:
    """What is done, what harm precedes it, and which pointer and newest step may be found after it (finished or not)."""

    do: Callable[[World], object]
    finished: dict[str, str | None] = field(default_factory=dict)
    prepare: Callable[[World], object] = lambda world: None
    unfinished: dict[str, str | None] = field(default_factory=dict)
    steps: tuple[int, ...] = (3,)
    kept: dict[str, tuple[str, ...]] = field(default_factory=lambda: {
        "math": ("v000001", "v000002", "v000003", "v000004"), "code": ("v000001",), "router": ("v000001", "v000002", "v000003")})


NEEDED = {"math": ("v000002", "v000003", "v000004"), "code": ("v000001",), "router": ("v000001", "v000002", "v000003")}
WITHOUT_SERVED = {"math": ("v000001", "v000002", "v000004"), "code": ("v000001",), "router": ("v000001", "v000002", "v000003")}
OPERATIONS = {
    "add": Operation(lambda world: world.registry.add("math", write_model("math", 5), card={"a": 1})),
    "add first": Operation(lambda world: world.registry.add("law", write_model("law", 1), card={})),
    "promote two": Operation(lambda world: world.registry.promote({"math": "v000004", "router": "v000003"}, reason="r"),
                             {"math": "v000004", "router": "v000003"}),
    "roll back one": Operation(lambda world: world.registry.rollback("math", reason="r") if world.registry.pointer().nodes["math"] == "v000003" else None,
                               {"math": "v000002"}),
    "roll back all": Operation(lambda world: world.registry.rollback(reason="r") if world.registry.pointer().generation == 6 else None, {"router": "v000001"}),
    "prune": Operation(lambda world: world.registry.prune(1), kept=NEEDED),
    "mend": Operation(lambda world: world.registry.served("math"), {"math": "v000002"}, kept=WITHOUT_SERVED, unfinished={"math": "v000002"},
                      prepare=lambda world: spoil(world.registry.path("math", "v000003") / "model.safetensors")),
    "promote over a torn pointer": Operation(lambda world: world.registry.promote({"math": "v000004"}, reason="r"), {"math": "v000004"},
                                             prepare=lambda world: (world.root / "run" / "current.json").write_text('{"format": 1, "gen')),
    "save state": Operation(lambda world: save(world.states, 4), steps=(3, 4)),
    "save and prune states": Operation(lambda world: (save(world.states, 4), prune_states(world.states, 1)), steps=(3, 4)),
    "load past a damaged state": Operation(lambda world: load_newest(world.states), steps=(2,),
                                           prepare=lambda world: spoil(world.states / "state-000003" / "state.safetensors")),
    "prune past a damaged state": Operation(lambda world: prune_states(world.states, 1), steps=(2,),
                                            prepare=lambda world: spoil(world.states / "state-000003" / "state.safetensors")),
    "clear states": Operation(lambda world: clear_states(world.states), steps=(3, 0)),
}


def losses(world: World, operation: Operation) -> list[str]:
    """What a new process finds missing or broken; empty when all is well."""
    found = []
    registry = world.registry
    state = load_newest(world.states)
    step = 0 if state is None else state.facts["step"]
    if step not in operation.steps or (state is not None and state.tensors["weight"].tolist() != [float(step)] * 64):
        found.append(f"state of step {step}, one of {operation.steps} was due")
    served = {name: path.name if (path := registry.served(name)) else None for name in world.before}
    allowed = [{**world.before, **operation.unfinished}, {**world.before, **operation.finished}]
    if served not in allowed:
        found.append(f"{served} is served, one of {allowed} was due")
    for name, version in served.items():
        text = (registry.path(name, str(version)) / "model.safetensors").read_text() if version else None
        if text != f"{name} {int(str(version)[1:])}":
            found.append(f"{name} {version} holds {text!r}")
    for name, versions in operation.kept.items():
        found += [f"{name} {version} is lost" for version in versions if version not in registry.versions(name)]
    for name in (*world.before, "law"):
        for version in registry.versions(name):
            try:
                registry.verify(name, version)
            except RegistryError as error:
                found.append(f"half a version: {error}")
    return found


def worlds_after_faults(template: Path, folder: Path, operation: Operation, *, mode: str) -> Iterator[tuple[int, World]]:
    """The world after a fault at effect 1, 2, 3 ... of the operation, until it gets through without meeting the fault."""
    for at in range(1, 200):
        world = World(folder / str(at))
        shutil.copytree(template, world.root)
        operation.prepare(world)
        hit = strike(world, operation, at=at, mode=mode)
        if hit:
            yield at, world
        shutil.rmtree(world.root)
        if not hit:
            assert at > 1, "the operation has no effect on the disk"
            return
    pytest.fail("the operation never got through")


def strike(world: World, operation: Operation, *, at: int, mode: str) -> bool:
    """Do the operation on a disk with that fault; whether the fault was met."""
    faulty = FaultyDisk(at, mode=mode, root=world.root)
    sound, durable.disk = durable.disk, faulty
    try:
        operation.do(world)
    except (Killed, durable.OutOfSpace):
        assert faulty.hit, "the operation gave up without having met the fault"
    finally:
        durable.disk = sound
    return faulty.hit


def leftovers(world: World) -> list[Path]:
    return list((world.root / "run").rglob(".tmp-*"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_crash_at_every_effect_loses_nothing(template, folder, name, mode):
    for at, world in worlds_after_faults(template, folder, OPERATIONS[name], mode=mode):
        assert (at, losses(world, OPERATIONS[name])) == (at, [])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"load past a damaged state", "prune past a damaged state", "clear states"}))
def test_crash_at_every_effect_the_operation_done_again_succeeds_and_no_leftover_stays(template, folder, name, mode):
    operation = OPERATIONS[name]
    for at, world in worlds_after_faults(template, folder, operation, mode=mode):
        operation.do(world)
        world.registry.promote({"code": "v000001"}, reason="any write of the next process clears leftovers")
        save(world.states, 9)
        pointer = world.registry.pointer()
        served = {each: pointer.version(each) for each in world.before}
        assert (at, served) == (at, {**world.before, **operation.finished})
        assert (at, leftovers(world)) == (at, [])


@pytest.mark.parametrize("name", OPERATIONS)
def test_power_cut_after_the_operation_returned_takes_nothing_of_it_back(template, folder, name):
    operation, world = OPERATIONS[name], World(folder / "cut")
    shutil.copytree(template, world.root)
    operation.prepare(world)
    faulty = FaultyDisk(0, mode="power, names too", root=world.root)
    sound, durable.disk = durable.disk, faulty
    try:
        operation.do(world)
    finally:
        durable.disk = sound
    faulty.cut_power()
    assert losses(world, replace(operation, steps=operation.steps[-1:], unfinished=operation.finished)) == []
    assert world.registry.versions("math") == list(operation.kept["math"]) + (["v000005"] if name == "add" else [])
    assert world.registry.versions("law") == (["v000001"] if name == "add first" else [])


@pytest.mark.parametrize("mode", ["once", "lasting"])
@pytest.mark.parametrize("name", ["add", "promote two", "save state"])
def test_full_disk_at_every_effect_but_the_last_sync_is_reported(template, folder, name, mode):
    operation = OPERATIONS[name]
    silent = []
    for at in range(1, 200):
        world = World(folder / str(at))
        shutil.copytree(template, world.root)
        faulty = FaultyDisk(at, mode=mode, root=world.root)
        sound, durable.disk = durable.disk, faulty
        try:
            operation.do(world)
            silent.append(at)
        except durable.OutOfSpace:
            assert faulty.hit, "the operation gave up without having met the fault"
        finally:
            durable.disk = sound
        if not faulty.hit:
            break
    assert silent == [at]


def test_crash_in_run_lock_at_every_effect_the_next_process_gets_the_folder(folder):
    for at in range(1, 50):
        world = World(folder / str(at))
        world.root.mkdir()

        def hold(world: World) -> None:
            with RunLock(world.root / "run"):
                pass
        hit = strike(world, Operation(hold), at=at, mode="after")
        with RunLock(world.root / "run"):
            assert (world.root / "run" / "run.pid.json").exists()
        assert (at, leftovers(world)) == (at, [])
        if not hit:
            break
    assert at > 3


@pytest.mark.slow
def test_crash_again_while_recovering_at_every_pair_of_effects_loses_nothing(template, folder, capsys):
    tried, lost = 0, []
    for name, operation in OPERATIONS.items():
        for mode in MODES:
            for first, world in worlds_after_faults(template, folder / "first", operation, mode=mode):
                tried += 1
                lost += [f"{name}, {mode}, {first}: {loss}" for loss in losses_of_copy(world, folder / "copy", operation)]
                for second in range(1, 200):
                    again = World(folder / "second")
                    shutil.copytree(world.root, again.root)
                    hit = strike(again, operation, at=second, mode="after" if second % 2 else "torn")
                    tried += hit
                    lost += [f"{name}, {mode}, {first} then {second}: {loss}" for loss in (losses(again, operation) if hit else [])]
                    shutil.rmtree(again.root)
                    if not hit:
                        break
    with capsys.disabled():
        print(f"\nfaults tried: {tried}, states or versions lost: {len(lost)}")
    assert lost == []


def losses_of_copy(world: World, folder: Path, operation: Operation) -> list[str]:
    """Looking sets damaged things aside, so look at a copy."""
    copy = World(folder)
    shutil.copytree(world.root, copy.root)
    found = losses(copy, operation)
    shutil.rmtree(folder)
    return found
