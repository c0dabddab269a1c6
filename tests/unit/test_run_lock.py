"""One holder a run folder; a dead one's lock is taken over."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experts.run_lock import RunLock, RunLocked

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import os, sys
from pathlib import Path
from experts.run_lock import RunLock
with RunLock(Path(sys.argv[1])):
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


def hold_elsewhere(run_dir: Path) -> tuple[subprocess.Popen[str], int]:
    """The process, and the holder's number: on Windows the interpreter of a virtual environment is a child of what was started."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_run_lock_held_by_another_process_is_refused_with_its_pid(tmp_path):
    process, pid = hold_elsewhere(tmp_path / "run")
    try:
        with pytest.raises(RunLocked, match=f"is in use by process {pid} .*choose another folder with --run DIR") as caught, RunLock(tmp_path / "run"):
            pytest.fail("two holders")
        assert caught.value.pid == pid
    finally:
        process.communicate()


def test_run_lock_twice_in_one_process_is_refused(tmp_path):
    with RunLock(tmp_path), pytest.raises(RunLocked, match=f"process {os.getpid()}"), RunLock(tmp_path):
        pytest.fail("two holders")


def test_run_lock_released_is_free_again_and_leaves_no_note(tmp_path):
    for _ in range(2):
        with RunLock(tmp_path):
            assert json.loads((tmp_path / "run.pid.json").read_text())["pid"] == os.getpid()
        assert not (tmp_path / "run.pid.json").exists()


def test_run_lock_body_fails_it_is_released(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), RunLock(tmp_path):
        raise RuntimeError("stop")
    with RunLock(tmp_path):
        assert (tmp_path / "run.pid.json").exists()


def test_run_lock_of_a_killed_process_is_taken_over_and_said(tmp_path, caplog):
    process, pid = hold_elsewhere(tmp_path / "run")
    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows SIGTERM ends a process at once
    process.communicate()
    with caplog.at_level(logging.WARNING), RunLock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / "run.pid.json").read_text())["pid"] == os.getpid()
    assert f"left by process {pid} without a clean end; taken over" in caplog.text


def test_run_lock_holder_note_is_torn_refused_without_a_number(tmp_path):
    with RunLock(tmp_path):
        (tmp_path / "run.pid.json").write_text('{"pid": 12')
        with pytest.raises(RunLocked, match="a process that left no number") as caught, RunLock(tmp_path):
            pytest.fail("two holders")
    assert caught.value.pid is None
