"""Reading a data folder: every kind of file, and every kind of damage named by file and line."""

from __future__ import annotations

import gzip
import json
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import sources
from data_prep.intake import fingerprint
from data_prep.sources import DataError, DataFile, list_folder, read_files
from settings import Settings


def line(prompt: object = "two and two?", response: object = "four", **more: object) -> str:
    return json.dumps({"prompt": prompt, "response": response, **more}) + "\n"


def read(folder: Path, *domains: str) -> sources.Reading:
    files = list_folder(folder, domains=domains or ("math",)).files
    return read_files([file for found in files.values() for file in found], cache_dir=folder.parent / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "math").mkdir(parents=True)
    return tmp_path / "data"


@pytest.mark.parametrize("pack", ["plain", "gzip"])
def test_json_lines_with_all_fields_become_records(folder: Path, pack: str) -> None:
    text = line("1+1?", "2", source="sums", meta={"answer": "2"}).encode()
    (folder / "math" / ("a.jsonl" if pack == "plain" else "a.jsonl.gz")).write_bytes(text if pack == "plain" else gzip.compress(text))
    [record] = read(folder).records
    assert (record.domain, record.prompt, record.response, record.source, record.meta) == ("math", "1+1?", "2", "sums", {"answer": "2"})
    assert not record.exam_only
    assert record.where == ("math/a.jsonl:1" if pack == "plain" else "math/a.jsonl.gz:1")


def test_record_without_source_takes_the_file_name(folder: Path) -> None:
    (folder / "math" / "sums.v2.jsonl").write_text(line(), encoding="utf-8")
    assert read(folder).records[0].source == "sums.v2"


def test_meta_of_different_shapes_stays_as_written(folder: Path) -> None:
    (folder / "math" / "a.jsonl").write_text(line(meta={"a": 1}) + line(meta={"b": ["x"]}) + line(), encoding="utf-8")
    assert [record.meta for record in read(folder).records] == [{"a": 1}, {"b": ["x"]}, {}]


@pytest.mark.parametrize(("bad", "reason", "detail"), [
    (b"not json\n", "not JSON", "Expecting value"),
    (b'{"prompt": "a"\n', "not JSON", "a line is one object"),
    (b"[" * 100_000 + b"\n", "not JSON", ""),
    (b'{"prompt": "a", "response": "\xff"}\n', "not UTF-8", "byte 30 of the line is 0xff"),
    (b'{"prompt": "\\ud800", "response": "b"}\n', "not UTF-8", "half of a surrogate pair"),
    (b'{"prompt": "a", "response": "b", "source": "\\ud83d"}\n', "not UTF-8", "source has half of a surrogate pair"),
    (b'{"response": "b"}\n', "no prompt", "its keys are response"),
    (b'{"prompt": "a", "response": null}\n', "no response", "null"),
    (b'{"prompt": 3, "response": "b"}\n', "wrong type", "prompt is a int"),
    (b'["a", "b"]\n', "wrong type", "a list in place of an object"),
    (b'{"prompt": "a", "response": "b", "meta": 1}\n', "wrong type", "meta is a int"),
    (b'{"prompt": "a", "response": "b", "source": 1}\n', "wrong type", "source is a int"),
])
def test_bad_line_is_named_and_the_rest_is_read(folder: Path, bad: bytes, reason: str, detail: str) -> None:
    (folder / "math" / "a.jsonl").write_bytes(line("first").encode() + bad + line("last").encode())
    reading = read(folder)
    assert [record.prompt for record in reading.records] == ["first", "last"]
    [rejection] = reading.rejections
    assert (rejection.where, rejection.reason) == ("math/a.jsonl:2", reason)
    assert detail in rejection.detail


def test_blank_lines_and_byte_order_mark_are_no_faults(folder: Path) -> None:
    (folder / "math" / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + line("first").encode() + b"\r\n  \n" + line("last").encode())
    reading = read(folder)
    assert [(record.prompt, record.where) for record in reading.records] == [("first", "math/a.jsonl:1"), ("last", "math/a.jsonl:4")]
    assert reading.rejections == []


