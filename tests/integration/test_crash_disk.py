"""A full disk, a read-only disk, a clock that goes backwards, several writers at once: for real, not by a fake."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch

from experts import checkpoint, durable, journal, registry
from experts.checkpoint import load_newest, prune_states, save_state
from experts.durable import NotWritable, OutOfSpace
from experts.journal import Journal
from experts.registry import Registry
from experts.run_lock import RunLock

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=False).returncode:
        pytest.skip("mounting a small tmpfs needs Linux, root and the right to mount")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def write_model(size: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"m" * size)
    return write


def promote(run: Registry, *, size: int) -> None:
    run.promote({"math": run.add("math", write_model(size), card={}, expected_bytes=0)}, reason="r")


def save(folder: Path, step: int, *, numbers: int = 1000) -> Path:
    return save_state(folder, tensors={"weight": torch.full((numbers,), float(step))}, facts={"step": step})


def step_of(folder: Path) -> int | None:
    state = load_newest(folder)
    return None if state is None else state.facts["step"]


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(".tmp-*"))


def fill_up(disk: Path, *, leave: int) -> Path:
    filler = disk / "filler"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler.write_bytes(b"\0" * (free - leave))
    return filler


def test_full_disk_add_keeps_what_is_served_and_goes_on_when_space_is_freed(small_disk):
    run = Registry(small_disk / "run")
    promote(run, size=500_000)
    filler = fill_up(small_disk, leave=300_000)
    with pytest.raises(OutOfSpace, match=r"bytes free; nothing was lost.*lower registry\.keep") as caught:
        promote(run, size=500_000)
    assert caught.value.free > 250_000  # the unfinished folder is gone again
    assert leftovers(small_disk) == []
    assert run.served("math") == run.path("math", "v000001")
    filler.unlink()
    promote(run, size=500_000)
    assert run.served("math") == run.path("math", "v000002")


def test_full_disk_promote_leaves_the_pointer_as_it_was(small_disk):
    run = Registry(small_disk / "run")
    promote(run, size=1000)
    version = run.add("math", write_model(1000), card={})
    filler = fill_up(small_disk, leave=0)
    with pytest.raises(OutOfSpace):
        run.promote({"math": version}, reason="r")
    assert Registry(run.run_dir).pointer().nodes["math"] == "v000001"
    filler.unlink()
    assert run.promote({"math": version}, reason="r").nodes["math"] == "v000002"


def test_full_disk_prune_frees_space_although_nothing_can_be_written(small_disk):
    run = Registry(small_disk / "run")
    for _ in range(4):
        promote(run, size=100_000)
    fill_up(small_disk, leave=0)
    assert run.prune(1) == [("math", "v000001"), ("math", "v000002")]


def test_full_disk_save_state_is_refused_by_its_size_before_writing(small_disk):
    save(small_disk / "states", 1)
    with pytest.raises(OutOfSpace, match=r"2,400,000 bytes needed, 2,[0-9,]+ bytes free"):
        save(small_disk / "states", 2, numbers=300_000)
    assert step_of(small_disk / "states") == 1


def test_full_disk_in_the_middle_of_safetensors_is_named_and_the_old_state_loads(small_disk, monkeypatch):
    monkeypatch.setattr(durable, "check_space", lambda folder, *, expected_bytes: None)  # somebody else filled the disk after the check
    save(small_disk / "states", 1)
    with pytest.raises(OutOfSpace, match=r"4,000,000 bytes needed"):
        save(small_disk / "states", 2, numbers=1_000_000)
    assert leftovers(small_disk) == []
    assert step_of(small_disk / "states") == 1
    assert save(small_disk / "states", 2).name == "state-000002"


def test_full_disk_journal_append_is_named_and_goes_on_when_space_is_freed(small_disk):
    with Journal(small_disk / "journal.db") as log:
        log.append("first")
        filler = fill_up(small_disk, leave=0)
        with pytest.raises(OutOfSpace):
            log.append("too large", text="x" * 100_000)
        kept = log.events()
        filler.unlink()
        log.append("third")
        assert [event.kind for event in log.events()] == [*(event.kind for event in kept), "third"]
        assert kept[0].kind == "first"


QUOTA = """
import resource, sys
from pathlib import Path
import torch
from experts.checkpoint import load_newest, save_state
from experts.durable import OutOfSpace
folder = Path(sys.argv[1])
save_state(folder, tensors={"w": torch.ones(1000)}, facts={"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_state(folder, tensors={"w": torch.ones(100_000)}, facts={"step": 2})
except OutOfSpace as error:
    print("refused:", error)
print(load_newest(folder).facts["step"], sorted(path.name for path in folder.iterdir()))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a process's files")
def test_quota_save_state_is_refused_and_the_old_state_loads(tmp_path):
    done = subprocess.run([sys.executable, "-c", QUOTA, str(tmp_path)], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    refused, after = done.stdout.splitlines()
    assert refused.startswith("refused: [Errno 28] no space in ")
    assert "400,000 bytes needed" in refused
    assert after == "1 ['state-000001']"


JOURNAL_FAULTS = """
import json, resource, sys
from pathlib import Path
from experts.durable import OutOfSpace
from experts.journal import Journal, JournalError
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
tried, lost = 0, []
for at in range(1000):
    path = Path(sys.argv[1]) / f"{at}.db"
    log = Journal(path)
    told = [log.append("step", text="x" * 2000) for _ in range(2)]
    size = Path(f"{path}-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 300 * at, unlimited[1]))
    try:
        told += [log.append("step", text="x" * 2000) for _ in range(3)]
        met = False
    except (OutOfSpace, JournalError):
        met = True
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    tried += met
    found = [event.id for event in Journal(path, read_only=True).events()]
    again = Journal(path).append("after")
    if found[:len(told)] != told or found != list(range(1, len(found) + 1)) or len(found) > len(told) + 3 or again != found[-1] + 1:
        lost.append([at, told, found, again])
    if not met:
        break
print(json.dumps({"tried": tried, "lost": lost, "aside": [path.name for path in Path(sys.argv[1]).glob("*damaged*")]}))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a process's files")
def test_journal_write_fails_at_every_place_loses_no_event_that_was_told():
    memory = Path("/dev/shm")  # hundreds of real syncs otherwise
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        done = subprocess.run([sys.executable, "-c", JOURNAL_FAULTS, folder], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    result = json.loads(done.stdout)
    assert (result["lost"], result["aside"]) == ([], [])
    assert result["tried"] > 20


@pytest.fixture
def read_only_run(tmp_path) -> Iterator[Registry]:
    """A run with two versions of math, the newer one damaged, a state and a journal, on a disk that takes no writes any more."""
    place = tmp_path / "disk"
    run = Registry(place / "run")
    mounted = sys.platform == "linux" and os.geteuid() == 0
    place.mkdir()
    if mounted and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=False).returncode:
        pytest.skip("root without the right to mount: no folder is read-only for it")
    if os.name == "nt":
        pytest.skip("a read-only attribute doesn't keep Windows from writing in a folder")
    for size in (1000, 2000):
        promote(run, size=size)
    (run.path("math", "v000002") / "model.safetensors").write_bytes(b"!" * 2000)
    save(run.run_dir / "states", 1)
    with Journal(run.run_dir / "journal.db") as log:
        log.append("first")
    folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
    if mounted:
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    else:
        for folder in folders:
            folder.chmod(0o555)
    yield run
    if mounted:
        subprocess.run(["umount", "-l", place], check=True)
    else:
        for folder in folders:
            folder.chmod(0o755)


def append(run: Registry) -> None:
    with Journal(run.run_dir / "journal.db") as log:
        log.append("second")


def lock(run: Registry) -> None:
    with RunLock(run.run_dir):
        pytest.fail("a folder that takes no writes can't be held")


@pytest.mark.parametrize("write", [
    lambda run: run.add("math", write_model(10), card={}),
    lambda run: run.promote({"math": "v000001"}, reason="r"),
    lambda run: run.rollback("math", reason="r"),
    lambda run: save(run.run_dir / "states", 2),
    append,
    lock,
], ids=["add", "promote", "rollback", "save_state", "append", "lock"])
def test_read_only_disk_every_write_is_refused_with_the_repair(read_only_run, write):
    with pytest.raises(NotWritable, match=r"can't write in .*choose another run\.dir"):
        write(read_only_run)


def test_read_only_disk_everything_is_still_read_and_the_damaged_version_passed_over(read_only_run, caplog):
    with caplog.at_level(logging.WARNING):
        assert read_only_run.served("math") == read_only_run.path("math", "v000001")
    assert "the pointer still names math v000002" in caplog.text
    assert step_of(read_only_run.run_dir / "states") == 1
    with Journal(read_only_run.run_dir / "journal.db", read_only=True) as log:
        assert [event.kind for event in log.events()] == ["first"]


def test_clock_going_backwards_order_is_by_number_everywhere(tmp_path, monkeypatch):
    clock = iter(datetime.fromisoformat("2026-06-01T00:00:00+00:00") - timedelta(days=day) for day in range(1000))

    class Backwards(datetime):
        @classmethod
        def now(cls, tz=None):
            return next(clock)
    for module in (registry, checkpoint, journal):
        monkeypatch.setattr(module, "datetime", Backwards)
    run = Registry(tmp_path)
    for number in range(1, 6):
        promote(run, size=number)
        folder = save(tmp_path / "states", number)
        for path in (folder, run.path("math", f"v00000{number}")):
            os.utime(path, (2e9 - number * 1e6, 2e9 - number * 1e6))
    stamps = [change.at for change in run.pointer().history]
    assert stamps == sorted(stamps, reverse=True)
    assert step_of(tmp_path / "states") == 5
    assert [path.name for path in prune_states(tmp_path / "states", 2)] == ["state-000003", "state-000002", "state-000001"]
    assert run.prune(2) == [("math", "v000001"), ("math", "v000002"), ("math", "v000003")]
    assert run.rollback("math", reason="r").nodes["math"] == "v000004"


WRITER = """
import sys
from pathlib import Path
from experts.registry import Registry
run, who = Registry(Path(sys.argv[1])), sys.argv[2]
def write(folder):
    (folder / "model.safetensors").write_text(who * 1000)
for number in range(15):
    versions = {name: run.add(name, write, card={"who": who, "number": number}) for name in ("math", "router")}
    run.promote(versions, reason=f"{who} {number}")
"""
READER = """
import sys
from pathlib import Path
from experts.registry import Registry
run, generation, seen = Registry(Path(sys.argv[1])), 0, set()
while not Path(sys.argv[2]).exists():
    pointer = run.pointer()
    assert pointer.generation >= generation, (pointer.generation, generation)
    generation = pointer.generation
    if generation:
        cards = [run.card("math", pointer.nodes["math"]), run.card("router", pointer.router)]
        assert (cards[0]["who"], cards[0]["number"]) == (cards[1]["who"], cards[1]["number"]), "a mixed set"
        seen.add(generation)
print(len(seen))
"""


def test_two_writers_and_a_reader_no_promotion_is_lost_and_no_set_is_mixed(tmp_path):
    run, stop = Registry(tmp_path / "run"), tmp_path / "stop"
    reader = subprocess.Popen([sys.executable, "-c", READER, str(run.run_dir), str(stop)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(run.run_dir), who], env=ENVIRONMENT) for who in ("a", "b")]
    codes = [writer.wait() for writer in writers]
    stop.touch()
    seen = int(reader.communicate()[0])
    assert (codes, reader.returncode) == ([0, 0], 0)
    assert seen > 3
    pointer = run.pointer()
    assert pointer.generation == 30
    assert sorted(change.reason for change in pointer.history) == sorted(f"{who} {number}" for who in "ab" for number in range(15))
    befores = [change.changes["math"][0] for change in pointer.history]
    afters = [change.changes["math"][1] for change in pointer.history]
    assert befores == [None, *afters[:-1]]
    assert run.versions("math") == [f"v{number:06d}" for number in range(1, 31)]
