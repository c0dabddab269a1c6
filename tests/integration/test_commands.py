"""The commands at the top level, as a user calls them, over one toy family that is trained once."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

import demo
import fast_train
import settings
import test_all_experts
from experts.journal import Journal
from experts.registry import Registry
from routing.router import Route, Router
from training import report as family_report

PATIENCE_S = 120


def command(script, run, data, overrides, *extra):
    arguments = [sys.executable, str(settings.HOME / script), "--run", str(run), "--data", str(data), *(f"--set={override}" for override in overrides), *extra]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.fixture(scope="module")
def family(tmp_path_factory, records_folder, toy_overrides):
    """Run folder of a toy family after one cycle, slow enough that its answers still go in circles; tests may add versions but break nothing."""
    run = tmp_path_factory.mktemp("family") / "run"
    done = command("continuous_loop.py", run, records_folder, toy_overrides, "--set=train.lr=3e-3", "--set=loop.root_reads=0", "--no-serve", "--cycles=1")
    assert done.returncode == 0, done.stderr
    return run


def test_test_all_experts_writes_the_promised_figures(family, records_folder, toy_overrides, tmp_path):
    done = command("test_all_experts.py", family, records_folder, toy_overrides, "--set=exam.loop_rate_ceiling=1", "--set=exam.router_floor=0",
                   f"--json={tmp_path / 'out.json'}", f"--grades={tmp_path / 'grades.jsonl'}")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    pointer = Registry(family).pointer()
    assert (tmp_path / "grades.jsonl").read_text(encoding="utf-8") == ""  # toy records are free text: nobody grades them, so there is no oracle
    assert "oracle" not in figures["router"]
    assert {name: node["version"] for name, node in figures["nodes"].items()} == pointer.nodes
    assert set(figures["nodes"]["math"]) >= {"version", "accuracy", "loop_rate", "bits_per_byte", "parameters"}
    assert set(figures["matrix"]["math"]) == {"math", "reasoning", "conversation", "knowledge", "code"}
    assert figures["router"]["version"] == pointer.router
    assert figures["nodes"]["math"]["bits_per_byte"] == pytest.approx(figures["bits_matrix"]["math"]["math"])
    assert figures["nodes"]["math"]["version"] in done.stdout


@pytest.fixture
def maimed(family, tmp_path):
    """A copy of the family; and a function that flips a byte in the weights of a node's one version there."""
    def harm(node):
        weights = copy / "nodes" / node / "v000001" / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)

    copy = shutil.copytree(family, tmp_path / "copy")
    return copy, harm


def options(run, data, overrides):
    return ["--run", str(run), "--data", str(data), *(f"--set={override}" for override in overrides)]


def test_test_all_experts_shows_what_answers_where_an_expert_has_no_version(maimed, records_folder, toy_overrides, tmp_path, capsys):
    run, harm = maimed
    harm("knowledge")
    passes = ("--set=exam.loop_rate_ceiling=1", "--set=exam.router_floor=0")
    code = test_all_experts.main([*options(run, records_folder, toy_overrides), *passes, "--json", str(tmp_path / "out.json")])
    shown = " ".join(capsys.readouterr().out.split())
    figures = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    nodes = Registry(run).pointer().nodes
    stand_in = "language" if "language" in nodes else "generalist"
    assert code == 0
    assert "knowledge" not in nodes
    assert set(figures["nodes"]) == set(nodes)
    assert figures["answering"]["knowledge"] == stand_in
    assert f"knowledge: no version is promoted; answered by {stand_in}" in shown
    assert shown.count(f"[knowledge, answered by {stand_in}] Which item stands at") == 3
    assert {domain: shown.count(f"[{domain}] ") for domain in ("math", "code")} == {"math": 3, "code": 3}


