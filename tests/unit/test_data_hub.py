"""Data sets laid out as on the Hub, from local folders: fields to records, kept once loaded, clear words for what is wrong."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import settings
from data_prep.corpus import prepare
from data_prep.hub import HubSet, fetch
from data_prep.records import Example, Record, split_turns
from data_prep.sources import DataError, read_files
from experts.tree import Tree
from training.graders import family, grade, graded_sources

pytestmark = pytest.mark.usefixtures("_no_network")


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def repository(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    """A data set as the Hub lays it out: data/<split>-00000-of-00001.parquet."""
    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def load(line: str, tmp_path: Path) -> list[Record]:
    files = fetch({"math": (line,)}, folder=tmp_path / "kept", cache_dir=tmp_path / "cache")
    return read_files(files["math"], cache_dir=tmp_path / "cache").records


def test_fields_become_records_and_rows_are_bounded(tmp_path: Path) -> None:
    rows = [{"question": f"q{number}", "answer": f"a{number}"} for number in range(5)]
    folder = repository(tmp_path / "gsm8k", train=rows, test=[{"question": "t", "answer": "u"}])
    records = load(f"{folder} prompt=question response=answer rows=3", tmp_path)
    assert [(record.prompt, record.response, record.meta["row"]) for record in records] == [("q0", "a0", 1), ("q1", "a1", 2), ("q2", "a2", 3)]
    assert {(record.domain, record.source, record.exam_only) for record in records} == {("math", "gsm8k_train", False)}
    assert records[2].where.startswith("hub/math/")
    assert records[2].where.endswith("-gsm8k_train.jsonl.gz:3")


def test_split_for_the_exam_is_exam_only(tmp_path: Path) -> None:
    folder = repository(tmp_path / "gsm8k", train=[{"q": "x", "a": "y"}], test=[{"q": "t", "a": "u"}])
    [record] = load(f"{folder} split=test prompt=q response=a exam=yes", tmp_path)
    assert (record.prompt, record.exam_only) == ("t", True)


def test_joined_nested_and_boolean_fields(tmp_path: Path) -> None:
    folder = repository(tmp_path / "squad", train=[{"context": "Some text.", "question": "Who?", "answers": {"text": ["Ann", "Ben"]}, "sure": True}])
    [one] = load(f"{folder} prompt=context+question response=answers.text.0", tmp_path)
    assert (one.prompt, one.response) == ("Some text.\n\nWho?", "Ann")
    [two] = load(f"{folder} prompt=answers.text response=sure", tmp_path)
    assert (two.prompt, two.response) == ("Ann\nBen", "yes")


def test_messages_become_turns_and_the_last_answer(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"},
             {"role": "user", "content": "bye"}, {"role": "assistant", "content": "see you"}, {"role": "user", "content": "thanks"}]
    folder = repository(tmp_path / "talk", train=[{"messages": turns}, {"messages": turns[:2]}])
    files = fetch({"math": (f"{folder} messages=messages",)}, folder=tmp_path / "kept", cache_dir=tmp_path / "cache")
    reading = read_files(files["math"], cache_dir=tmp_path / "cache")
    [record] = reading.records
    assert [turn["content"] for turn in split_turns(record.prompt)] == ["hi", "hello", "bye"]
    assert record.response == "see you"
    assert [(rejection.where[-21:], rejection.reason) for rejection in reading.rejections] == [("talk_train.jsonl.gz:2", "no prompt")]


def test_loaded_data_set_is_kept_and_a_changed_line_loads_anew(tmp_path: Path) -> None:
    folder = repository(tmp_path / "set", train=[{"q": f"q{number}", "a": "a"} for number in range(4)])
    assert len(load(f"{folder} prompt=q response=a rows=2", tmp_path)) == 2
    assert len(load(f"{folder} prompt=q response=a rows=3", tmp_path)) == 3
    shutil.rmtree(folder)
    assert len(load(f"{folder} prompt=q response=a rows=3", tmp_path)) == 3


@pytest.mark.parametrize(("name", "source"), [
    ("openai/gsm8k config=main split=train", "openai_gsm8k_main_train"), ("openai/gsm8k split=test", "openai_gsm8k"), ("/some/folder/set", "set_train"),
    ("C:\\data\\set", "set_train"), ("openai/gsm8k split=test exam=yes", "openai_gsm8k_test"), ("openai/gsm8k config=main source=gsm8k", "gsm8k_train"),
    ("openai/gsm8k config=main split=test exam=yes source=gsm8k", "gsm8k_test"), ("openai/gsm8k split=test source=gsm8k", "gsm8k"),
    ("a/b split=validation source=squad", "squad_validation"), ("a/b split=train[:10%] source=x_test", "x_train"),
    ("a/b split=sft source=my.set-2", "my.set-2")])
def test_source_is_the_name_and_ends_with_test_for_exams_alone(name: str, source: str) -> None:
    assert HubSet.parse(f"{name} prompt=q response=a", domain="math").source == source


@pytest.mark.parametrize(("option", "told"), [
    ("source=../up", "source=../up: a name of letters, digits, _ . and -"), ("source=a/b", "as in source=gsm8k"), ("source=", "unknown: source"),
    ("meta=a++b", "meta=a++b: fields with + between them"), ("meta=:a", "as in meta=id+answers:answers.text"), ("meta=a:", "the name that meta has it by"),
    ("meta=a+b:c+a:d", "no name twice"), ("meta=row", "'row' is taken"), ("meta=row:id", "'row' is taken")])
def test_source_and_meta_of_another_form_are_refused_with_the_repair(option: str, told: str) -> None:
    with pytest.raises(DataError, match="isn't of the form") as caught:
        HubSet.parse(f"owner/name prompt=q response=a {option}", domain="math")
    assert told in str(caught.value)


def test_meta_keeps_the_fields_that_are_named(tmp_path: Path) -> None:
    row = {"q": "Who?", "a": "Ann", "answers": {"text": ["Ann", "Ben"], "start": [0, 4]}, "sure": True, "tests": ["assert f(1)", "assert f(2)"], "none": None}
    folder = repository(tmp_path / "set", train=[row])
    [record] = load(f"{folder} prompt=q response=a meta=tests+sure+none+answers:answers.text+spans:answers+first:answers.text.0", tmp_path)
    assert record.meta == {"row": 1, "tests": ["assert f(1)", "assert f(2)"], "sure": "yes", "none": None, "answers": ["Ann", "Ben"],
                           "spans": {"text": ["Ann", "Ben"], "start": [0, 4]}, "first": "Ann"}


def test_meta_field_that_is_not_there_or_no_plain_data_is_refused(tmp_path: Path) -> None:
    folder = repository(tmp_path / "set", train=[{"q": "x", "a": "y", "picture": b"\x00"}])
    with pytest.raises(DataError, match=r"has no field 'answer'; its fields are q, a, picture; mend its line in data\.hub"):
        load(f"{folder} prompt=q response=a meta=answer", tmp_path)
    with pytest.raises(DataError, match=r"field 'picture' holds a bytes, and meta keeps texts, numbers, .*take the field out of meta= in data\.hub"):
        load(f"{folder} prompt=q response=a meta=picture", tmp_path)
    assert not list((tmp_path / "kept").rglob("*.gz"))


@pytest.mark.parametrize(("line", "told"), [
    ("owner/name prompt=q", "isn't of the form"), ("prompt=q response=a", "isn't of the form"), ("owner/name prompt=q response=a rows=many", "rows=many"),
    ("owner/name prompt=q response=a colour=red", "unknown: colour"), ("owner/name prompt=q response=a messages=m", "messages=m"), ("", "isn't of the form")])
def test_line_of_another_form_is_refused_with_the_form(line: str, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        HubSet.parse(line, domain="math")
    assert str(caught.value).startswith(f"data.hub.math: {line!r} isn't of the form \"owner/name config=C")


def test_unknown_field_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    folder = repository(tmp_path / "set", train=[{"question": "q", "answer": "a"}])
    with pytest.raises(DataError, match=r"has no field 'prompt'; its fields are question, answer; mend its line in data\.hub"):
        load(f"{folder} prompt=prompt response=answer", tmp_path)
    assert not list((tmp_path / "kept").rglob("*.gz"))


def test_data_set_that_cannot_be_loaded_is_named_with_the_repair(tmp_path: Path) -> None:
    folder = repository(tmp_path / "set", train=[{"q": "q", "a": "a"}])
    with pytest.raises(DataError, match=r"\(config None, split nowhere\) can't be loaded: .*else take its line out of data\.hub"):
        load(f"{folder} split=nowhere prompt=q response=a", tmp_path)


def test_recipe_names_a_data_set_for_every_domain() -> None:
    chosen = settings.load(recipe="hub")
    tree = Tree.from_settings(chosen.tree)
    assert set(chosen.data.hub) == set(tree.domains)
    assert all(HubSet.parse(line, domain=domain).rows > 0 for domain, lines in chosen.data.hub.items() for line in lines)
    assert settings.check(settings.tomllib.loads(settings.to_toml(chosen))) == chosen


# A row of each data set of recipes/hub.toml with the fields that it has on the Hub, and an answer to it that is wrong; None: free text.
_ROWS: dict[str, tuple[dict[str, Any], str | None]] = {
    "openai/gsm8k": ({"question": "Natalia sold 48 clips and half as many in May. How many?", "answer": "48/2 = <<48/2=24>>24 in May.\n#### 72"}, "#### 48"),
    "google/boolq": ({"question": "are cats big", "answer": False, "passage": "Cats are small."}, "There is no doubt that cats are big. Yes."),
    "HuggingFaceTB/smoltalk": ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}], "full_topic": "greetings"}, None),
    "allenai/sciq": ({"question": "What bends winds?", "distractor3": "tide", "distractor1": "heat", "distractor2": "muon", "correct_answer": "coriolis effect",
                      "support": "The Coriolis effect bends winds."}, "tide"),
    "rajpurkar/squad": ({"id": "5", "title": "Bowl", "context": "They beat the Steelers.", "question": "Who lost?",
                         "answers": {"text": ["the Pittsburgh Steelers", "Steelers"], "answer_start": [10, 14]}}, "the Broncos"),
    "google-research-datasets/mbpp": ({"task_id": 1, "text": "Write a function to add.", "code": "def add(a, b):\r\n    return a + b + BASE",
                                       "test_list": ["assert add(1, 2) == 3", "assert add(0, 5) == 5"], "test_setup_code": "BASE = 0",
                                       "challenge_test_list": list[str]()}, "def add(a, b):\n    return a - b"),
}


def _as_on_the_hub(folder: Path, line: str, row: dict[str, Any]) -> Path:
    """One row under the line's configuration and split: a folder for each, named in the card's head, as on the Hub."""
    wanted = HubSet.parse(line, domain="any")
    config = wanted.config or "default"
    (folder / config).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row]), folder / config / f"{wanted.split}-00000-of-00001.parquet")
    head = f"configs:\n- config_name: {config}\n  data_files:\n  - split: {wanted.split}\n    path: {config}/{wanted.split}-*"
    (folder / "README.md").write_text(f"---\n{head}\n---\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("line", [line for lines in settings.load(recipe="hub").data.hub.values() for line in lines])
def test_recipe_records_have_a_grader_that_takes_the_true_response(tmp_path: Path, line: str) -> None:
    name, *options = line.split()
    row, wrong = _ROWS[name]
    [record] = load(" ".join([str(_as_on_the_hub(tmp_path / "set", line, row)), *options]), tmp_path)
    task = Example("any", record.prompt, record.response, record.source, "0", record.meta)
    assert (family(record.source) in graded_sources()) is (wrong is not None)
    graded = [grade(task, text) for text in (record.response, wrong or "hello")]
    assert [found and found.correct for found in graded] == ([True, False] if wrong is not None else [None, None])
    assert record.exam_only is ("exam=yes" in options)


def test_recipe_asks_for_the_function_that_the_tests_call(tmp_path: Path) -> None:
    [line] = settings.load(recipe="hub").data.hub["code"]
    folder = _as_on_the_hub(tmp_path / "set", line, _ROWS["google-research-datasets/mbpp"][0])
    [record] = load(" ".join([str(folder), *line.split()[1:]]), tmp_path)
    assert record.prompt == "Write a function to add.\n\nassert add(1, 2) == 3"


def test_recipe_squad_counts_every_listed_answer(tmp_path: Path) -> None:
    [line] = [line for line in settings.load(recipe="hub").data.hub["knowledge"] if "squad" in line]
    folder = _as_on_the_hub(tmp_path / "set", line, _ROWS["rajpurkar/squad"][0])
    [record] = load(" ".join([str(folder), *line.split()[1:]]), tmp_path)
    task = Example("any", record.prompt, record.response, record.source, "0", record.meta)
    assert [found.correct for text in ("Steelers", "Pittsburgh Steelers", "Pittsburgh") if (found := grade(task, text))] == [True, True, False]


def test_documentation_names_every_graded_source() -> None:
    told = (settings.HOME / "docs" / "data.md").read_text(encoding="utf-8").partition("## Graded sources")[2]
    assert [source for source in graded_sources() if f"`{source}`" not in told] == []


def test_corpus_takes_hub_records_beside_those_of_the_folder(tmp_path: Path) -> None:
    folder = repository(tmp_path / "set", train=[{"q": f"Which page has word {number * 7919}?", "a": f"page {number}"} for number in range(60)])
    (tmp_path / "data" / "law").mkdir(parents=True)
    own = "".join(json.dumps({"prompt": f"law {number}", "response": "x"}) + "\n" for number in range(40))
    (tmp_path / "data" / "law" / "a.jsonl").write_text(own, encoding="utf-8")
    tables: dict[str, Any] = {"run": {"dir": str(tmp_path / "run")}, "tree": {"branches": {"one": ["law"]}}, "tokenizer": {"vocab_size": 300},
                              "data": {"path": str(tmp_path / "data"), "hub": {"law": [f"{folder} prompt=q response=a"]}}}
    chosen = settings.check(tables)
    corpus = prepare(chosen, Tree.from_settings(chosen.tree), cycle=1, log=lambda line: None)
    assert {row.source for row in corpus.examples("law", "train")} == {"a", "set_train"}
    tables["data"]["hub"] = {"cooking": ["owner/name prompt=q response=a"]}
    chosen = settings.check(tables)
    with pytest.raises(DataError, match=r"data\.hub names cooking, which tree\.branches doesn't \(law\)"):
        prepare(chosen, Tree.from_settings(chosen.tree), cycle=1, log=lambda line: None)


@pytest.mark.parametrize(("turns", "found"), [([{"from": "human", "value": "hi"}], "from, value"), (["hi", "hello"], "'hi'")])
def test_turns_of_another_form_are_refused_with_what_was_found(tmp_path: Path, turns: list[Any], found: str) -> None:
    folder = repository(tmp_path / "talk", train=[{"conversations": turns}])
    with pytest.raises(DataError, match=rf"conversations.*role and content.*{found}"):
        load(f"{folder} messages=conversations", tmp_path)


@pytest.mark.parametrize("rows", ["0", "\u00b2", "many"])
def test_rows_that_are_no_count_are_refused(rows: str) -> None:
    with pytest.raises(DataError, match="isn't of the form"):
        HubSet.parse(f"owner/name prompt=a response=b rows={rows}", domain="math")
