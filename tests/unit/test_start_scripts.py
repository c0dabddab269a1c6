"""The start scripts: static rules for both, the batch file under cmd.exe (Windows, or Wine where it is installed), the shell script under sh.

Pythons and installations are stand-ins: what is tested is what the scripts start, in which order, and what they say.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from settings import HOME

BATCH, SHELL = HOME / "START_TRAINING.bat", HOME / "start_training.sh"
CMD = ["cmd"] if sys.platform == "win32" else ["wine", "cmd"]
cmd_is_here = pytest.mark.skipif(shutil.which(CMD[0]) is None, reason="wine isn't installed here")
sh_is_here = pytest.mark.skipif(sys.platform == "win32", reason="the shell script is for Linux and macOS")

# What "py", "python" and the interpreter of .venv do, by arguments; each call is noted with its arguments.
STANDIN_BATCH = """@echo off
>>"%CALLS%" echo {name} %*
if "%~2"=="-c" goto version
if "%~1"=="-c" goto version
if "%~2"=="experts\\installation.py" goto install
if "%~1"=="experts\\installation.py" goto install
exit /b %START%
:version
if "%~1"=="-3.12" exit /b %PY312%
if "%~1"=="-3.11" exit /b %PY311%
exit /b 1
:install
if defined DRIVER goto real
if not "%INSTALL%"=="0" exit /b %INSTALL%
if not exist .venv\\Scripts mkdir .venv\\Scripts
copy "%STANDINS%\\venv_python.bat" .venv\\Scripts\\python.bat >nul
exit /b 0
:real
del "%STANDINS%\\done.bat" 2>nul
%LAUNCH% "%HOST%" "%DRIVER%"
:wait
if not exist "%STANDINS%\\done.bat" goto wait
type "%STANDINS%\\said.txt"
call "%STANDINS%\\done.bat"
exit /b %CODE%
"""

# experts/installation.py itself, as Windows would run it; stand-ins are the venv module, pip and the display adapters.
DRIVER = """
import os, shutil, sys
from pathlib import Path
sys.path.insert(0, {home!r})
from experts import installation
project, standins = Path({project!r}), Path({standins!r})
said = []
installation.venv_python = lambda folder: folder / "Scripts" / "python.bat"

def make_venv(folder):
    (folder / "Scripts").mkdir(parents=True)
    shutil.copy(standins / "venv_python.bat", folder / "Scripts" / "python.bat")

def run(command):
    if "pip" not in command:
        return 0
    with (standins / "calls.txt").open("a", encoding="utf-8") as file:
        print("pip", *command[5:], file=file)
    return int(any(word in " ".join(command) for word in os.environ["BROKEN"].split()))

