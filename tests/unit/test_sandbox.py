"""The sandbox: what passes, what is stopped, what is refused, and that nothing is left behind."""

from __future__ import annotations

import ctypes
import struct
import sys
import time
from pathlib import Path

import pytest

from data_prep import sandbox, windows_job
from data_prep.records import Example
from data_prep.sandbox import Limits, run, run_all
from training.graders import Grade, grade

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="limits that the child sets itself exist on POSIX only")


def test_run_program_that_ends_passes_with_its_output() -> None:
    result = run("print(6 * 7)")
    assert (result.outcome, result.output) == ("passed", "42\n")


def test_run_failed_assertion_fails_and_shows_it() -> None:
    result = run("assert 1 + 1 == 3")
    assert result.outcome == "failed"
    assert "AssertionError" in result.output


@pytest.mark.parametrize("program", ["import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit", "exit(0)", "def f(:"])
def test_run_program_that_leaves_before_its_end_fails(program: str) -> None:
    assert run(f"{program}\nassert False").outcome == "failed"


def test_run_endless_sleep_times_out_at_the_wall_limit() -> None:
    started = time.perf_counter()
    assert run("import time\ntime.sleep(60)", limits=Limits(wall_s=0.5)).outcome == "timeout"
    assert time.perf_counter() - started < 10


def test_run_endless_loop_times_out_at_the_cpu_limit() -> None:
    assert run("while True: pass", limits=Limits(cpu_s=1, wall_s=60)).outcome == "timeout"


def test_run_too_much_memory_fails() -> None:
    assert run("x = bytearray(2**30)", limits=Limits(memory_bytes=256 * 2**20)).outcome == "failed"


@POSIX
def test_run_too_much_memory_says_memory_error() -> None:
    assert "MemoryError" in run("x = bytearray(2**30)", limits=Limits(memory_bytes=256 * 2**20)).output


def test_run_whose_job_windows_refuses_fails_with_the_reason_and_says_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refused(*_arguments: object) -> None:
        raise windows_job.JobError("CreateJobObject failed with Windows error 5; code tasks can't be graded here")

    monkeypatch.setattr(sandbox, "_start", refused)
    assert run("print(1)") == sandbox.Result("failed", "CreateJobObject failed with Windows error 5; code tasks can't be graded here")
    assert "code tasks can't be graded here" in caplog.text
    task = Example("code", "Write f.", "def f():\n    return 1", "mbpp", "key", {"test_list": ["assert f() == 1"]})
    assert grade(task, task.response) == Grade(0.0, correct=False)


@POSIX
def test_run_large_file_fails() -> None:
    result = run("open('large', 'wb').write(b'x' * 2_000_000)")
    assert result.outcome == "failed"
    assert "File too large" in result.output


@pytest.mark.parametrize("program", [
    "import subprocess, sys; subprocess.run([sys.executable, '-c', ''])",
    "import os; os.system('echo')",
    "import socket; socket.create_connection(('127.0.0.1', 9))",
    "import socket; socket.gethostbyname('localhost')",
    "import ctypes; ctypes.CDLL(None)",
    "import _ctypes",
])
def test_run_process_socket_or_library_is_refused(program: str) -> None:
    result = run(program)
    assert result.outcome == "failed"
    assert "the sandbox refuses" in result.output


@POSIX
def test_run_fork_is_refused() -> None:
    assert "the sandbox refuses os.fork" in run("import os; os.fork()").output


@POSIX
def test_run_fork_exec_below_subprocess_is_refused(tmp_path: Path) -> None:
    program = f"""
import os, _posixsubprocess
command = [b"/bin/sh", b"-c", b"echo > {tmp_path}/made"]
nothing = [-1] * 6
child = _posixsubprocess.fork_exec(command, command[:1], True, (), None, None, *nothing, *os.pipe(), False, False, 0, None, None, None, -1, None, True)
os.waitpid(child, 0)
"""
    assert "the sandbox refuses" in run(program).output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", [
    "import sqlite3; sqlite3.connect('{}/made').execute('create table a(b)')",
    pytest.param("import os; os.mkfifo('{}/made')", marks=POSIX),
    pytest.param("import os; os.mknod('{}/made')", marks=POSIX),
    pytest.param("import posix; posix.mkfifo('{}/made')", marks=POSIX),
    "import os; os.mkdir('{}/made')",
    "import os, pathlib; os.mkdir(pathlib.Path('{}/made'))",
    pytest.param("import os; os.mkdir('made', dir_fd=os.open('{}', os.O_RDONLY))", marks=POSIX),
    pytest.param("import os; os.open('made', os.O_CREAT | os.O_WRONLY, dir_fd=os.open('{}', os.O_RDONLY))", marks=POSIX),
    pytest.param("import os; open('a', 'w').close(); os.rename('a', 'made', dst_dir_fd=os.open('{}', os.O_RDONLY))", marks=POSIX),
])
def test_run_file_outside_its_folder_is_not_made(program: str, tmp_path: Path) -> None:
    result = run(program.format(tmp_path.as_posix()))
    assert "the sandbox refuses" in result.output
    assert list(tmp_path.iterdir()) == []