def test_undecodable_first_line_after_a_byte_order_mark_names_the_byte(folder: Path) -> None:
    (folder / "math" / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a\xfe"}\n' + line("last").encode())
    [rejection] = read(folder).rejections
    assert (rejection.where, rejection.reason) == ("math/a.jsonl:1", "not UTF-8")
    assert "byte 17 of the line is 0xfe" in rejection.detail


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_file_in_utf_16_is_named_once_and_nothing_of_it_is_read(folder: Path, name: str, order: str) -> None:
    text = "\ufeffAn evening. The lamp was lit.\r\n\u0412\u0435\u0447\u0435\u0440. \u0421\u0432\u0435\u0442.\r\n" * 3
    (folder / "math" / name).write_bytes(text.encode(order))
    reading = read(folder)
    assert reading.records == []
    assert [(each.where, each.reason) for each in reading.rejections] == [(f"math/{name}:1", "not UTF-8")]
    assert "UTF-16" in reading.rejections[0].detail


def test_endless_line_is_rejected_without_being_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 100)
    (folder / "math" / "a.jsonl").write_text(line("first") + line("x" * 350) + line("last"), encoding="utf-8")
    reading = read(folder)
    assert [record.where for record in reading.records] == ["math/a.jsonl:1", "math/a.jsonl:3"]
    assert [(rejection.where, rejection.reason) for rejection in reading.rejections] == [("math/a.jsonl:2", "over length")]


