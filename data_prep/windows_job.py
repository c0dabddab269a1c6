"""A process inside a Windows job object: memory, CPU time and process count limited, and everything killed with the job.

Only for sandbox.py on Windows. Written from Microsoft's documentation of JOBOBJECT_EXTENDED_LIMIT_INFORMATION.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, Any

_ACTIVE_PROCESS, _PROCESS_MEMORY, _JOB_TIME, _KILL_ON_CLOSE, _DIE_ON_UNHANDLED = 0x8, 0x100, 0x4, 0x2000, 0x400
_EXTENDED_LIMIT_INFORMATION = 9
_CREATE_SUSPENDED, _NO_WINDOW = 0x4, 0x08000000
_TICKS_A_SECOND = 10_000_000
OUT_OF_TIME = 1816  # ERROR_NOT_ENOUGH_QUOTA: the exit code of a process whose job has used up its time


class _BasicLimits(ctypes.Structure):
    _fields_ = (("per_process_user_time", ctypes.c_int64), ("per_job_user_time", ctypes.c_int64), ("flags", ctypes.c_uint32),
                ("minimum_working_set", ctypes.c_size_t), ("maximum_working_set", ctypes.c_size_t), ("active_processes", ctypes.c_uint32),
                ("affinity", ctypes.c_size_t), ("priority_class", ctypes.c_uint32), ("scheduling_class", ctypes.c_uint32))


class _ExtendedLimits(ctypes.Structure):
    _fields_ = (("basic", _BasicLimits), ("io_counters", ctypes.c_uint64 * 6), ("process_memory", ctypes.c_size_t), ("job_memory", ctypes.c_size_t),
                ("peak_process_memory", ctypes.c_size_t), ("peak_job_memory", ctypes.c_size_t))


class JobError(OSError):
    """Windows refused the job object that fences generated code in; nothing was run."""


def start(command: Sequence[str], *, folder: str, output: IO[bytes], environment: Mapping[str, str], memory_bytes: int, cpu_s: int) -> subprocess.Popen[bytes]:
    """A process that is in its job before it runs one instruction. Raises JobError when Windows refuses the job."""
    kernel = _kernel()
    job = kernel.CreateJobObjectW(None, None)
    if not job:
        raise _refused("CreateJobObject")
    limits = _ExtendedLimits()
    limits.basic.flags = _ACTIVE_PROCESS | _PROCESS_MEMORY | _JOB_TIME | _KILL_ON_CLOSE | _DIE_ON_UNHANDLED
    limits.basic.active_processes, limits.basic.per_job_user_time, limits.process_memory = 1, cpu_s * _TICKS_A_SECOND, memory_bytes
    process = None
    try:
        if not kernel.SetInformationJobObject(job, _EXTENDED_LIMIT_INFORMATION, ctypes.byref(limits), ctypes.sizeof(limits)):
            raise _refused("SetInformationJobObject")
        process = subprocess.Popen(command, cwd=folder, env=dict(environment), stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
                                   creationflags=_CREATE_SUSPENDED | _NO_WINDOW)
        handle = int(process._handle)  # type: ignore[attr-defined]  # the only way to the handle that Popen holds
        if not kernel.AssignProcessToJobObject(job, handle):
            raise _refused("AssignProcessToJobObject")
        _resume(handle)
    except JobError:
        if process is not None:
            process.kill()
        kernel.CloseHandle(job)
        raise
    process.job = job  # type: ignore[attr-defined]
    return process


def _refused(call: str) -> JobError:
    number = ctypes.get_last_error()  # type: ignore[attr-defined,unused-ignore]
    return JobError(f"{call} failed with Windows error {number}; generated code isn't run without its job, so code tasks can't be graded here")


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever still runs in the job and close it."""
    kernel = _kernel()
    kernel.TerminateJobObject(process.job, 1)  # type: ignore[attr-defined]
    kernel.CloseHandle(process.job)  # type: ignore[attr-defined]


def _kernel() -> Any:
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]
    kernel.CreateJobObjectW.restype = ctypes.c_void_p
    for name in ("SetInformationJobObject", "AssignProcessToJobObject", "TerminateJobObject", "CloseHandle"):
        getattr(kernel, name).restype = ctypes.c_int
    kernel.SetInformationJobObject.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32)
    kernel.AssignProcessToJobObject.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    kernel.TerminateJobObject.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    kernel.CloseHandle.argtypes = (ctypes.c_void_p,)
    return kernel


def _resume(handle: int) -> None:
    """Let a suspended process run. Popen closes the handle of its first thread, so the process as a whole is resumed."""
    resume = ctypes.WinDLL("ntdll").NtResumeProcess  # type: ignore[attr-defined,unused-ignore]
    resume.argtypes, resume.restype = (ctypes.c_void_p,), ctypes.c_long
    status = resume(handle)
    if status < 0:
        raise JobError(f"NtResumeProcess failed with status {status:#x}")
