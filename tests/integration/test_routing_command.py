"""The command python -m routing over a small real run: fit, evaluate and explain, and its refusals."""

import gzip
import json
import shutil

import pytest

from experts.journal import Journal
from experts.registry import Registry
from routing.__main__ import _show, main
from routing.explain import Explanation, Term
from routing.router import Route

TALK = {"math": "what is {a} plus {b}", "reasoning": "if Ann is older than person {a} and person {a} is older than person {b}, who is oldest",
        "conversation": "hello friend {a}, how are you on day {b}", "knowledge": "who was king number {a} of country {b}",
        "code": "write a python function that sorts list {a} by key {b}"}
SMALL = ("router.everyday_rows=120", "router.none_rows=150", "router.words=3000", "router.letter_groups=3000", "router.forms=1000",
         "data.curriculum_records=200", "tokenizer.vocab_size=320", "data.curriculum=never", "data.exam_share=0.1", "data.validation_share=0.1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a fitted, promoted router; the words of a command line that name it."""
    home = tmp_path_factory.mktemp("routing")
    for domain, prompt in TALK.items():
        (home / "data" / domain).mkdir(parents=True)
        lines = [json.dumps({"prompt": prompt.format(a=a, b=a * 7 % 50), "response": f"Answer {a}."}) for a in range(120)]
        (home / "data" / domain / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["--run", str(home / "run"), "--data", str(home / "data"), *(word for setting in SMALL for word in ("--set", setting))]
    assert main(["fit", "--json", str(home / "fit.json"), *words]) == 0
    return home, words


def test_fit_promotes_a_router_and_reports(run):
    home, _ = run
    report = json.loads((home / "fit.json").read_text(encoding="utf-8"))
    registry = Registry(home / "run")
    assert registry.pointer().router == report["version"] == "v000001"
    assert report["validation"]["accuracy"] >= 0.9
    assert registry.card("router", "v000001")["corpus"]


@pytest.fixture
def again(run, tmp_path):
    """A copy of the run, with its words, for a second fit."""
    home, words = run
    shutil.copytree(home / "run", tmp_path / "run")
    return tmp_path, [str(tmp_path / "run") if word == str(home / "run") else word for word in words]


@pytest.fixture
def misled(again):
    """The copy, whose users have called every sum code: a router fitted on that is worse."""
    home, words = again
    with Journal(home / "run" / "journal.db") as journal:
        for a in range(300):
            journal.append("feedback", node="math", prompt=f"what is {a} plus {a * 7 % 50}", verdict="bad", right_node="code", expert="math",
                           client=f"client {a}", request=str(a))
    return home, [*words, "--set", "router.feedback_weight=10"]


def test_fit_that_is_worse_than_the_served_router_is_refused_and_journalled(misled, capsys):
    home, words = misled
    assert main(["fit", "--json", str(home / "fit.json"), *words]) == 0
    report = json.loads((home / "fit.json").read_text(encoding="utf-8"))
    assert report["validation"]["accuracy"] < report["served_accuracy"]
    assert (report["version"], report["promoted"]) == (None, False)
    assert Registry(home / "run").pointer().router == "v000001"
    assert sorted(folder.name for folder in (home / "run" / "router").glob("v*")) == ["v000001"]
    assert "router refused: accuracy on" in capsys.readouterr().err
    with Journal(home / "run" / "journal.db", read_only=True) as journal:
        refusal = journal.events(kind="refused", node="router")[-1]
    assert refusal.facts["reason"].endswith(f"served version {report['served_accuracy']:.2%}")


def test_fit_that_is_worse_is_promoted_by_force(misled):
    home, words = misled
    assert main(["fit", "--force", "--json", str(home / "fit.json"), *words]) == 0
    report = json.loads((home / "fit.json").read_text(encoding="utf-8"))
    assert (report["version"], report["promoted"]) == ("v000002", True)
    assert report["reason"].endswith(", forced")
    assert Registry(home / "run").pointer().router == "v000002"


def test_fit_again_on_the_same_rows_ties_and_is_promoted(again):
    home, words = again
    assert main(["fit", "--json", str(home / "fit.json"), *words]) == 0
    report = json.loads((home / "fit.json").read_text(encoding="utf-8"))
    assert report["validation"]["accuracy"] == report["served_accuracy"]
    assert Registry(home / "run").pointer().router == "v000002"
    with Journal(home / "run" / "journal.db", read_only=True) as journal:
        assert journal.events(kind="promoted", node="router")[-1].facts["version"] == "v000002"


def test_evaluate_writes_the_figures_of_a_gzipped_file(run):
    home, words = run
    rows = [("what is 4 plus 5", "math"), ("write a python function that adds", "code"), ("hello, how are you", "conversation"), ("qqx zzw kkv", "ood")]
    with gzip.open(home / "prompts.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(json.dumps({"prompt": prompt, "label": label}) for prompt, label in rows) + "\n")
    assert main(["evaluate", "--prompts", str(home / "prompts.jsonl.gz"), "--json", str(home / "judged.json"), *words]) == 0
    judged = json.loads((home / "judged.json").read_text(encoding="utf-8"))
    assert judged["n"] == 4
    assert judged["accuracy"] == 1.0
    assert judged["ood_auroc"] == 1.0
    assert set(judged["per_domain"]) == {"math", "code", "conversation"}


def test_evaluate_of_graded_prompts_reports_regret_and_baselines(run):
    home, words = run
    rows = [{"prompt": "what is 4 plus 5", "label": "math", "grades": {"generalist": 0.5, "math": 1.0, "code": 0.0}},
            {"prompt": "write a python function that adds", "label": "code", "grades": {"generalist": 0.0, "math": 0.0, "code": 1.0}}]
    (home / "graded.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    assert main(["evaluate", "--prompts", str(home / "graded.jsonl"), "--json", str(home / "graded.json"), *words]) == 0
    judged = json.loads((home / "graded.json").read_text(encoding="utf-8"))
    assert judged["baselines"]["nearest neighbours"] == judged["baselines"]["flat"] == 1.0
    assert judged["baselines"]["keyword rules"] == 0.5  # "what is 4 plus 5" reads as a question of knowledge to them
    assert judged["baselines"]["majority"] in {0.0, 0.5}
    assert (judged["oracle"]["regret"], judged["oracle"]["gain"], judged["oracle"]["regrets"]["nearest neighbours"]) == (0.0, 0.5, 0.0)


def test_evaluate_with_grades_beyond_one_is_refused(run, capsys):
    home, words = run
    (home / "over.jsonl").write_text('{"prompt": "hi", "label": "math", "grades": {"math": 3}}\n', encoding="utf-8")
    assert main(["evaluate", "--prompts", str(home / "over.jsonl"), *words]) == 2
    assert 'over.jsonl:1: "grades" must name nodes and their grades from 0 to 1' in capsys.readouterr().err


def test_evaluate_draws_pictures(run):
    pytest.importorskip("matplotlib")
    home, words = run
    (home / "few.jsonl").write_text('{"prompt": "what is 4 plus 5", "label": "math"}\n{"prompt": "qqx zzw", "label": "ood"}\n', encoding="utf-8")
    assert main(["evaluate", "--prompts", str(home / "few.jsonl"), "--pictures", str(home / "pictures"), *words]) == 0
    pictures = sorted((home / "pictures").iterdir())
    assert [picture.name for picture in pictures] == ["confusion.png", "reliability.png", "risk_coverage.png"]
    assert all(picture.read_bytes().startswith(b"\x89PNG\r\n") for picture in pictures)


def test_explain_shows_node_and_terms(run, capsys):
    home, words = run
    assert main(["explain", "what is 12 plus 30", "--json", str(home / "why.json"), *words]) == 0
    why = json.loads((home / "why.json").read_text(encoding="utf-8"))
    assert why["route"]["node"] == "math"
    assert why["terms"][0]["term"] in capsys.readouterr().out


def test_explain_shows_words_as_they_stand(capsys):
    route = Route("code", "technical", "code", 0.9, (), abstained=False, reason="sure of code")
    _show(Explanation(route, {"code": 0.9}, "code", "math", (Term("[/x]", 0.5), Term(":top:", 0.25)), {":100:": "[b]"}))
    shown = capsys.readouterr().out
    assert "read ':100:' as '[b]'" in shown
    assert "[/x]" in shown
    assert ":top:" in shown


def test_evaluate_names_the_line_that_is_wrong(run, capsys):
    home, words = run
    (home / "bad.jsonl").write_text('{"prompt": "hi", "label": "math"}\n{"prompt": "hi"}\n', encoding="utf-8")
    assert main(["evaluate", "--prompts", str(home / "bad.jsonl"), *words]) == 2
    assert 'bad.jsonl:2 needs "prompt" and "label"' in capsys.readouterr().err


def test_evaluate_with_an_unknown_label_is_refused(run, capsys):
    home, words = run
    (home / "law.jsonl").write_text('{"prompt": "hi", "label": "math"}\n{"prompt": "sue", "label": "law"}\n', encoding="utf-8")
    assert main(["evaluate", "--prompts", str(home / "law.jsonl"), *words]) == 2
    assert "labelled ['law']" in capsys.readouterr().err


def test_explain_without_a_router_says_how_to_fit_one(tmp_path, capsys):
    assert main(["explain", "hi", "--run", str(tmp_path / "none")]) == 2
    assert "fit one: python -m routing fit" in capsys.readouterr().err
