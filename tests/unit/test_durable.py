"""Whole-or-absent writes: order of effects, failures, leftovers, free space, hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from experts import durable


class RecordingDisk(durable.Disk):
    """Does everything and notes it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def write_file(self, path, data):
        super().write_file(path, data)
        self.done.append("write " + shown(path))

    def sync_file(self, path):
        super().sync_file(path)
        self.done.append("sync " + shown(path))

    def sync_folder(self, path):
        super().sync_folder(path)
        self.done.append("sync " + shown(path) + "/")

    def replace(self, source, target):
        super().replace(source, target)
        self.done.append(f"replace {shown(source)} {shown(target)}")


class FailingDisk(durable.Disk):
    """Raises `error` for the first `times` calls of one effect."""

    def __init__(self, effect: str, error: Exception, *, times: int = 1_000_000) -> None:
        self.effect, self.error, self.left, self.calls = effect, error, times, 0

    def replace(self, source, target):
        self._fail("replace")
        super().replace(source, target)

    def write_file(self, path, data):
        self._fail("write_file")
        super().write_file(path, data)

    def _fail(self, effect):
        if effect == self.effect:
            self.calls += 1
            if self.left > 0:
                self.left -= 1
                raise self.error


def shown(path: Path) -> str:
    return "TEMP" if path.name.startswith(".tmp-") else path.name


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def free_bytes(monkeypatch):
    def set_free(free: int) -> None:
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, free))
    return set_free


def test_write_bytes_new_file_is_written_then_named_then_its_folder_synced(tmp_path, monkeypatch):
    disk = RecordingDisk()
    monkeypatch.setattr(durable, "disk", disk)
    durable.write_bytes(tmp_path / "a.bin", b"\x00\xff")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"
    assert disk.done == ["write TEMP", "replace TEMP a.bin", f"sync {tmp_path.name}/"]


