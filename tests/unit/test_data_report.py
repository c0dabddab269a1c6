"""The report and its command: numbers that add up, tables a terminal shows, exit codes a script can trust."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

import settings
from data_prep.__main__ import main
from data_prep.corpus import prepare
from data_prep.report import DomainReport, Drops, Intake, Overlap, Packing, Report, count_drops
from data_prep.sources import Rejection
from experts.tree import Tree

PACKING = Packing(tokens={"train": 1000, "validation": 100, "exam": 50}, answer_tokens={"train": 250, "validation": 30, "exam": 20},
                  cut_prompts=1, cut_responses=2, cut_tokens=30, efficiency=0.987, bytes_per_token=3.456)
INTAKE = Intake(read=10, own=7, kept={"train": 5, "validation": 1, "exam": 1}, sources={"a": 10}, text_bytes={"train": 3456, "validation": 0, "exam": 0},
                drops={"duplicate": Drops(2, ("law/a.jsonl:3: same content as law/a.jsonl:1",)), "not JSON": Drops(1, ("law/a.jsonl:9: bad [x]",))},
                spared={"near-duplicate of a held-out row": Drops(1204, ("law/a.jsonl:4: similarity 0.91 to law/a.jsonl:2",))})


def shown(report: Report, *, width: int = 80) -> str:
    console = Console(width=width, record=True, file=None, color_system=None)
    with console.capture() as capture:
        console.print(report.tables())
    return capture.get()


def test_drops_are_counted_with_the_first_places() -> None:
    drops = count_drops([Rejection(f"a:{number}", "empty", "why") for number in range(1, 9)] + [Rejection("b:1", "not JSON", "how")])
    assert drops["empty"] == Drops(8, ("a:1: why", "a:2: why", "a:3: why", "a:4: why", "a:5: why"))
    assert drops["not JSON"] == Drops(1, ("b:1: how",))


def test_tables_show_every_number_at_80_columns() -> None:
    report = Report((DomainReport("law", INTAKE, PACKING, Overlap(40, 1, 0.025, False)),), ("code/: an empty folder",))
    text = shown(report)
    rows = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in text.splitlines() if line.startswith("\u2502 law")]
    assert rows[0] == ["law", "10", "5", "1", "1", "3", "2", "2.5%"]
    assert rows[1] == ["law", "1,000", "25.0%", "3.46", "98.7%", "3"]
    assert rows[2][:3] == ["law", "duplicate", "2"]
    assert "law/a.jsonl:9: bad [x]" in shown(report, width=160)
    assert "note: code/: an empty folder" in text
    assert "note: law: 1,204 training rows are like held-out ones and were kept: more than a fifth of the domain" in shown(report, width=200)


def test_intake_and_overlap_survive_json() -> None:
    assert Intake.from_json(json.loads(json.dumps(INTAKE.to_json()))) == INTAKE
    overlap = Overlap(10, 2, 0.2, True, ("k1", "k2"), (("asked", "trained", 0.9),))
    assert Overlap.from_json(json.loads(json.dumps({name: getattr(overlap, name) for name in overlap.__dataclass_fields__}))) == overlap


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "data" / "law").mkdir(parents=True)
    lines = [json.dumps({"prompt": f"What does rule {number * 37} of book {number} say?", "response": f"It says {number}."}) for number in range(60)]
    lines += ["junk", lines[0]]
    (tmp_path / "data" / "law" / "a.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "config.toml").write_text('tokenizer.vocab_size = 300\n[tree.branches]\none = ["law"]\n', encoding="utf-8")
    return ["--config", str(tmp_path / "config.toml"), "--run", str(tmp_path / "run"), "--data", str(tmp_path / "data")]


def test_build_counts_add_up(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", *arguments, "--json", str(tmp_path / "report.json")]) == 0
    law = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["domains"]["law"]
    assert law["read"] == 62
    assert sum(law["kept"].values()) + sum(drops["count"] for drops in law["drops"].values()) == 62
    assert law["drops"]["not JSON"]["count"] == 1
    assert law["drops"]["not JSON"]["first"][0].startswith("law/a.jsonl:61: ")
    assert law["drops"]["duplicate"]["first"] == ["law/a.jsonl:62: same content as law/a.jsonl:1"]
    assert "law/a.jsonl:61" in capsys.readouterr().out


def test_build_measures_bytes_per_token_and_packing(arguments: list[str], tmp_path: Path) -> None:
    assert main(["build", *arguments, "--json", str(tmp_path / "report.json")]) == 0
    law = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["domains"]["law"]
    assert law["bytes_per_token"] == pytest.approx(sum(law["text_bytes"].values()) / sum(law["tokens"].values()))
    rows = law["tokens"]["train"] - law["kept"]["train"]  # a row has no place for a document's last token
    assert law["efficiency"] == pytest.approx(rows / (-(-rows // 384) * 384), rel=0.2)
    assert 0 < law["efficiency"] <= 1


def test_report_shows_what_was_prepared_and_build_takes_new_files(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    read, old = [], []
    for action, name in (("report", "a2"), ("report", "a3"), ("build", "a4")):  # the first builds: there is nothing yet
        assert main([action, *arguments, "--json", str(file)]) == 0
        old.append("the files as they were when cycle 0 was prepared; `build` takes them as they are now" in capsys.readouterr().err)
        read.append(json.loads(file.read_text(encoding="utf-8"))["domains"]["law"]["read"])
        (tmp_path / "data" / "law" / f"{name}.jsonl").write_text(json.dumps({"prompt": f"Is file {name} new?", "response": "Yes."}) + "\n", encoding="utf-8")
    assert read == [62, 62, 64]
    assert old == [False, True, False]


def test_first_look_prepares_the_cycle_that_the_loop_begins_with(tmp_path: Path) -> None:
    fingerprints = []
    for name, looks in (("alone", False), ("looked", True)):
        tables = {"run": {"dir": str(tmp_path / name)}, "tree": {"branches": {"one": ["math", "code"]}}, "tokenizer": {"vocab_size": 400},
                  "data": {"curriculum_records": 200}, "exam": {"tasks": 20}}
        chosen = settings.check(tables)
        if looks:
            (tmp_path / "config.toml").write_text(settings.to_toml(chosen), encoding="utf-8")
            assert main(["report", "--config", str(tmp_path / "config.toml")]) == 0
        fingerprints.append(prepare(chosen, Tree.from_settings(chosen.tree), cycle=0, log=lambda text: None, resume=False, training="loop").fingerprint)
    assert fingerprints[0] == fingerprints[1]


def test_unusable_data_ends_with_code_2_and_the_reason(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", *arguments, "--data", "nowhere"]) == 2
    assert "data_prep: data.path = 'nowhere' doesn't exist" in capsys.readouterr().err


def test_refused_exam_ends_with_code_1_after_the_tables(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (tmp_path / "data" / "law" / "a.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    long = [json.loads(line) | {"prompt": " ".join([json.loads(line)["prompt"]] * 3)} for line in lines]
    (tmp_path / "data" / "law" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long), encoding="utf-8")
    asked = [row | {"prompt": row["prompt"] + " Well?"} for row in long]
    (tmp_path / "data" / "law" / "a_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    assert main(["build", *arguments]) == 1
    output = capsys.readouterr()
    assert "refused" in output.out
    assert "the exam of 'law' is refused" in output.err


def test_run_folder_in_use_ends_with_code_2(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from experts.run_lock import RunLock

    (tmp_path / "run").mkdir()
    with RunLock(tmp_path / "run"):
        assert main(["build", *arguments]) == 2
    assert "data_prep: " in capsys.readouterr().err
