"""Runs generated Python away from this process: own interpreter, limits, empty folder, no environment, one deadline.

On Linux and macOS the child limits itself (CPU time, memory, processes, file size) before it runs a line of the program; on
Windows a job object does (memory, one process, CPU time, killed with the job). It is a fence against accidents and loops of
a model's code, not against an attacker: it doesn't hide files that the user may read, and it doesn't cut the network off.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Literal

if sys.platform == "win32":
    from data_prep import windows_job

Outcome = Literal["passed", "failed", "timeout"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. cpu_s and wall_s in seconds, the others in bytes; processes counts the program's own."""

    wall_s: float = 4.0
    cpu_s: int = 2
    memory_bytes: int = 512 * 2**20
    file_bytes: int = 2**20
    output_bytes: int = 64 * 2**10


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended. output: the start of what it wrote, at most Limits.output_bytes."""

    outcome: Outcome
    exit_code: int
    output: str


# The child's first lines. No process may be started (RLIMIT_NPROC counts the user's, and root is exempt, so fork and exec
# are also refused by an audit hook, which nothing can take away again).
_CHILD = """
import json, sys
request = json.load(sys.stdin)
try:
    import resource
except ImportError:
    resource = None
if resource is not None:
    for name, value in request["limits"].items():
        if hasattr(resource, name):
            hard = resource.getrlimit(getattr(resource, name))[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(getattr(resource, name), (value, value))
refused = ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.startfile", "subprocess.Popen", "socket.connect", "socket.bind",
           "ctypes.dlopen", "os.kill", "os.killpg")
def watch(event, arguments):
    if event in refused:
        raise PermissionError("the sandbox refuses " + event)
sys.addaudithook(watch)
exec(compile(request["program"], "program.py", "exec"), {"__name__": "__main__"})
"""


def run(program: str, *, limits: Limits | None = None) -> Result:
    """Run one program to its end or its limits. passed: exit code 0. Never raises for what the program does."""
    limits = limits or Limits()
    request = json.dumps({"program": program, "limits": {
        "RLIMIT_CPU": limits.cpu_s, "RLIMIT_AS": limits.memory_bytes, "RLIMIT_FSIZE": limits.file_bytes, "RLIMIT_CORE": 0, "RLIMIT_NPROC": 0,
        "RLIMIT_NOFILE": 32}})
    with tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder, tempfile.TemporaryFile() as output:
        process = _start(folder, output, limits)
        timed_out = False
        try:
            process.communicate(request.encode(), timeout=limits.wall_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            _kill_all(process)
            process.wait()
        output.seek(0)
        text = output.read(limits.output_bytes).decode("utf-8", "replace")
    if timed_out or (os.name == "posix" and process.returncode == -signal.SIGXCPU):
        return Result("timeout", process.returncode, text)
    return Result("passed" if process.returncode == 0 else "failed", process.returncode, text)


def run_all(programs: Sequence[str], *, limits: Limits | None = None, workers: int | None = None) -> list[Result]:
    """run() for many programs, as many side by side as there are cores, in the order given."""
    with ThreadPoolExecutor(max_workers=workers or min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda program: run(program, limits=limits), programs))


def _start(folder: str, output: IO[bytes], limits: Limits) -> subprocess.Popen[bytes]:
    """The child, waiting for its program, in a process group (Windows: a job) of its own."""
    # Windows can't start Python without SYSTEMROOT; nothing else of the environment is passed on.
    environment = {"SYSTEMROOT": os.environ.get("SYSTEMROOT", r"C:\Windows")} if os.name == "nt" else {}
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _CHILD]
    if sys.platform == "win32":
        return windows_job.start(command, folder=folder, output=output, environment=environment, memory_bytes=limits.memory_bytes, cpu_s=limits.cpu_s)
    return subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        windows_job.end(process)
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


