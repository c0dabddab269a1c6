"""What the loop does about its router: when it fits again, what it holds the new one against, and that feedback takes part."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import settings as configuration
from continuous_loop import router_fitter
from experts.journal import Journal
from experts.tree import Tree
from routing.router import Router

BRANCHES = {"numbers": ("math",), "technical": ("code",)}
ASKED = {"math": "what is {} plus seven in numbers", "code": "write a python function number {}"}


class Toy:
    """A corpus of patterns; swapped: its training labels are wrong, its held-out ones are not."""

    def __init__(self, fingerprint, *, swapped=False):
        self.fingerprint, self.swapped = fingerprint, swapped

    def examples(self, domain, split):
        other = {"math": "code", "code": "math"}[domain]
        asked = ASKED[other if self.swapped and split == "train" else domain]
        return [SimpleNamespace(prompt=asked.format(number), source=domain) for number in range(0 if split == "train" else 1, 80, 2)]


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    return configuration.check({"run": {"dir": str(tmp_path_factory.mktemp("run"))}, "tree": {"branches": BRANCHES},
                                "router": {"everyday_rows": 0, "none_rows": 60, "curriculum_rows": 0, "words": 500, "letter_groups": 500}})


@pytest.fixture(scope="module")
def served(chosen, tmp_path_factory):
    """Folder of a router fitted on the right labels, with its card."""
    return _keep(_fit(chosen, Toy("first"), None), tmp_path_factory.mktemp("served") / "v000001", corpus="first")


def _fit(chosen, corpus, served):
    tree = Tree.from_settings(chosen.tree)
    return router_fitter(tree, chosen, work=Path(chosen.run.dir) / "work", should_stop=lambda: False)(corpus, served)


def _keep(candidate, folder, *, corpus):
    folder.mkdir()
    candidate.write(folder)
    (folder / "card.json").write_text(json.dumps({**candidate.card, "corpus": corpus}), encoding="utf-8")
    return folder


def test_router_fitter_on_the_same_data_fits_nothing(chosen, served):
    assert _fit(chosen, Toy("first"), served) is None


def test_router_fitter_other_settings_of_the_router_are_fitted_on_the_same_data(chosen, served):
    assert _fit(configuration.changed(chosen, ["router.false_rejection=0.3"]), Toy("first"), served) is not None
    assert _fit(configuration.changed(chosen, ["serve.port=8099"]), Toy("first"), served) is None


def test_router_fitter_first_router_is_promoted(served, chosen):
    router = Router.load(served, Tree.from_settings(chosen.tree))
    assert router.route("what is 5 plus seven in numbers").ranked[0].node == "math"


def test_router_fitter_keeps_apart_from_the_fit_of_a_killed_loop_and_clears_up_after_it(chosen, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = Path(chosen.run.dir) / "work" / f".tmp-router-{ended.pid}-fit"
    left.mkdir(parents=True)
    (left / "router.json").write_text("torn", encoding="utf-8")
    folder = _keep(_fit(chosen, Toy("third"), None), tmp_path / "v000002", corpus="third")
    assert {file.name for file in folder.iterdir()} == {"router.json", "router.safetensors", "card.json"}
    Router.load(folder, Tree.from_settings(chosen.tree))
    assert not left.exists()


def test_router_fitter_new_data_that_makes_it_worse_is_refused_on_the_same_rows(chosen, served):
    candidate = _fit(chosen, Toy("second", swapped=True), served)
    assert not candidate.promote
    assert candidate.reason == "accuracy on 80 held-out prompts 0.00%, served version 100.00%"


def test_router_fitter_refused_once_is_not_fitted_again_until_the_data_changes(chosen, served):
    fit_router = router_fitter(Tree.from_settings(chosen.tree), chosen, work=Path(chosen.run.dir) / "work", should_stop=lambda: False)
    assert not fit_router(Toy("second", swapped=True), served).promote
    assert fit_router(Toy("second", swapped=True), served) is None
    assert fit_router(Toy("third"), served).promote


def test_router_fitter_new_data_that_ties_is_promoted(chosen, served):
    candidate = _fit(chosen, Toy("third"), served)
    assert candidate.promote
    assert candidate.reason.endswith("100.00%, served version 100.00%")


def test_router_fitter_feedback_makes_it_fit_again_once(chosen, served, tmp_path):
    own = chosen.model_copy(update={"run": chosen.run.model_copy(update={"dir": str(tmp_path)})})
    with Journal(tmp_path / "journal.db") as journal:
        number = journal.append("feedback", node="code", prompt="water the tulips", verdict="bad", right_node="math", expert="code", client="c", request="r")
    candidate = _fit(own, Toy("first"), served)
    assert candidate.card["feedback"] == number
    assert candidate.card["report"]["by_source"]["feedback"] >= 1
    shutil.rmtree(tmp_path / "kept", ignore_errors=True)
    assert _fit(own, Toy("first"), _keep(candidate, tmp_path / "kept", corpus="first")) is None