def test_test_all_experts_goes_on_without_a_whole_root(maimed, records_folder, toy_overrides, tmp_path, capsys):
    run, harm = maimed
    harm("generalist")
    test_all_experts.main([*options(run, records_folder, toy_overrides), "--json", str(tmp_path / "out.json")])
    figures = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert "generalist" not in figures["nodes"]
    assert {"math", "code"} <= set(figures["answering"])
    assert "[math] " in capsys.readouterr().out


def test_test_all_experts_with_a_router_of_another_tree_examines_the_nodes_and_exits_1(family, records_folder, toy_overrides, tmp_path, capsys):
    fewer = 'tree.branches={analytical=["math", "reasoning"], language=["conversation", "knowledge"]}'
    code = test_all_experts.main([*options(family, records_folder, (*toy_overrides, fewer, "exam.loop_rate_ceiling=1")), "--json", str(tmp_path / "out.json")])
    shown = " ".join(capsys.readouterr().out.split())
    figures = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert code == 1
    assert shown.count("below the floor: ") == 1
    assert "below the floor: router: v000001 can't be used: " in shown
    assert "was fitted for the tree" in shown
    assert figures["router"] == {}
    assert "v000001 can't be used" in figures["router_fault"]
    assert {"generalist", "math"} <= set(figures["nodes"])


def test_test_all_experts_below_a_floor_exits_1_and_names_it(family, records_folder, toy_overrides):
    done = command("test_all_experts.py", family, records_folder, toy_overrides, "--set=exam.loop_rate_ceiling=0", "--set=exam.router_floor=0")
    assert done.returncode == 1
    assert "over exam.loop_rate_ceiling = 0.0%" in " ".join(done.stdout.split())


def test_test_all_experts_without_a_family_exits_2(tmp_path, records_folder, toy_overrides):
    done = command("test_all_experts.py", tmp_path / "none", records_folder, toy_overrides)
    assert done.returncode == 2
    assert "nothing is promoted" in done.stderr
    assert not (tmp_path / "none" / "journal.db").exists()


def test_test_all_experts_computes_with_the_threads_that_are_set(tmp_path):
    before = torch.get_num_threads()
    try:
        with pytest.raises(SystemExit):  # nothing to examine
            test_all_experts.main(["--run", str(tmp_path / "none"), "--set=run.threads=3"])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("module", "option"), [(test_all_experts, "--json"), (test_all_experts, "--grades"), (fast_train, "--json")])
