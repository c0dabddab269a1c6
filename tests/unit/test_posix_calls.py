"""Windows is a first home: a call that only POSIX has stands beside its Windows branch."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from settings import HOME

POSIX_ONLY = {
    "os": {"fork", "forkpty", "kill", "killpg", "setsid", "setpgid", "getpgid", "getpgrp", "geteuid", "getuid", "setuid", "uname", "mkfifo", "sync", "nice",
           "sched_setaffinity", "sched_getaffinity", "posix_fadvise", "posix_fallocate", "wait", "waitid", "fchmod", "fchown", "O_DIRECTORY", "O_NOFOLLOW",
           "chown", "lchown", "statvfs", "sysconf", "getloadavg", "WIFEXITED", "pidfd_open"},
    "signal": {"SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE", "SIGQUIT", "alarm", "setitimer", "pause", "pthread_sigmask"},
    "select": {"poll", "epoll"},
    "socket": {"AF_UNIX", "SO_REUSEPORT"},
    "time": {"tzset", "pthread_getcpuclockid"},
}
POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "crypt", "posix", "syslog", "readline"}
POSIX_ARGUMENTS = {"preexec_fn", "start_new_session", "process_group", "pass_fds"}
BRANCH = ("os.name", "sys.platform", "platform.system", "hasattr(", "getattr(", "except ImportError", "except (ImportError", "suppress(ImportError")
SOURCES = sorted(path for path in [*HOME.glob("*.py"), *(path for room in ("experts", "data_prep", "routing", "training", "serving", "benchmarks")
                                                        for path in (HOME / room).rglob("*.py"))])


def posix_uses(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names and lines of what Windows lacks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in POSIX_ONLY.get(node.value.id, ()):
            yield f"{node.value.id}.{node.attr}", node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in POSIX_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in POSIX_MODULES:
            yield str(node.module), node.lineno
        elif isinstance(node, ast.keyword) and node.arg in POSIX_ARGUMENTS:
            yield node.arg, node.value.lineno


def moves_and_colours(text: str) -> list[str]:
    """What Windows does another way and one place does for all: moving files that may be open, fsync, colours of a console."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            moves = (of, node.func.attr) in {("os", "replace"), ("os", "rename"), ("os", "renames"), ("os", "fsync"), ("shutil", "move")}
            of_path = node.func.attr in ("replace", "rename") and len(node.args) == 1 and not node.keywords and of != "dataclasses"
            found += [f"{node.func.attr} at line {node.lineno}"] if moves or of_path else []
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\x1b[" in node.value:
            found.append(f"escape sequence at line {node.lineno}")
    return found


def unguarded(text: str) -> list[str]:
    """Uses that stand in a function (or at the top of a file) without a branch for Windows."""
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = []
    for name, line in posix_uses(tree):
        around = [node for node in functions if node.lineno <= line <= (node.end_lineno or line)]
        scope = ast.get_source_segment(text, around[0]) if around else text.partition("\ndef ")[0]
        if not any(branch in (scope or "") for branch in BRANCH):
            found.append(f"{name} at line {line}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(HOME).as_posix())
def test_posix_calls_have_a_windows_branch(path: Path) -> None:
    assert unguarded(path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path != HOME / "experts" / "durable.py"], ids=lambda path: path.relative_to(HOME).as_posix())
def test_files_are_moved_and_synced_by_durable_alone_and_colours_are_left_to_rich(path: Path) -> None:
    assert moves_and_colours(path.read_text("utf-8")) == []


def test_moves_fsync_and_colours_are_found_and_replacing_text_is_not() -> None:
    assert moves_and_colours("import os\nos.replace(a, b)\npath.rename(b)\nos.fsync(1)\nx = '\\x1b[31m'\n") == [
        "replace at line 2", "rename at line 3", "fsync at line 4", "escape sequence at line 5"]
    assert moves_and_colours("'a'.replace('a', 'b')\nimport dataclasses\ndataclasses.replace(x, y=1)\n") == []


def test_posix_calls_without_a_branch_are_found_and_with_one_are_not() -> None:
    assert unguarded("import os\ndef f():\n    os.killpg(1, 9)\n") == ["os.killpg at line 3"]
    assert unguarded("import os\ndef f():\n    if os.name == 'posix':\n        os.killpg(1, 9)\n") == []
    assert unguarded("import fcntl\n") == ["fcntl at line 1"]
    assert unguarded("import subprocess\ndef f():\n    subprocess.run([], preexec_fn=print)\n") == ["preexec_fn at line 3"]