done = installation.install(project, system="Windows", adapters=["AMD Radeon RX 6600"], make_venv=make_venv, run=run, say=said.append)
(standins / "said.txt").write_text("".join(line + "\\r\\n" for line in said), encoding="utf-8")
(standins / "done.part").write_text(f"set CODE={{0 if done else 1}}\\r\\n", encoding="ascii")
(standins / "done.part").rename(standins / "done.bat")
"""


def test_batch_file_has_crlf_line_ends_and_is_ascii() -> None:
    raw = BATCH.read_bytes()
    assert raw.count(b"\n") == raw.count(b"\r\n") > 40
    assert raw.isascii()


def test_gitattributes_keep_crlf_for_batch_files_and_lf_for_the_rest() -> None:
    lines = (HOME / ".gitattributes").read_text("utf-8").splitlines()
    assert "*.bat text eol=crlf" in lines
    assert "* text=auto eol=lf" in lines


def test_batch_file_looks_at_the_exit_code_after_every_program() -> None:
    lines = [line.strip() for line in BATCH.read_text("ascii").splitlines() if line.strip()]
    programs = [number for number, line in enumerate(lines) if re.match(r"(pushd|call (?!:))", line)]
    assert len(programs) == 4
    assert all("errorlevel" in lines[number + 1] for number in programs)


def test_batch_file_quotes_paths_and_every_label_exists() -> None:
    text = BATCH.read_text("ascii")
    assert 'pushd "%~dp0"' in text
    assert not re.search(r'(?<!")\.venv\\Scripts\\python(?!")(?! -m experts doctor)', text)
    labels = set(re.findall(r"^:(\w+)", text, re.MULTILINE))
    assert set(re.findall(r"(?:goto |call :)(\w+)", text)) <= labels


def test_batch_file_gives_a_reason_wherever_it_fails_and_pauses() -> None:
    lines = BATCH.read_text("ascii").splitlines()
    assert all("REASON=" in line for line in lines if "goto failed" in line)
    assert lines.index("pause") > lines.index(":failed")


@sh_is_here
def test_shell_script_has_no_syntax_error_and_may_be_run() -> None:
    assert subprocess.run(["sh", "-n", str(SHELL)], check=False).returncode == 0
    assert os.access(SHELL, os.X_OK)


@pytest.fixture(scope="session")
def wine_prefix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    prefix = tmp_path_factory.mktemp("wine")
    if sys.platform == "win32":
        yield prefix
        return
    environment = {**os.environ, "WINEPREFIX": str(prefix), "WINEDEBUG": "-all", "WINEARCH": "win64"}
    subprocess.run(["wine", "cmd", "/c", "exit 0"], env=environment, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=240)
    yield prefix
    subprocess.run(["wineserver", "-k"], env=environment, check=False, timeout=60)


class Windows:
    """A folder with the batch file, a Windows with or without Python, and a list of the calls made."""

    def __init__(self, folder: Path, prefix: Path, *, standins: Path) -> None:
        self.folder, self.standins = folder, standins
        folder.mkdir(parents=True)
        standins.mkdir()
        shutil.copy(BATCH, folder)
        for name in ("py", "venv_python"):
            text = STANDIN_BATCH.replace("{name}", name)
            (standins / f"{name}.bat").write_bytes(text.replace("\n", "\r\n").encode("ascii"))
        (folder / "pyproject.toml").write_text("[project]", encoding="utf-8")
        (standins / "driver.py").write_text(DRIVER.format(home=str(HOME), project=str(folder), standins=str(standins)), encoding="utf-8")
        self.calls_file = standins / "calls.txt"
        self.environment = {**os.environ, "WINEPREFIX": str(prefix), "WINEDEBUG": "-all", "LC_ALL": "C.UTF-8", "CALLS": self._dos(self.calls_file),
                            "STANDINS": self._dos(standins), "PY312": "0", "PY311": "0", "INSTALL": "0", "START": "0"}

    @staticmethod
    def _dos(path: Path) -> str:
        return str(path) if sys.platform == "win32" else "Z:" + str(path).replace("/", "\\")

    def really_install(self, *arguments: str, broken: str = "", answer: str = "") -> tuple[int, str, list[str]]:
        """As start(), with the installation itself between; broken: pip fails where its arguments have one of these words."""
        return self.start(*arguments, answer=answer, HOST=sys.executable, DRIVER=str(self.standins / "driver.py"), BROKEN=broken,
                          LAUNCH='start "" /unix' if CMD[0] == "wine" else "")

    def start(self, *arguments: str, answer: str = "", python: bool = True, **changes: str) -> tuple[int, str, list[str]]:
        """Exit code, output, calls of the stand-ins. changes: exit codes of PY312, PY311, INSTALL, START."""
        self.calls_file.unlink(missing_ok=True)
        path = ";".join([*([self._dos(self.standins)] if python else []), "C:\\windows\\system32"])  # py.exe lies in C:\\windows
        environment = {**self.environment, **changes, **({"PATH": path} if sys.platform == "win32" else {"WINEPATH": path})}
        done = subprocess.run([*CMD, "/c", "call", BATCH.name, *arguments], env=environment, capture_output=True,
                              cwd=self.folder, input=answer.encode(), timeout=120, check=False)
        calls = self.calls_file.read_text("utf-8", errors="replace").splitlines() if self.calls_file.exists() else []
        return done.returncode, done.stdout.decode("utf-8", errors="replace"), [call.strip() for call in calls if " -c " not in call]


@pytest.fixture
def windows(tmp_path: Path, wine_prefix: Path) -> Windows:
    return Windows(tmp_path / "branchwise", wine_prefix, standins=tmp_path / "standins")


@cmd_is_here
def test_batch_file_clean_install_and_second_run_start_the_loop_with_the_arguments(windows: Windows) -> None:
    code, output, calls = windows.start("--data", "C:\\my records", "--set", "train.lr=1e-3", "--cycles", "1")
    assert code == 0
    assert "Using py -3.12" in output
    assert calls == ["py -3.12 experts\\installation.py",
                     'venv_python -m experts start --data "C:\\my records" --set train.lr=1e-3 --cycles 1']
    assert windows.start()[2] == ["py -3.12 experts\\installation.py", "venv_python -m experts start"]


PIP = "pip -e ."


@cmd_is_here
@pytest.mark.parametrize("name", ["branchwise", "with spaces & signs (x86)", "M\u00fcller \u0434\u043e\u043c"])
def test_batch_file_with_the_real_installation_installs_once_and_the_second_run_only_starts(tmp_path: Path, wine_prefix: Path, name: str) -> None:
    windows = Windows(tmp_path / name, wine_prefix, standins=tmp_path / "standins")
    code, output, calls = windows.really_install("--cycles", "1")
    assert (code, calls) == (0, ["py -3.12 experts\\installation.py", f"{PIP}[directml]", "venv_python -m experts start --cycles 1"])
    assert (windows.folder / ".venv" / "Scripts" / "python.bat").is_file()
    assert "installing torch with DirectML (ROCm is an alternative, see README.md)" in output
    assert "Installed (directml)." in output
    code, output, calls = windows.really_install()
    assert (code, calls) == (0, ["py -3.12 experts\\installation.py", "venv_python -m experts start"])
    assert "Already installed (directml)." in output


@cmd_is_here
def test_batch_file_with_the_real_installation_and_no_network_keeps_the_window_with_the_reason(windows: Windows) -> None:
    code, output, calls = windows.really_install(broken="install", answer="x")
    assert (code, calls) == (1, ["py -3.12 experts\\installation.py", f"{PIP}[directml]", f"{PIP}[cpu]", PIP])
    assert "Nothing could be installed. Is there a network? Is the disk full? Run the same file again when that is mended" in output
    assert "It did not work: the installation failed; the lines above say why." in output
    assert "Press any key" in output
    code, output, calls = windows.really_install()  # the network is back
    assert (code, calls[-1]) == (0, "venv_python -m experts start")
    assert "Installed (directml)." in output


@cmd_is_here
def test_batch_file_with_the_real_installation_falls_back_to_the_cpu_with_a_line_that_says_so(windows: Windows) -> None:
    code, output, calls = windows.really_install(broken="directml")
    assert (code, calls[1:]) == (0, [f"{PIP}[directml]", f"{PIP}[cpu]", "venv_python -m experts start"])
    assert "That did not work here (directml); the lines above say why. Falling back to the next way." in output
    assert "installing torch for the CPU" in output


@cmd_is_here
@pytest.mark.slow
def test_batch_file_takes_python_311_where_312_is_absent(windows: Windows) -> None:
    code, output, calls = windows.start(PY312="1")
    assert (code, calls[0]) == (0, "py -3.11 experts\\installation.py")
    assert "Using py -3.11" in output


@cmd_is_here
def test_batch_file_without_python_says_how_to_get_one_and_stops(windows: Windows) -> None:
    code, output, calls = windows.start(python=False, answer="\n")
    assert (code, calls) == (1, [])
    assert "winget install -e --id Python.Python.3.12 --scope user" in output
    assert "It did not work: no Python 3.11 or 3.12; install one as the lines above say." in output


@cmd_is_here
@pytest.mark.slow
def test_batch_file_without_python_takes_the_path_that_is_typed(windows: Windows) -> None:
    path = windows.standins / "my python.bat"
    path.write_bytes((windows.standins / "py.bat").read_bytes().replace(b"exit /b 1\r\n", b"exit /b 0\r\n"))
    code, output, calls = windows.start(python=False, answer=windows._dos(path) + "\n")
    assert code == 0
    assert f'Using "{windows._dos(path)}"' in output
    assert calls[-1] == "venv_python -m experts start"


@cmd_is_here
@pytest.mark.slow
def test_batch_file_with_a_python_that_is_typed_and_wrong_says_so(windows: Windows) -> None:
    code, output, calls = windows.start(python=False, answer="C:\\nothing\\python.exe\n")
    assert (code, calls) == (1, [])
    assert "It did not work: what you typed is no Python 3.11 or 3.12." in output


@cmd_is_here
def test_batch_file_when_the_installation_fails_stops_before_the_loop_and_keeps_the_window(windows: Windows) -> None:
    code, output, calls = windows.start(INSTALL="1", answer="x")
    assert (code, calls) == (1, ["py -3.12 experts\\installation.py"])
    assert "It did not work: the installation failed; the lines above say why." in output
    assert "Press any key" in output


@cmd_is_here
def test_batch_file_when_the_loop_fails_says_that_nothing_is_lost(windows: Windows) -> None:
    code, output, _ = windows.start(START="2")
    assert code == 1
    assert "It did not work: training ended with an error; the lines above say why. What was trained is kept: start this file again to go on." in output


STANDIN_SHELL = """#!/bin/sh
echo "{name} $*" >> "$CALLS"
case "$1" in
    -c) exit $VERSION ;;
    experts/installation.py) [ "$INSTALL" = 0 ] || exit "$INSTALL"; mkdir -p .venv/bin; cp "$STANDINS/venv_python" .venv/bin/python ;;
    *) exit "$START" ;;