def test_command_refuses_a_file_in_no_folder_before_it_works(tmp_path, capsys, module, option):
    for file, told in ((tmp_path / "none" / "out.json", f"there is no folder {tmp_path / 'none'}; make it first, or give a file in a folder that is there"),
                       (tmp_path, "is a folder; give a file, as in")):
        with pytest.raises(SystemExit) as ended:
            module.main(["--run", str(tmp_path / "run"), option, str(file)])
        assert ended.value.code == 2
        assert f"{option} {file}: {told}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_test_all_experts_keeps_its_figures_when_the_output_is_gone(tmp_path, monkeypatch):
    def gone(report):
        raise BrokenPipeError

    monkeypatch.setattr(test_all_experts, "_examine", lambda chosen, grades: "report")
    monkeypatch.setattr(family_report, "to_json", lambda report: {"of": report})
    monkeypatch.setattr(family_report, "to_tables", gone)
    with pytest.raises(BrokenPipeError):
        test_all_experts.main(["--run", str(tmp_path), "--json", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == {"of": "report"}


def test_demo_answers_and_shows_the_route(family, records_folder, toy_overrides):
    done = command("demo.py", family, records_folder, toy_overrides, "--max-new-tokens=4", "What is 3 plus 4?")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split(";")[0].strip("[") in Registry(family).pointer().nodes
    assert "sure" in done.stdout.splitlines()[0]


def test_demo_with_a_router_of_another_tree_says_so_once_and_lets_the_root_answer(family, records_folder, toy_overrides, capsys, caplog, monkeypatch):
    typed = iter(["What is 3 plus 4?", "And 5?"])
    monkeypatch.setattr("builtins.input", lambda mark: next(typed, None) or (_ for _ in ()).throw(EOFError))
    more = ('tree.branches={analytical=["math", "reasoning"], language=["conversation", "knowledge"], technical=["code"], law=["tax"]}',)
    assert demo.main([*options(family, records_folder, (*toy_overrides, *more)), "--max-new-tokens=4"]) == 0
    assert capsys.readouterr().out.count("[generalist; the router can't be used]") == 2
    said, = (record.getMessage() for record in caplog.records if "router" in record.getMessage())
    assert "the router can't be used, generalist answers: " in said
    assert "was fitted for the tree" in said


def test_demo_lets_the_branch_or_root_answer_for_a_node_whose_one_version_is_damaged(maimed, records_folder, toy_overrides, capsys, monkeypatch):
    run, harm = maimed
    asked = [*options(run, records_folder, toy_overrides), "--max-new-tokens=4", "What is 3 plus 4?"]
    monkeypatch.setattr(Router, "route", lambda self, messages: Route("math", "analytical", "math", 1.0, (), False, "told"))
    assert demo.main(asked) == 0
    assert "[math; 100% sure" in capsys.readouterr().out
    harm("math")
    ancestor = "analytical" if "analytical" in Registry(run).pointer().nodes else "generalist"
    assert demo.main(asked) == 0
    assert f"[{ancestor}; 100% sure" in capsys.readouterr().out
    assert "math" not in Registry(run).pointer().nodes
    for node in {ancestor, "generalist"}:
        harm(node)
    with pytest.raises(SystemExit) as ended:
        demo.main(asked)
    assert ended.value.code == 2
    assert "nothing whole is promoted that could answer for math; run python continuous_loop.py" in capsys.readouterr().err


def test_demo_without_a_family_says_what_to_run(tmp_path, records_folder, toy_overrides):
    done = command("demo.py", tmp_path / "none", records_folder, toy_overrides, "hello")
    assert done.returncode == 2
    assert "run python continuous_loop.py first" in done.stderr


def test_fast_train_offers_one_node_and_writes_losses(family, records_folder, toy_overrides, tmp_path):
    before = Registry(family).pointer().nodes
    done = command("fast_train.py", family, records_folder, toy_overrides, "--expert=math", "--epochs=2", "--set=train.validate_every_steps=2",
                   f"--json={tmp_path / 'out.json'}")
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert facts["status"] in {"promoted", "refused"}
    assert facts["best"]["val_loss"] == min(row["val_loss"] for row in facts["history"])
    assert set(facts["history"][0]) == {"step", "val_loss", "train_loss", "train_s", "tokens"}
    assert facts["history"][-1]["tokens"] > 0
    started = Journal(family / "journal.db", read_only=True).events(kind="training_started", node="math")[-1]
    assert facts["history"][-1]["step"] == started.facts["steps"] < 100  # two epochs of a small folder, whatever loop.cycle_minutes says
    assert facts["parameters"] == 320 * 32 + 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 32 * 3 + 16 * 2
    after = Registry(family).pointer().nodes
    assert {name for name in after if after[name] != before.get(name)} <= {"math"}
    assert ("promoted" in done.stdout) == (after["math"] != before.get("math"))


def test_fast_train_unknown_node_names_the_known_ones(family, records_folder, toy_overrides):
    done = command("fast_train.py", family, records_folder, toy_overrides, "--expert=maths")
    assert done.returncode == 2
    assert "no such node; nodes with a model of their own: generalist, analytical" in done.stderr
    done = command("fast_train.py", family, records_folder, toy_overrides, "--expert=technical")
    assert "it shares the model of 'code'" in done.stderr


def test_continuous_loop_data_folder_that_is_not_there_is_named(tmp_path, toy_overrides):
    done = command("continuous_loop.py", tmp_path / "run", tmp_path / "nowhere", toy_overrides, "--no-serve", "--cycles=1")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