def test_cut_off_gzip_keeps_the_lines_before(folder: Path) -> None:
    whole = gzip.compress("".join(line(f"question {number} {number * 7919 % 1000}") for number in range(3000)).encode())
    (folder / "math" / "a.jsonl.gz").write_bytes(whole[:len(whole) // 2])
    (folder / "math" / "b.jsonl").write_text(line("other file"), encoding="utf-8")
    reading = read(folder)
    assert 500 < len(reading.records) < 3000
    assert reading.records[-1].prompt == "other file"
    [rejection] = reading.rejections
    assert rejection.reason == "damaged file"
    assert rejection.where == f"math/a.jsonl.gz:{len(reading.records)}"


def test_parquet_rows_become_records(folder: Path) -> None:
    table = pa.table({"prompt": ["a", None], "response": ["b", "c"], "meta": [{"n": 1}, None], "extra": [1, 2]})
    pq.write_table(table, folder / "math" / "a.parquet")
    reading = read(folder)
    assert [(record.prompt, record.response, record.meta, record.where) for record in reading.records] == [("a", "b", {"n": 1}, "math/a.parquet:1")]
    assert [(rejection.where, rejection.reason) for rejection in reading.rejections] == [("math/a.parquet:2", "no prompt")]


def test_parquet_damaged_or_without_columns_is_named_and_the_rest_is_read(folder: Path) -> None:
    (folder / "math" / "a.parquet").write_bytes(b"PAR1 and then junk")
    pq.write_table(pa.table({"text": ["a"]}), folder / "math" / "b.parquet")
    pq.write_table(pa.table({"prompt": ["a"], "response": ["b"]}), folder / "math" / "c.parquet")
    reading = read(folder)
    assert [record.source for record in reading.records] == ["c"]
    assert [(rejection.where, rejection.reason) for rejection in reading.rejections] == [
        ("math/a.parquet:1", "damaged file"), ("math/b.parquet:1", "wrong columns")]
    assert "has text; prompt and response are needed" in reading.rejections[1].detail


def test_parquet_below_a_path_that_looks_like_a_pattern_is_read(tmp_path: Path) -> None:
    home = tmp_path / "part[2]" / "math"
    home.mkdir(parents=True)
    for name in ("a[1].parquet", "b.parquet"):
        pq.write_table(pa.table({"prompt": [name], "response": ["b"]}), home / name)
    reading = read(home.parent)
    assert [(record.prompt, record.where) for record in reading.records] == [("a[1].parquet", "math/a[1].parquet:1"), ("b.parquet", "math/b.parquet:1")]
    assert reading.rejections == []


@pytest.mark.parametrize("error", [ValueError, NotImplementedError])
def test_parquet_that_the_library_refuses_is_a_damaged_file(folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    import datasets

    def refuse(*arguments: object, **options: object) -> None:
        raise error("no such thing")

    (folder / "math" / "a.parquet").touch()
    (folder / "math" / "b.jsonl").write_text(line(), encoding="utf-8")
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    reading = read(folder)
    assert [record.where for record in reading.records] == ["math/b.jsonl:1"]
    assert [(rejection.where, rejection.reason) for rejection in reading.rejections] == [("math/a.parquet:1", "damaged file")]
    assert "no such thing" in reading.rejections[0].detail


def test_parquet_is_read_without_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was asked")

    pq.write_table(pa.table({"prompt": ["a"], "response": ["b"]}), folder / "math" / "a.parquet")
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(read(folder).records) == 1


def test_text_paragraph_becomes_first_sentence_and_the_rest(folder: Path) -> None:
    (folder / "math" / "prose.txt").write_text("The sea is wide. It is deep.\nIt is old.\n\nOne only.\n", encoding="utf-8")
    reading = read(folder)
    [record] = reading.records
    assert (record.prompt, record.response) == ("The sea is wide.", "It is deep.\nIt is old.")
    assert (record.source, record.meta, record.where) == ("prose", {"task": "continuation"}, "math/prose.txt:1")
    assert [(rejection.where, rejection.reason) for rejection in reading.rejections] == [("math/prose.txt:4", "single sentence")]


def test_text_heading_opens_the_next_paragraph(folder: Path) -> None:
    (folder / "math" / "prose.txt").write_text("Chapter one\n\nIt rained. We stayed in.\n", encoding="utf-8")
    [record] = read(folder).records
    assert (record.prompt, record.response) == ("Chapter one", "It rained. We stayed in.")


def test_text_long_paragraph_is_cut_after_sentences(folder: Path) -> None:
    sentence = "This sentence has exactly fifty characters in it. "
    (folder / "math" / "prose.txt").write_text(sentence * 100, encoding="utf-8")
    records = read(folder).records
    assert len(records) == 3  # 5,000 characters in pieces of at most 2,000
    assert all(record.prompt == sentence.strip() and len(record.response) < 2000 for record in records)
    assert sum((record.prompt + " " + record.response).count("exactly") for record in records) == 100


@pytest.mark.parametrize(("name", "exam_only"), [("gsm_test.jsonl", True), ("gsm_test.jsonl.gz", True), ("test.jsonl", False), ("latest.jsonl", False)])
def test_test_file_is_for_exams_alone(folder: Path, name: str, exam_only: bool) -> None:
    text = line().encode()
    (folder / "math" / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    assert read(folder).records[0].exam_only is exam_only


def test_folder_of_no_domain_and_loose_files_are_noted_and_left_alone(folder: Path) -> None:
    (folder / "law").mkdir()
    (folder / "law" / "a.jsonl").write_text(line(), encoding="utf-8")
    (folder / "stray.jsonl").write_text(line(), encoding="utf-8")
    (folder / "README.md").write_text("about", encoding="utf-8")
    (folder / "math" / "table.csv").write_text("a,b", encoding="utf-8")
    (folder / "math" / ".hidden").write_text("", encoding="utf-8")
    reading = read(folder)
    assert reading.records == []
    notes = list_folder(folder, domains=("math",)).notes
    assert [note.split(":")[0] for note in notes] == ["law/", "stray.jsonl", "math/table.csv", "math/"]
    assert "no domain of that name in tree.branches (math)" in notes[0]
    assert "an empty folder" in notes[3]


def test_domain_without_folder_is_noted(folder: Path) -> None:
    assert list_folder(folder, domains=("math", "code")).notes[-1] == "code/: no such folder, so code has no records of its own"


def test_files_are_read_in_the_order_of_names_and_domains(folder: Path) -> None:
    (folder / "code").mkdir()
    for name in ("math/b.jsonl", "math/a.jsonl", "code/z.jsonl"):
        (folder / name).write_text(line(), encoding="utf-8")
    assert [record.where for record in read(folder, "math", "code").records] == ["math/a.jsonl:1", "math/b.jsonl:1", "code/z.jsonl:1"]


def test_data_path_that_is_absent_or_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.path = .*gone.* doesn't exist; give a folder with one sub-folder a domain \(math\)"):
        read(tmp_path / "gone")
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    with pytest.raises(DataError, match=r"is a file; a tree of domains needs a folder"):
        read(tmp_path / "a.txt")


def test_files_and_folders_that_cant_be_opened_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = DataFile(tmp_path / "gone.jsonl", "law/gone.jsonl", "law", ".jsonl")
    with pytest.raises(DataError, match=r"law/gone\.jsonl can't be read .*take it out of the data folder"):
        fingerprint("law", files=[gone], lessons=None, settings=Settings())

    def locked(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", locked)
    with pytest.raises(DataError, match=r"can't be read .*Permission denied"):
        list_folder(tmp_path, domains=["law"])
