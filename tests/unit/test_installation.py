"""What the start scripts install: the right torch for the adapters, fallbacks in order, nothing twice, nothing half."""

import ast
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from experts import installation
from experts.installation import alone, display_adapters, install, plans, venv_python
from settings import HOME


@pytest.mark.parametrize(("system", "adapters", "names"), [
    ("Windows", ["NVIDIA GeForce RTX 3060"], ["cuda-cu128", "cuda-cu126", "cpu", "plain"]),
    ("Windows", ["AMD Radeon RX 6600"], ["directml", "cpu", "plain"]),
    ("Windows", ["AMD Radeon(TM) Graphics", "NVIDIA GeForce GTX 1650"], ["cuda-cu128", "cuda-cu126", "cpu", "plain"]),
    ("Windows", ["Intel(R) UHD Graphics 630"], ["cpu", "plain"]),
    ("Windows", [], ["cpu", "plain"]),
    ("Linux", ["0x10de"], ["cuda-cu128", "cuda-cu126", "cpu-index", "cpu", "plain"]),
    ("Linux", ["0x1002"], ["rocm", "cpu-index", "cpu", "plain"]),
    ("Linux", ["0x8086"], ["cpu-index", "cpu", "plain"]),
    ("Darwin", ["arm64 Darwin"], ["cpu", "plain"])])
def test_plans_fit_system_and_adapters_and_end_on_the_cpu(system: str, adapters: list[str], names: list[str]) -> None:
    assert [plan.name for plan in plans(system, adapters)] == names


def test_plans_for_amd_on_windows_install_the_directml_extra_and_name_rocm() -> None:
    plan = plans("Windows", ["AMD Radeon RX 6600"])[0]
    assert plan.steps == (("-e", ".[directml]"),)
    assert "ROCm is an alternative" in plan.note
    assert "torch_directml" in plan.check


def test_plans_ask_for_the_torch_that_the_project_allows() -> None:
    project = (HOME / "pyproject.toml").read_text("utf-8")
    steps = [argument for plan in plans("Linux", ["0x10de"]) for step in plan.steps for argument in step if argument.startswith("torch")]
    assert set(steps) == {"torch>=2.4.1,<2.14"}
    assert f'"{steps[0]}"' in project


class Machine:
    """A project folder, and what pip and Python answer there by the arguments that they get."""

    def __init__(self, folder: Path, *, broken: Sequence[str] = ()) -> None:
        self.folder, self.broken = folder, broken
        self.pip: list[str] = []
        self.said: list[str] = []
        self.made = 0
        (folder / "pyproject.toml").write_text("one", encoding="utf-8")

    def make_venv(self, folder: Path) -> None:
        self.made += 1
        venv_python(folder).parent.mkdir(parents=True, exist_ok=True)
        venv_python(folder).touch()

    def run(self, command: Sequence[str]) -> int:
        words = " ".join(command)
        if "pip install" in words:
            self.pip.append(words.partition("--disable-pip-version-check ")[2])
        return int(any(mark in words for mark in self.broken))

    def install(self, *, system: str = "Windows", adapters: Sequence[str] = ("AMD Radeon RX 6600",)) -> bool:
        return install(self.folder, system=system, adapters=adapters, make_venv=self.make_venv, run=self.run, say=self.said.append)

    def plan(self) -> str:
        return str(json.loads((self.folder / ".venv" / "branchwise.json").read_text("utf-8"))["plan"])


def test_install_on_a_fresh_machine_makes_the_environment_and_installs_the_first_plan(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.install()
    assert (machine.made, machine.pip, machine.plan()) == (1, ["-e .[directml]"], "directml")


def test_install_a_second_time_does_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.install()
    machine.pip.clear()
    assert machine.install()
    assert (machine.made, machine.pip, machine.said[-1]) == (1, [], "Already installed (directml).")


@pytest.mark.parametrize("change", ["project", "adapters", "marker"])
def test_install_again_after_a_change_installs_into_the_same_environment(tmp_path: Path, change: str) -> None:
    machine = Machine(tmp_path)
    machine.install()
    machine.pip.clear()
    if change == "project":
        (tmp_path / "pyproject.toml").write_text("two", encoding="utf-8")
    if change == "marker":
        (tmp_path / ".venv" / "branchwise.json").write_text("{cut", encoding="utf-8")
    assert machine.install(adapters=["NVIDIA RTX"] if change == "adapters" else ["AMD Radeon RX 6600"])
    assert machine.made == 1
    assert machine.pip


def test_install_when_the_card_cannot_be_used_falls_back_to_the_cpu_and_says_so(tmp_path: Path) -> None:
    machine = Machine(tmp_path, broken=("directml",))
    assert machine.install()
    assert (machine.pip, machine.plan()) == (["-e .[directml]", "-e .[cpu]"], "cpu")
    assert any(line.startswith("That did not work here (directml)") for line in machine.said)


def test_install_that_installs_and_does_not_run_is_not_taken(tmp_path: Path) -> None:
    machine = Machine(tmp_path, broken=("device='cuda'",))
    assert machine.install(adapters=["NVIDIA RTX"])
    assert machine.plan() == "cpu"


def test_install_without_a_network_fails_with_the_repair_and_leaves_no_marker(tmp_path: Path) -> None:
    machine = Machine(tmp_path, broken=("pip install",))
    assert not machine.install()
    assert machine.said[-1].startswith("Nothing could be installed. Is there a network? Is the disk full?")
    assert not (tmp_path / ".venv" / "branchwise.json").exists()


def test_install_over_an_environment_of_another_python_makes_it_anew(tmp_path: Path) -> None:
    machine = Machine(tmp_path, broken=("sys.version_info",))
    machine.make_venv(tmp_path / ".venv")
    assert machine.install()
    assert machine.made == 2


def test_install_with_adapters_that_cannot_be_read_this_time_leaves_what_is_installed(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.install()
    machine.pip.clear()
    assert machine.install(adapters=[])
    assert (machine.pip, machine.said[-1]) == ([], "Already installed (directml).")


def test_alone_lets_a_second_window_wait_until_the_first_has_ended(tmp_path: Path) -> None:
    held = ("import sys, time; from pathlib import Path; from experts.installation import alone\n"
            "with alone(Path(sys.argv[1]), say=print): print('held', flush=True); sys.stdin.read()")
    first = subprocess.Popen([sys.executable, "-c", held, str(tmp_path)], cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdin is not None
    assert first.stdout.readline() == "held\n"
    said: list[str] = []
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        first.kill()  # a window that is closed frees the lock
        first.wait()

    with alone(tmp_path, say=said.append, sleep=sleep):
        assert (said, len(waits)) == (["Another window is installing; waiting for it ..."], 1)
    first.stdin.close()
    first.stdout.close()


def test_display_adapters_without_powershell_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert display_adapters("Windows") == []


def test_installation_imports_the_standard_library_alone() -> None:
    tree = ast.parse(Path(installation.__file__).read_text("utf-8"))
    names = {name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)
             for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])}
    assert names <= set(sys.stdlib_module_names)
