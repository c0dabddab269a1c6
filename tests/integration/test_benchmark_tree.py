"""benchmarks tree: the arms' budgets by hand, and both arms trained and examined at toy size."""

import argparse

import pytest

import settings
from benchmarks import tree as benchmark
from benchmarks.tree import Point, Result, draw, gathered, one_model, side_by_side, way_steps
from experts.journal import Journal
from experts.tree import Tree
from training.exam import Exam


def test_way_from_root_to_expert_is_read_from_the_journal(tmp_path):
    """root 400; analytical 60, language 50; math 90, reasoning 96, conversation 99: 400 + 60 + 96."""
    journal = Journal(tmp_path / "journal.db")
    for node, steps in (("generalist", 400), ("analytical", 60), ("language", 50), ("math", 90), ("reasoning", 96), ("conversation", 99)):
        journal.append("training_started", node=node, cycle=0, steps=steps)
    assert way_steps(tmp_path, Tree.from_settings(settings.load().tree)) == 556


def test_one_model_gets_every_step_and_decays_to_the_end():
    chosen = settings.load(overrides=["train.final_lr_share=0.05"])
    assert one_model(chosen, steps=300) == ["loop.steps=300", "loop.root_share=1", "loop.branch_share=0", "loop.root_final_lr_share=0.05"]


def test_side_by_side_divides_the_trees_bits_by_the_single_models():
    tree = Result({"math": 1.0, "code": 3.0}, {"math": 0.5, "code": None}, {"math": 0.0, "code": 0.25})
    one = Result({"math": 2.0, "code": 2.0}, {"math": 0.25, "code": None}, {"math": 0.5, "code": 0.0})
    figures = {figure.name: figure for figure in side_by_side(tree, one, steps=10, peer_name="one")}
    assert {name: figure.ratio for name, figure in figures.items() if "bits" in name} == {
        "10 steps: bits per byte, math": 0.5, "10 steps: bits per byte, code": 1.5, "10 steps: bits per byte, mean": 1.0}
    assert (figures["10 steps: exam accuracy, math"].ours, figures["10 steps: exam accuracy, math"].peer) == (0.5, 0.25)
    assert "10 steps: exam accuracy, code" not in figures
    assert [(figures[f"10 steps: loop rate, {domain}"].ours, figures[f"10 steps: loop rate, {domain}"].peer) for domain in ("math", "code")] == [
        (0.0, 0.5), (0.25, 0.0)]


def test_points_are_gathered_over_calls_and_a_new_one_replaces_the_old(tmp_path):
    file = tmp_path / "points.json"
    first = [Point("records", 1500, 1.4, 1.35), Point("curriculum", 800, 0.1, 0.2)]
    assert gathered(file, new=first) == [first[1], first[0]]
    better, longer = Point("records", 1500, 1.3, 1.35), Point("records", 900, 1.6, 1.5)
    assert gathered(file, new=[better, longer]) == [first[1], longer, better]
    assert gathered(file) == [first[1], longer, better]


def test_picture_has_a_panel_a_data_set(tmp_path):
    """Two panels are twice as wide as one: 550 dots each."""
    pytest.importorskip("matplotlib")
    points = [Point("records", 900, 1.6, 1.5), Point("records", 1500, 1.3, 1.35), Point("curriculum", 800, 0.1, 0.2)]
    for count in (2, 3):
        draw(points[:count], tmp_path / f"{count}.png")
    assert [int.from_bytes((tmp_path / f"{count}.png").read_bytes()[16:20]) for count in (2, 3)] == [550, 1100]


@pytest.fixture
def measured(tmp_path, records_folder, toy_overrides):
    """A function: the figures of the benchmark at toy size, over 20 steps."""
    def measure():
        parser = argparse.ArgumentParser()
        benchmark.add_arguments(parser)
        words = ["--steps", "20", "--work", str(tmp_path / "work"), "--data", str(records_folder), "--picture", str(tmp_path / "tree.png"),
                 "--points", str(tmp_path / "points.json")]
        for override in toy_overrides:
            words += ["--set", override]
        return benchmark.measure(parser.parse_args(words), parser)
    return measure


def test_both_arms_are_trained_once_and_examined_alike(measured, tmp_path, records_folder, monkeypatch):
    pytest.importorskip("matplotlib")
    figures = measured()
    assert sorted(folder.name for folder in (tmp_path / "work").iterdir() if folder.is_dir()) == ["one-20", "tree-20"]
    assert [sorted(path.name for path in (tmp_path / "work" / run / "nodes").iterdir()) for run in ("one-20",)] == [["generalist"]]
    assert (tmp_path / "tree.png").read_bytes().startswith(b"\x89PNG")
    mean = next(figure for figure in figures if figure.name == "20 steps: bits per byte, mean")
    assert gathered(tmp_path / "points.json") == [Point(records_folder.name, 20, mean.ours, mean.peer)]
    before = (tmp_path / "work" / "one-20" / "current.json").read_bytes()
    assert measured() == figures
    assert (tmp_path / "work" / "one-20" / "current.json").read_bytes() == before
    monkeypatch.setattr(Exam, "sitting", lambda *_: "one that no card is of")
    assert measured() == figures  # what the cards of experts say is what a new exam says