def test_write_bytes_replace_fails_old_file_stands_and_no_temporary_stays(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(durable, "disk", FailingDisk("replace", OSError(errno.EIO, "input/output error")))
    with pytest.raises(OSError, match="input/output error"):
        durable.write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names_in(tmp_path) == ["a"]


def test_write_text_line_ends_and_characters_are_kept(tmp_path):
    durable.write_text(tmp_path / "t", "a\r\nb\n\u00e9")
    assert (tmp_path / "t").read_bytes() == b"a\r\nb\n\xc3\xa9"


def test_write_json_nan_is_refused_and_old_file_stands(tmp_path):
    durable.write_json(tmp_path / "j", {"a": 1})
    with pytest.raises(ValueError, match=r"can't be written as JSON.*allowed are None, bool"):
        durable.write_json(tmp_path / "j", {"a": float("nan")})
    assert json.loads((tmp_path / "j").read_text()) == {"a": 1}


def test_write_json_path_as_value_is_refused_by_name_of_type(tmp_path):
    with pytest.raises(ValueError, match=r"Object of type .*Path is not JSON"):
        durable.write_json(tmp_path / "j", {"a": Path("b")})
    assert names_in(tmp_path) == []


def test_new_folder_success_syncs_every_file_and_the_card_last(tmp_path, monkeypatch):
    disk = RecordingDisk()
    monkeypatch.setattr(durable, "disk", disk)
    with durable.new_folder(tmp_path / "final", last="card.json") as folder:
        (folder / "card.json").write_text("{}")
        (folder / "sub").mkdir()
        (folder / "sub" / "z.bin").write_bytes(b"z")
    assert disk.done == ["sync z.bin", "sync card.json", "sync sub/", "sync TEMP/", "replace TEMP final", f"sync {tmp_path.name}/"]
    assert (tmp_path / "final" / "sub" / "z.bin").read_bytes() == b"z"


@pytest.mark.parametrize("failure", [RuntimeError("stop"), KeyboardInterrupt()])
def test_new_folder_body_fails_or_is_interrupted_nothing_is_left(tmp_path, failure):
    def write_half() -> None:
        with durable.new_folder(tmp_path / "final") as folder:
            (folder / "a").write_text("half")
            raise failure
    with pytest.raises(type(failure)):
        write_half()
    assert names_in(tmp_path) == []


def test_new_folder_final_exists_is_refused_even_when_empty(tmp_path):
    (tmp_path / "final").mkdir()
    with pytest.raises(FileExistsError, match="never overwritten"), durable.new_folder(tmp_path / "final"):
        pytest.fail("the body must not run")


def test_replace_folder_final_appeared_meanwhile_is_refused_and_kept(tmp_path):
    def write_while_another_does() -> None:
        with durable.new_folder(tmp_path / "final") as folder:
            (folder / "a").write_text("ours")
            (tmp_path / "final").mkdir()
            (tmp_path / "final" / "a").write_text("theirs")
    with pytest.raises(FileExistsError, match="take a new name"):
        write_while_another_does()
    assert (tmp_path / "final" / "a").read_text() == "theirs"
    assert names_in(tmp_path) == ["final"]


def test_new_folder_less_than_twice_the_size_free_raises_with_numbers(tmp_path, free_bytes):
    free_bytes(1999)
    with pytest.raises(durable.OutOfSpace, match=r"2,000 bytes needed, 1,999 bytes free.*registry\.keep") as caught, \
            durable.new_folder(tmp_path / "deep" / "final", expected_bytes=1000):
        pytest.fail("the body must not run")
    assert (caught.value.needed, caught.value.free, caught.value.where) == (2000, 1999, tmp_path / "deep")
    assert names_in(tmp_path) == []


def test_new_folder_exactly_twice_the_size_free_is_written(tmp_path, free_bytes):
    free_bytes(2000)
    with durable.new_folder(tmp_path / "final", expected_bytes=1000) as folder:
        (folder / "a").write_text("x")
    assert names_in(tmp_path) == ["final"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_write_bytes_full_disk_raises_out_of_space_with_the_size(tmp_path, monkeypatch, free_bytes, number):
    free_bytes(7)
    monkeypatch.setattr(durable, "disk", FailingDisk("write_file", OSError(number, "full")))
    with pytest.raises(durable.OutOfSpace, match="12 bytes needed, 7 bytes free") as caught:
        durable.write_bytes(tmp_path / "a", b"x" * 12)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("words", [
    "Error while serializing: I/O error: No space left on device (os error 28)",
    'Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })',
    "Error while serializing: I/O error: There is not enough space on the disk. (os error 112)",
], ids=["safetensors 0.8", "safetensors 0.4.5", "Windows"])
def test_new_folder_safetensors_reports_a_full_disk_raises_out_of_space(tmp_path, words):
    with pytest.raises(durable.OutOfSpace, match="no space in"), durable.new_folder(tmp_path / "final"):
        raise SafetensorError(words)


@pytest.mark.parametrize("words", ["wrong shape", "I/O error: Input/output error (os error 5)"])
def test_new_folder_other_safetensors_error_passes_as_it_is(tmp_path, words):
    with pytest.raises(SafetensorError, match=re.escape(words)), durable.new_folder(tmp_path / "final"):
        raise SafetensorError(words)


def test_write_bytes_read_only_disk_raises_not_writable_with_the_repair(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "disk", FailingDisk("write_file", OSError(errno.EROFS, "Read-only file system")))
    with pytest.raises(durable.NotWritable, match=r"Read-only file system.*choose another run\.dir"):
        durable.write_bytes(tmp_path / "a", b"x")


def test_new_folder_body_may_not_read_a_file_elsewhere_error_passes_as_it_is(tmp_path):
    elsewhere = PermissionError(errno.EACCES, "Permission denied", "/somewhere/else")
    with pytest.raises(PermissionError, match="/somewhere/else") as caught, durable.new_folder(tmp_path / "final"):
        raise elsewhere
    assert not isinstance(caught.value, durable.NotWritable)


def test_write_bytes_windows_target_busy_twice_is_tried_again(tmp_path, monkeypatch):
    disk = FailingDisk("replace", PermissionError(errno.EACCES, "in use"), times=2)
    monkeypatch.setattr(durable, "disk", disk)
    monkeypatch.setattr(durable, "WINDOWS", True)
    durable.write_bytes(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert disk.calls == 3


def test_write_bytes_windows_target_always_busy_gives_up_after_a_bounded_number(tmp_path, monkeypatch):
    disk = FailingDisk("replace", PermissionError(errno.EACCES, "in use"))
    waits: list[float] = []
    monkeypatch.setattr(durable, "disk", disk)
    monkeypatch.setattr(durable, "WINDOWS", True)
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(durable.NotWritable, match="close the program"):
        durable.write_bytes(tmp_path / "a", b"x")
    assert disk.calls == 12
    assert 1 < sum(waits) < 5


def test_write_bytes_elsewhere_than_windows_permission_error_is_not_retried(tmp_path, monkeypatch):
    disk = FailingDisk("replace", PermissionError(errno.EACCES, "no"))
    monkeypatch.setattr(durable, "disk", disk)
    monkeypatch.setattr(durable, "WINDOWS", False)
    with pytest.raises(durable.NotWritable, match="can't write"):
        durable.write_bytes(tmp_path / "a", b"x")
    assert disk.calls == 1


def test_ensure_folder_missing_parents_are_made(tmp_path):
    durable.ensure_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_remove_leftovers_of_a_dead_process_go_and_of_a_living_one_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        (tmp_path / f".tmp-v000004-{dead.pid}-0a1b2c3d").mkdir()
        (tmp_path / f".tmp-v000004-{dead.pid}-0a1b2c3d" / "model").write_text("half")
        (tmp_path / f".tmp-current.json-{dead.pid}-11111111").write_text("half")
        (tmp_path / f".tmp-v000005-{living.pid}-22222222").mkdir()
        (tmp_path / "v000003").mkdir()
        removed = durable.remove_leftovers(tmp_path)
    finally:
        living.communicate()
    assert sorted(path.name for path in removed) == [f".tmp-current.json-{dead.pid}-11111111", f".tmp-v000004-{dead.pid}-0a1b2c3d"]
    assert names_in(tmp_path) == [f".tmp-v000005-{living.pid}-22222222", "v000003"]


def test_remove_leftovers_own_number_of_an_earlier_process_goes_and_own_work_stays(tmp_path):
    (tmp_path / f".tmp-old-{os.getpid()}-33333333").mkdir()
    with durable.new_folder(tmp_path / "final") as folder:
        (folder / "a").write_text("x")
        removed = durable.remove_leftovers(tmp_path)
    assert [path.name for path in removed] == [f".tmp-old-{os.getpid()}-33333333"]
    assert names_in(tmp_path) == ["final"]


def test_move_aside_same_name_twice_takes_the_next_number(tmp_path):
    for text in ("first", "second"):
        (tmp_path / "a").write_text(text)
        durable.move_aside(tmp_path / "a", "damaged")
    assert {name: (tmp_path / name).read_text() for name in names_in(tmp_path)} == {"a.damaged-1": "first", "a.damaged-2": "second"}


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_files_of_link_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        durable.files_of(tmp_path)


def test_sha256_of_known_text_is_the_published_value(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert durable.sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1


def test_sha256_of_unchanged_file_is_not_read_again_when_cached(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    os.utime(file, (1_700_000_000, 1_700_000_000))
    before = durable.sha256_of(file, cached=True)
    file.write_bytes(b"abd")
    os.utime(file, (1_700_000_000, 1_700_000_000))
    assert durable.sha256_of(file, cached=True) == before
    assert durable.sha256_of(file) == hashlib.sha256(b"abd").hexdigest()


def test_sha256_of_file_changed_a_moment_ago_is_read_again(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    written_ns = file.stat().st_mtime_ns
    durable.sha256_of(file, cached=True)
    file.write_bytes(b"abd")
    os.utime(file, ns=(written_ns, written_ns))
    assert durable.sha256_of(file, cached=True) == hashlib.sha256(b"abd").hexdigest()


JSON_VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
                           lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3), max_leaves=8)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda key: key != "seal"), JSON_VALUES, max_size=4))
def test_seal_any_document_read_back_holds(document):
    assert durable.seal_holds(json.loads(durable.to_json(durable.seal(document), allow_nan=True)))


def test_seal_one_number_changed_is_broken():
    sealed = durable.seal({"scorecard": {"accuracy": 0.25}, "files": {}})
    sealed["scorecard"]["accuracy"] = 0.75
    assert not durable.seal_holds(sealed)


def test_seal_absent_is_broken():
    assert not durable.seal_holds({"scorecard": {}})
