"""training/history.py on a journal of four events, worked by hand, and its command."""

import pytest

from experts.journal import Journal
from experts.tree import Tree
from settings import TreeSettings
from training.__main__ import main
from training.history import points

TREE = Tree.from_settings(TreeSettings(root="generalist", branches={"analytical": ["math", "reasoning"]}))


@pytest.fixture
def run_folder(tmp_path):
    """A run: the root early after 60 s and whole after 120 s, math refused once (30 s), then promoted (30 s more in the next cycle)."""
    def facts(seconds, cycle=0, **accuracy):
        return {"training": {"cycle": cycle, "train_s": seconds}, "scorecard": {"per_domain": accuracy}}

    with Journal(tmp_path / "journal.db") as journal:
        journal.append("training_started", node="generalist", cycle=0)
        journal.append("promoted", node="generalist", **facts(60, math=0.2, reasoning=0.1))
        journal.append("promoted", node="generalist", **facts(120, math=0.4, reasoning=0.6))
        journal.append("refused", node="math", **facts(30, math=0.3))
        journal.append("promoted", node="router", version="v000001")
        journal.append("promoted", node="math", **facts(30, cycle=1, math=0.8))
    return tmp_path


def test_points_add_up_training_once_a_job_and_take_the_answering_node(run_folder):
    with Journal(run_folder / "journal.db", read_only=True) as journal:
        found = points(journal.events(), TREE)
    assert [point.minutes for point in found] == [1.0, 2.0, 3.0]
    assert [dict(point.accuracy) for point in found] == [{"math": 0.2, "reasoning": 0.1}, {"math": 0.4, "reasoning": 0.6}, {"math": 0.8, "reasoning": 0.6}]
    assert [point.mean for point in found] == pytest.approx([0.15, 0.5, 0.7])


def _minutes(folder, *events):
    """Minutes of the last point of a journal of (kind, facts), all of the root in cycle 0."""
    with Journal(folder / "journal.db") as journal:
        for kind, facts in events:
            journal.append(kind, node="generalist", **facts)
        return points(journal.events(), TREE)[-1].minutes


def _started(**facts):
    return "training_started", {"cycle": 0, **facts}


def _promoted(seconds):
    return "promoted", {"training": {"cycle": 0, "train_s": seconds}, "scorecard": {"per_domain": {"math": 0.5}}}


def test_points_add_up_trainings_of_one_cycle(tmp_path):
    """43 s in the founding cycle and two trainings of 300 s by fast_train.py, which has no cycles: 643 s."""
    minutes = _minutes(tmp_path, *(event for seconds in (43, 300, 300) for event in (_started(resumed=False), _promoted(seconds))))
    assert minutes == pytest.approx(643 / 60)


def test_points_count_a_resumed_training_once(tmp_path):
    """Early after 60 s, stopped, whole after 120 s; killed before the loop noted that, it is offered once more."""
    minutes = _minutes(tmp_path, _started(resumed=False), _promoted(60), _started(resumed=True), _promoted(120), _started(resumed=True), _promoted(120))
    assert minutes == 2.0


def test_points_of_a_journal_that_names_no_resume_count_a_cycle_once(tmp_path):
    assert _minutes(tmp_path, _started(), _promoted(60), _started(), _promoted(120)) == 2.0


def test_history_command_writes_a_picture_and_prints_the_points(run_folder, capsys):
    pytest.importorskip("matplotlib")
    picture = run_folder / "accuracy.png"
    assert main(["history", "--run", str(run_folder), "--set", 'tree.branches={ analytical = ["math", "reasoning"] }', "--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.splitlines()[-1] == "   3.0 min  mean 70.0%  math 80.0%, reasoning 60.0%"


def test_history_command_without_a_promotion_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["history", "--run", str(tmp_path), "--picture", str(tmp_path / "accuracy.png")])
    assert "no promotion" in capsys.readouterr().err
    assert not (tmp_path / "accuracy.png").exists()