esac
"""


def start_shell(tmp_path: Path, *arguments: str, name: str = "branchwise", **changes: str) -> tuple[int, str, list[str]]:
    """Exit code, output and calls of start_training.sh in a folder of that name, with stand-ins for every Python."""
    folder, standins = tmp_path / name, tmp_path / "standins"
    folder.mkdir()
    standins.mkdir()
    shutil.copy(SHELL, folder)
    for program in ("python3.12", "python3.11", "python3", "python", "venv_python"):
        (standins / program).write_text(STANDIN_SHELL.replace("{name}", program), encoding="utf-8")
        (standins / program).chmod(0o755)
    calls = tmp_path / "calls.txt"
    environment = {**os.environ, "PATH": f"{standins}:/usr/bin:/bin", "CALLS": str(calls), "STANDINS": str(standins),
                   "VERSION": "0", "INSTALL": "0", "START": "0", **changes}
    done = subprocess.run([str(folder / SHELL.name), *arguments], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr, [line for line in calls.read_text("utf-8").splitlines() if " -c " not in line]


@sh_is_here
@pytest.mark.parametrize("name", ["branchwise", "with spaces & signs (x86)", "M\u00fcller \u0434\u043e\u043c"])
def test_shell_script_installs_and_starts_the_loop_with_the_arguments(tmp_path: Path, name: str) -> None:
    code, _, calls = start_shell(tmp_path, "--data", "my records", name=name)
    assert code == 0
    assert calls == ["python3.12 experts/installation.py", "venv_python -m experts start --data my records"]


@sh_is_here
@pytest.mark.parametrize(("changes", "last", "words"), [
    ({"VERSION": "1"}, None, "no Python 3.11 or 3.12; install one as the lines above say"),
    ({"INSTALL": "1"}, "python3.12 experts/installation.py", "the installation failed; the lines above say why"),
    ({"START": "2"}, "venv_python -m experts start", "What was trained is kept: start this file again to go on")])
def test_shell_script_failure_ends_with_1_and_the_reason(tmp_path: Path, changes: dict[str, str], last: str | None, words: str) -> None:
    code, output, calls = start_shell(tmp_path, **changes)
    assert (code, calls[-1] if calls else None) == (1, last)
    assert words in output.partition("It did not work: ")[2]
