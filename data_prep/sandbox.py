"""Runs generated Python away from this process: own interpreter, limits, empty folder, no environment, one deadline.

On Linux and macOS the child limits itself (CPU time, memory, processes, file size) before it runs a line of the program; on
Windows a job object does (memory, one process, CPU time; killed with the job). No limit on processes binds root. An audit hook
refuses processes, connections and changes of files outside the folder, and modules that make such without telling it. A fence
against accidents and loops of a model's code, not against an attacker: what the user may read, the program may read too.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Literal

from data_prep import windows_job

log = logging.getLogger(__name__)

Outcome = Literal["passed", "failed", "timeout"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. output_bytes is what is kept of its output; file_bytes bounds every file, the output too (not on Windows).

    cpu_s ends loops. wall_s is for programs that wait, and long: on a busy machine one that counts to three may stand in line for seconds.
    """

    wall_s: float = 20.0
    cpu_s: int = 2
    memory_bytes: int = 512 * 2**20
    file_bytes: int = 2**20
    output_bytes: int = 16 * 2**10


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended: passed only if its last line was reached (but see _CHILD). output: the start of what it wrote, errors included."""

    outcome: Outcome
    output: str


# What the child does before and after the program. Its exit code, drawn anew each time, says that the last line was reached: so neither
# exit(0) nor os._exit(0) in front of the tests passes them. A program that looks for the code in the frames of its callers finds it:
# this keeps apart who ran to the end and who left early, and doesn't stop a cheat.
_CHILD = r"""
import json, os, sys, types
request = json.load(sys.stdin)
try:
    import resource
except ImportError:  # Windows: the job object limits
    resource = None
for name, (soft, hard) in request["limits"].items() if resource is not None else ():
    try:
        most = resource.getrlimit(getattr(resource, name))[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(getattr(resource, name), (soft, hard))
    except (AttributeError, ValueError, OSError):  # a limit that this system doesn't have
        pass
folder = os.path.realpath(os.getcwd()) + os.sep
refused = ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.startfile", "os.kill", "os.killpg", "subprocess.Popen",
           "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto", "socket.sendmsg",
           "socket.getnameinfo", "socket.sethostname", "resource.setrlimit", "resource.prlimit", "os.chmod", "os.chown", "os.link", "os.symlink",
           "winreg.OpenKey", "os.putenv")
modules = ("_ctypes", "_sqlite3", "_dbm", "_gdbm", "_multiprocessing", "_posixshmem")  # what they do raises no event, or not always (ATTACH)
changes = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.utime", "os.setxattr", "os.removexattr",
           "shutil.rmtree", "shutil.move", "shutil.copyfile")
descriptors = {"os.mkdir": slice(2, 3), "os.remove": slice(1, 2), "os.rmdir": slice(1, 2), "os.rename": slice(2, 4), "os.utime": slice(3, 4)}  # dir_fd
def refuse(*_arguments, **_named):
    raise PermissionError("the sandbox refuses this call")
try:
    import _posixsubprocess, posix
except ImportError:  # Windows
    pass
else:  # calls without an event
    _posixsubprocess.fork_exec = os.mkfifo = posix.mkfifo = os.mknod = posix.mknod = refuse
    plain = posix.open
    def opened(path, flags, mode=0o777, *, dir_fd=None):  # the event doesn't tell the folder that a name is looked up in
        return refuse() if dir_fd is not None else plain(path, flags, mode)
    os.open = posix.open = opened
    os.supports_dir_fd.clear()  # so that shutil.rmtree walks by paths
def inside(path):
    return not isinstance(path, (str, bytes)) or os.path.realpath(os.fsdecode(path)).startswith(folder)
def watch(event, arguments):
    if event in refused:
        raise PermissionError("the sandbox refuses " + event)
    if event == "import" and arguments[0] in modules:
        raise ImportError("the sandbox refuses to import " + arguments[0])
    if event in descriptors and any(folder_fd != -1 for folder_fd in arguments[descriptors[event]]):
        raise PermissionError("the sandbox refuses dir_fd")
    if event in changes and not all(inside(path) for path in arguments[:2]):
        raise PermissionError("the sandbox refuses changes outside its folder")
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND) and not inside(arguments[0]):
        raise PermissionError("the sandbox refuses writing outside its folder")
def main(program, done):
    sys.addaudithook(watch)
    module = sys.modules["program"] = types.ModuleType("program")  # not __main__: a script may wait for input; registered, as dataclasses look it up
    exec(compile(program, "program.py", "exec"), module.__dict__)
    sys.stdout.flush()
    os._exit(done)
main(request.pop("program"), request.pop("done"))
"""


def run(program: str, *, limits: Limits | None = None) -> Result:
    """Run one program to its end or its limits, as a module: what stands below `if __name__ == "__main__":` isn't run.

    Never raises for what it does; failed, and not run, where Windows refuses its job."""
    limits = limits or Limits()
    done = 32 + secrets.randbelow(64)
    request = json.dumps({"program": program, "done": done, "limits": _resource_limits(limits)})
    timed_out = False
    with tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder, tempfile.TemporaryFile() as output:
        try:
            process = _start(folder, output, limits)
        except windows_job.JobError as error:
            log.error("%s", error)
            return Result("failed", str(error))
        try:
            process.communicate(request.encode("utf-8", "surrogatepass"), timeout=limits.wall_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            _kill_all(process)
            process.wait()
        output.seek(0)
        text = output.read(limits.output_bytes).decode("utf-8", "replace")
    if timed_out or _ran_out_of_cpu(process.returncode):
        return Result("timeout", text)
    return Result("passed" if process.returncode == done else "failed", text)


def run_all(programs: Sequence[str], *, limits: Limits | None = None, workers: int | None = None) -> list[Result]:
    """run() for many programs, by default as many side by side as there are cores; results in the order given."""
    with ThreadPoolExecutor(max_workers=workers or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda program: run(program, limits=limits), programs))


def _resource_limits(limits: Limits) -> dict[str, tuple[int, int]]:
    """(soft, hard) by the name in module resource. The CPU limit ends the program at the soft one, for certain at the hard one."""
    hard = {"RLIMIT_AS": limits.memory_bytes, "RLIMIT_FSIZE": limits.file_bytes, "RLIMIT_CORE": 0, "RLIMIT_NPROC": 0, "RLIMIT_NOFILE": 32}
    return {"RLIMIT_CPU": (limits.cpu_s, limits.cpu_s + 1), **{name: (value, value) for name, value in hard.items()}}


def _ran_out_of_cpu(exit_code: int) -> bool:
    """Whether the system ended the child at its CPU limit."""
    if sys.platform == "win32":
        return exit_code == windows_job.OUT_OF_TIME
    return exit_code in (-signal.SIGXCPU, -signal.SIGKILL)


def _start(folder: str, output: IO[bytes], limits: Limits) -> subprocess.Popen[bytes]:
    """The child, waiting for its program, in a process group (Windows: a job) of its own."""
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _CHILD]
    if sys.platform == "win32":
        # A venv's python.exe starts the real one as a second process, which the job doesn't allow; -I -S needs no venv anyway.
        command[0] = getattr(sys, "_base_executable", sys.executable)
        # Windows can't start Python without SYSTEMROOT; nothing else of the environment is passed on.
        environment = {"SYSTEMROOT": os.environ.get("SYSTEMROOT", r"C:\Windows")}
        return windows_job.start(command, folder=folder, output=output, environment=environment, memory_bytes=limits.memory_bytes, cpu_s=limits.cpu_s)
    return subprocess.Popen(command, cwd=folder, env={}, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        windows_job.end(process)
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
