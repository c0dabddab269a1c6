"""The plan of the rooms, held: imports point down, files and functions stay small, importing anything does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import settings

ROOMS = ("experts", "data_prep", "routing", "training", "serving", "benchmarks")
ENTRIES = ("continuous_loop.py", "fast_train.py", "test_all_experts.py", "demo.py")
MAY_IMPORT = {
    "experts": {"experts", "settings"},
    "data_prep": {"data_prep", "experts", "settings"},
    "routing": {"routing", "experts.tree", "experts.durable", "data_prep.records", "settings"},
    "training": {"training", "data_prep", "experts", "settings"},
    "serving": {"serving", "routing", "experts", "data_prep.records", "settings"},
}
# Entry scripts inside rooms wire rooms together for their command, as continuous_loop.py does for the loop.
COMMANDS_MAY_IMPORT = {"routing/__main__.py": {"data_prep", "experts"}}
FILES = sorted(path for room in ROOMS for path in (settings.HOME / room).rglob("*.py"))
SOURCES = [*FILES, settings.HOME / "settings.py", settings.HOME / "model_settings.py", *(settings.HOME / entry for entry in ENTRIES)]


def _name(path):
    return path.relative_to(settings.HOME).as_posix()


def _imports(path):
    """Modules of this project that a file imports anywhere, as dotted names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _allowed(module, allowed):
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_architecture_imports_point_down(path):
    room = path.relative_to(settings.HOME).parts[0]
    if room == "benchmarks":
        return
    allowed = MAY_IMPORT[room] | COMMANDS_MAY_IMPORT.get(_name(path), set())
    ours = [module for module in _imports(path) if module.split(".")[0] in {*ROOMS, "settings", "continuous_loop"}]
    assert [module for module in ours if not _allowed(module, allowed)] == []


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_architecture_nobody_imports_serving_or_benchmarks(path):
    room = path.relative_to(settings.HOME).parts[0]
    assert [module for module in _imports(path) if module.split(".")[0] in {"serving", "benchmarks"} - {room} and room != "benchmarks"] == []


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_architecture_files_and_functions_are_small_and_begin_with_a_docstring(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 400
    assert ast.get_docstring(tree)
    long = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > 60]
    assert long == []


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_architecture_nothing_executable_is_loaded_and_text_is_ascii(path):
    text = path.read_text(encoding="utf-8")
    called = {f"{ast.unparse(node.func)}" for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}
    assert not called & {"torch.load", "pickle.load", "pickle.loads", "joblib.load", "eval", "exec"}
    assert not {module.split(".")[0] for module in _imports(path)} & {"pickle", "joblib", "dill", "cloudpickle"}
    assert "trust_remote_code=True" not in text


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__main__.py" or path.name in ENTRIES], ids=_name)
def test_architecture_commands_begin_by_letting_output_take_any_text(path):
    main = next(node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert ast.unparse(main.body[1]) == "accept_any_text()"  # after the docstring


def test_architecture_importing_every_module_prints_nothing_and_picks_no_device():
    modules = [_name(path)[:-3].replace("/", ".").removesuffix(".__init__") for path in FILES if path.name != "__main__.py"]
    code = ("import importlib, sys, torch\n"
            "torch.cuda.is_available = lambda: sys.exit('a module asked for a device when it was imported')\n"
            "sys.argv = ['x', '--help']\n"
            f"for name in {[*modules, *(entry[:-3] for entry in ENTRIES)]!r}: importlib.import_module(name)\n")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=settings.HOME, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_architecture_routing_loads_no_torch():
    rooms = [path for path in FILES if _name(path).startswith("routing/") and path.name not in {"__main__.py", "__init__.py"}]
    modules = [_name(path)[:-3].replace("/", ".") for path in rooms]
    code = f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=settings.HOME, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "False"


def test_architecture_top_level_holds_what_the_plan_names():
    tracked = subprocess.run(["git", "ls-files"], cwd=settings.HOME, capture_output=True, text=True, check=True).stdout.split()
    top = {Path(name).parts[0] for name in tracked}
    assert top <= {*ROOMS, *ENTRIES, "tests", "docs", "recipes", "ci", "settings.py", "model_settings.py", "config.toml", "pyproject.toml",
                   "START_TRAINING.bat", "start_training.sh", "README.md", "CHANGELOG.md", "RESULTS.md", "CONTRIBUTING.md", "LICENSE", ".ci", ".github",
                   ".gitignore", ".gitattributes"}
