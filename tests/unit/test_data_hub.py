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
from data_prep.records import Record, split_turns
from data_prep.sources import DataError, read_files
from experts.tree import Tree

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
    ("C:\\data\\set", "set_train"), ("openai/gsm8k split=test exam=yes", "openai_gsm8k_test")])
def test_source_is_the_name_and_ends_with_test_for_exams_alone(name: str, source: str) -> None:
    assert HubSet.parse(f"{name} prompt=q response=a", domain="math").source == source


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
