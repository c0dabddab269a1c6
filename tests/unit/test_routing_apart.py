"""routing/apart.py: a fit in a process of its own gives what a fit in this one gives, and its death is named."""

import json
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest
from dying import die, fill_disk, want_memory

from experts.durable import OutOfSpace
from experts.tree import Tree
from routing import apart
from routing.fit import fit
from routing.rows import Row
from settings import HOME, RouterSettings, TreeSettings

TREE = TreeSettings(branches={"numbers": ("math", "logic"), "technical": ("code",)})
SETTINGS = RouterSettings(everyday_rows=0, none_rows=40, words=500, letter_groups=500)
ROWS = [Row(text.format(n), label, "toy") for n in range(60) for label, text in (
    ("math", "add the numbers {} and seven please"), ("logic", "if case {} holds which conclusion follows"), ("code", "write a python function number {}"))]


def _apart(folder, **options):
    return apart.fit_apart(ROWS, held_out=ROWS[::7], tree=TREE, settings=SETTINGS, seed=3, folder=folder, served=options.get("served"),
                           should_stop=options.get("should_stop", lambda: False))


def test_fit_apart_equals_a_fit_in_this_process(tmp_path):
    (tmp_path / "apart").mkdir()
    (tmp_path / "here").mkdir()
    judged = _apart(tmp_path / "apart")
    fit(ROWS, tree=Tree.from_settings(TREE), settings=SETTINGS, seed=3).router.save(tmp_path / "here")
    assert (tmp_path / "apart" / "router.safetensors").read_bytes() == (tmp_path / "here" / "router.safetensors").read_bytes()
    assert judged.accuracy == 1.0
    assert judged.verdict.reason == f"accuracy on {len(ROWS[::7])} held-out prompts 100.00%"


def test_fit_apart_judges_the_served_router_on_the_same_rows_unless_its_tree_is_another(tmp_path):
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    _apart(tmp_path / "first")
    assert _apart(tmp_path / "second", served=tmp_path / "first").verdict.reason.endswith("served version 100.00%")
    document = json.loads((tmp_path / "first" / "router.json").read_text(encoding="utf-8"))
    document["tree"]["branches"]["technical"] = ["code", "law"]
    (tmp_path / "first" / "router.json").write_text(json.dumps(document), encoding="utf-8")
    assert "served version" not in _apart(tmp_path / "third", served=tmp_path / "first").verdict.reason


def test_fit_apart_process_that_dies_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "_work", die)
    with pytest.raises(apart.FitFailed, match=r"ended without a result.*lower router\.rows"):
        _apart(tmp_path)


def test_fit_apart_want_of_memory_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "_work", want_memory)
    with pytest.raises(apart.FitFailed, match=r"no memory.*lower router\.rows"):
        _apart(tmp_path)


def test_fit_apart_full_disk_is_one_that_the_loop_waits_for(tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "_work", fill_disk)
    with pytest.raises(OutOfSpace, match="nothing was lost"):
        _apart(tmp_path)


def test_fit_apart_error_of_the_fit_comes_through(tmp_path):
    with pytest.raises(ValueError, match=r"no rows for \['logic'\]"):
        apart.fit_apart([row for row in ROWS if row.label != "logic"], held_out=ROWS, tree=TREE, settings=SETTINGS, seed=3, folder=tmp_path, served=None,
                        should_stop=lambda: False)


def test_fit_apart_that_is_to_stop_ends_its_process_and_writes_nothing(tmp_path):
    children = []

    def should_stop():
        children.extend(each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline()))
        return True

    with pytest.raises(apart.FitStopped):
        _apart(tmp_path, should_stop=should_stop)
    assert children
    assert not any(child.is_running() for child in children)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_fit_apart_stop_that_reaches_the_whole_group_ends_no_fit(tmp_path):
    stopped = []

    def stop_at_once():
        until = time.monotonic() + 60
        while time.monotonic() < until and not stopped:
            with suppress(psutil.NoSuchProcess):
                for child in (each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())):  # not the tracker
                    stopped.append(child.pid)
                    child.terminate()
                    time.sleep(3.0)
                    child.terminate()  # once more, when it may have read its modules
            time.sleep(0.02)

    stopper = threading.Thread(target=stop_at_once)
    stopper.start()
    judged = _apart(tmp_path)
    stopper.join()
    assert stopped
    assert judged.accuracy == 1.0


@pytest.mark.skipif(sys.platform == "win32", reason="looks at the children of a killed process as POSIX shows them")
def test_fit_apart_leaves_no_process_behind_when_its_parent_is_killed(tmp_path):
    code = ("import sys; sys.path[:0] = [sys.argv[1]]; from pathlib import Path; import test_routing_apart_rows as t\n"
            "if __name__ == '__main__': t.fit(Path(sys.argv[2]))")
    (tmp_path / "test_routing_apart_rows.py").write_text(
        "from routing import apart\nfrom routing.rows import Row\nfrom settings import RouterSettings, TreeSettings\n"
        "ROWS = [Row(f'{label} prompt number {n}', label, 'toy') for n in range(60) for label in ('math', 'code')]\n"
        "def fit(folder):\n    apart.fit_apart(ROWS, held_out=ROWS, tree=TreeSettings(branches={'a': ('math',), 'b': ('code',)}),"
        " settings=RouterSettings(everyday_rows=0, none_rows=40), seed=0, folder=folder, served=None, should_stop=lambda: False)\n", encoding="utf-8")
    parent = psutil.Popen([sys.executable, "-c", code, str(tmp_path), str(tmp_path)], cwd=HOME)
    until = time.monotonic() + 60
    while not (children := parent.children(recursive=True)) and time.monotonic() < until:
        time.sleep(0.02)
    assert children
    parent.kill()
    parent.wait(timeout=10)
    assert psutil.wait_procs(children, timeout=60)[1] == []
