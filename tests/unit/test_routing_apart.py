"""routing/apart.py: a fit in a process of its own gives what a fit in this one gives, and its death is named."""

import json

import pytest
from dying import die

from experts.tree import Tree
from routing import apart
from routing.fit import Row, fit
from settings import RouterSettings, TreeSettings

TREE = TreeSettings(branches={"numbers": ("math", "logic"), "technical": ("code",)})
SETTINGS = RouterSettings(everyday_rows=0, none_rows=40, words=500, letter_groups=500)
ROWS = [Row(text.format(n), label, "toy") for n in range(60) for label, text in (
    ("math", "add the numbers {} and seven please"), ("logic", "if case {} holds which conclusion follows"), ("code", "write a python function number {}"))]


def _apart(folder, **options):
    return apart.fit_apart(ROWS, held_out=ROWS[::7], tree=TREE, settings=SETTINGS, seed=3, folder=folder, served=options.get("served"))


def test_fit_apart_equals_a_fit_in_this_process(tmp_path):
    (tmp_path / "apart").mkdir()
    (tmp_path / "here").mkdir()
    judged = _apart(tmp_path / "apart")
    fit(ROWS, tree=Tree.from_settings(TREE), settings=SETTINGS, seed=3).router.save(tmp_path / "here")
    assert (tmp_path / "apart" / "router.safetensors").read_bytes() == (tmp_path / "here" / "router.safetensors").read_bytes()
    assert judged.accuracy == 1.0
    assert judged.before is None


def test_fit_apart_judges_the_served_router_on_the_same_rows_unless_its_tree_is_another(tmp_path):
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    _apart(tmp_path / "first")
    assert _apart(tmp_path / "second", served=tmp_path / "first").before == 1.0
    document = json.loads((tmp_path / "first" / "router.json").read_text(encoding="utf-8"))
    document["tree"]["branches"]["technical"] = ["code", "law"]
    (tmp_path / "first" / "router.json").write_text(json.dumps(document), encoding="utf-8")
    assert _apart(tmp_path / "third", served=tmp_path / "first").before is None


def test_fit_apart_process_that_dies_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "_fit", die)
    with pytest.raises(apart.FitFailed, match=r"ended without a result.*lower router\.rows"):
        _apart(tmp_path)