@POSIX
@pytest.mark.parametrize("call", ["remove('victim'", "utime('victim', (1, 1)", "rename('victim', 'b', src_dir_fd=fd, dst_dir_fd=fd", "rmdir('folder'"])
def test_run_name_below_a_folder_outside_is_left_alone(call: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "victim").write_text("kept", encoding="utf-8")
    before = (tmp_path / "victim").stat().st_mtime_ns
    named = "" if "dir_fd" in call else ", dir_fd=fd"
    assert "the sandbox refuses" in run(f"import os\nfd = os.open({str(tmp_path)!r}, os.O_RDONLY)\nos.{call}{named})").output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "victim"]
    assert (tmp_path / "victim").stat().st_mtime_ns == before


def test_run_folders_of_its_own_can_be_made_and_removed() -> None:
    program = """
import os, shutil, tempfile
os.makedirs("a/b")
open("a/b/file", "w").close()
shutil.rmtree("a")
with tempfile.TemporaryDirectory(dir=".") as folder:
    open(os.path.join(folder, "file"), "w").close()
assert os.listdir() == []
"""
    result = run(program)
    assert result.outcome == "passed", result.output


@POSIX
def test_run_shared_memory_is_refused() -> None:
    assert "the sandbox refuses" in run("from multiprocessing import shared_memory as m; m.SharedMemory(create=True, size=1).unlink()").output


@POSIX
def test_run_limits_are_not_changed() -> None:
    assert "the sandbox refuses" in run("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))").output


def test_run_modules_that_could_make_processes_or_sockets_may_be_imported() -> None:
    assert run("import subprocess, socket, asyncio, multiprocessing, tempfile, concurrent.futures").outcome == "passed"


def test_run_time_of_a_file_outside_its_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    before = (tmp_path / "file").stat().st_mtime_ns
    assert run(f"import os; os.utime({str(tmp_path / 'file')!r}, (1, 1))").outcome == "failed"
    assert (tmp_path / "file").stat().st_mtime_ns == before


def test_run_file_outside_its_folder_is_neither_written_nor_removed(tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("kept", encoding="utf-8")
    written, removed = run(f"open({str(victim)!r}, 'w')"), run(f"import os; os.remove({str(victim)!r})")
    assert (written.outcome, removed.outcome, victim.read_text(encoding="utf-8")) == ("failed", "failed", "kept")


def test_run_has_an_empty_folder_of_its_own_that_is_gone_afterwards() -> None:
    result = run("import os\nassert os.listdir() == []\nopen('a', 'w').write('x')\nprint(os.getcwd())")
    assert result.outcome == "passed"
    assert not Path(result.output.strip()).exists()


def test_run_passes_no_environment_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "value")
    assert run("import os\nassert 'A_SECRET' not in os.environ and 'PATH' not in os.environ").outcome == "passed"


def test_run_much_output_is_cut() -> None:
    assert len(run("print('x' * 100_000)", limits=Limits(output_bytes=1000)).output) == 1000


def test_run_has_no_input_to_wait_for() -> None:
    assert "EOFError" in run("input()").output


def test_run_lone_surrogate_in_a_program_fails_without_raising() -> None:
    assert run("x = '\ud800'").outcome == "failed"


def test_run_all_keeps_the_order_of_the_programs() -> None:
    results = run_all(["assert True", "assert False", "print('third')"], workers=3)
    assert [result.outcome for result in results] == ["passed", "failed", "passed"]
    assert results[2].output == "third\n"


@pytest.mark.skipif(struct.calcsize("P") != 8, reason="the documented sizes are those of 64-bit Windows")
def test_job_limits_have_the_sizes_that_windows_documents() -> None:
    # JOBOBJECT_BASIC_LIMIT_INFORMATION 64 bytes, JOBOBJECT_EXTENDED_LIMIT_INFORMATION 144 bytes; SetInformationJobObject refuses others.
    assert ctypes.sizeof(windows_job._BasicLimits) == 64
    assert ctypes.sizeof(windows_job._ExtendedLimits) == 144
