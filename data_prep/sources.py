"""Reads a folder with one sub-folder a domain into records; every item it can't take is named by file, line and reason.

Takes *.jsonl, *.jsonl.gz, *.parquet and *.txt. A damaged line or file never stops the rest. Does not judge content
(clean.py), nor load from the Hub (hub.py).

JSON lines are read here and not by `datasets`: its reader stops at the first bad line without saying which one it is, and
merges the `meta` objects of a file into one schema (absent keys become null). Parquet has neither fault and is read by it.
"""

from __future__ import annotations

import glob
import gzip
import json
import logging
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from data_prep.plain_text import passages
from data_prep.records import Record

logger = logging.getLogger(__name__)

Reason = Literal["not JSON", "not UTF-8", "no prompt", "no response", "wrong type", "empty", "too short", "over length", "duplicate",
                 "same prompt as a held-out row", "trained on before", "near-duplicate of a held-out row", "shows a held-out row's answer",
                 "damaged file", "wrong columns", "single sentence"]
Kind = Literal[".jsonl", ".jsonl.gz", ".parquet", ".txt"]
KINDS: tuple[Kind, ...] = (".jsonl", ".jsonl.gz", ".parquet", ".txt")
MAX_LINE_BYTES = 16 * 2**20  # a line longer than this is no record; without a bound a file without line ends fills the memory


class DataError(ValueError):
    """Data that can't be worked with. The message says what was found, what is wanted and what to do."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """One item that was left out. where: file:line (a row number for Parquet), or curriculum/<domain>:<n>."""

    where: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of records. name: its path inside the data folder, with slashes."""

    path: Path
    name: str
    domain: str
    kind: Kind

    @property
    def source(self) -> str:
        """Where its records come from when they don't say: the file's name without its ending."""
        return self.path.name[:-len(self.kind)]

    @property
    def exam_only(self) -> bool:
        """Whether its records are for exams alone: *_test.*"""
        return self.source.endswith("_test")


@dataclass(frozen=True, slots=True)
class Listing:
    """What a data folder holds. files: by domain, in the order of names; notes: what a user should know."""

    files: dict[str, tuple[DataFile, ...]]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """Records in the order of files and lines, and everything that was left out."""

    records: list[Record]
    rejections: list[Rejection]


def list_folder(path: Path, *, domains: Sequence[str]) -> Listing:
    """The files of each domain. Raises DataError when path is absent, no folder or can't be read."""
    if not path.exists():
        raise DataError(f"data.path = {str(path)!r} doesn't exist; give a folder with one sub-folder a domain ({', '.join(domains)})")
    if not path.is_dir():
        raise DataError(f"data.path = {str(path)!r} is a file; a tree of domains needs a folder with one sub-folder a domain ({', '.join(domains)})")
    notes, files = [], {}
    for entry in _entries(path):
        if entry.name.startswith(".") or entry.name in domains:
            continue
        if entry.is_dir():
            notes.append(f"{entry.name}/: no domain of that name in tree.branches ({', '.join(domains)}); left alone. Name it there to train on it")
        elif _kind(entry) is not None:
            notes.append(f"{entry.name}: lies beside the domain folders; move it into one of {', '.join(domains)}; left alone")
    for domain in domains:
        files[domain], found = _list_domain(path / domain, domain=domain)
        notes += found
    return Listing(files, tuple(notes))


def _list_domain(folder: Path, *, domain: str) -> tuple[tuple[DataFile, ...], list[str]]:
    if not folder.is_dir():
        return (), [f"{domain}/: no such folder, so {domain} has no records of its own"]
    files, notes = [], []
    for entry in _entries(folder):
        kind = _kind(entry)
        if entry.name.startswith("."):
            continue
        if kind is not None and entry.is_file():
            files.append(DataFile(entry, f"{domain}/{entry.name}", domain, kind))
        else:
            notes.append(f"{domain}/{entry.name}: neither of {', '.join('*' + kind for kind in KINDS)}; left alone")
    if not files:
        notes.append(f"{domain}/: an empty folder, so {domain} has no records of its own")
    return tuple(files), notes


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"the folder {folder} can't be read ({error}); mend its rights, or take it away") from error


def _kind(path: Path) -> Kind | None:
    return next((kind for kind in KINDS if path.name.lower().endswith(kind) and len(path.name) > len(kind)), None)


def read_files(files: Sequence[DataFile], *, cache_dir: Path) -> Reading:
    """The records of some files, one after another."""
    reading = Reading([], [])
    for file in files:
        before = len(reading.records)
        for item in _items(file, cache_dir=cache_dir):
            if isinstance(item, Record):
                reading.records.append(item)
            else:
                reading.rejections.append(item)
        logger.debug("%s: %d records", file.name, len(reading.records) - before)
    return reading


def _items(file: DataFile, *, cache_dir: Path) -> Iterator[Record | Rejection]:
    if file.kind == ".parquet":
        return _parquet_items(file, cache_dir=cache_dir)
    return _text_items(file) if file.kind == ".txt" else _json_items(file)


def _json_items(file: DataFile) -> Iterator[Record | Rejection]:
    for number, line in _lines(file):
        where = f"{file.name}:{number}"
        if isinstance(line, Rejection):
            yield line
        elif line.strip():
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:  # ValueError: also an integer of more digits than Python reads
                yield Rejection(where, "not JSON", f"{error}; a line is one object with prompt and response")
            else:
                yield _to_record(fields, file=file, where=where)


def _lines(file: DataFile) -> Iterator[tuple[int, str | Rejection]]:
    """Numbered lines; an undecodable one, and the point from which a file can't be read, as rejections."""
    number = 0
    try:
        with gzip.open(file.path, "rb") if file.kind == ".jsonl.gz" else file.path.open("rb") as stream:
            for number, raw in enumerate(_raw_lines(stream), start=1):  # type: ignore[arg-type]  # GzipFile reads like a BinaryIO
                where = f"{file.name}:{number}"
                if len(raw) > MAX_LINE_BYTES:
                    yield number, Rejection(where, "over length", f"a line of more than {MAX_LINE_BYTES:,} bytes; put each record on a line of its own")
                    continue
                if number == 1 and raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
                    yield number, Rejection(where, "not UTF-8", "the file is UTF-16 (\"Unicode\"), nothing of it is read; save it as UTF-8")
                    return
                mark = len(BOM_UTF8) if number == 1 and raw.startswith(BOM_UTF8) else 0
                try:
                    yield number, raw[mark:].decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    place = mark + error.start
                    yield number, Rejection(where, "not UTF-8", f"byte {place + 1} of the line is 0x{raw[place]:02x}; save the file as UTF-8")
    except (EOFError, OSError, zlib.error) as error:
        yield number + 1, Rejection(f"{file.name}:{number + 1}", "damaged file", f"can't be read from here on: {error}; the {number} lines before are kept")


def _raw_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines as bytes; one that is too long is cut to a byte over the bound, its rest skipped."""
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        rest = raw
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES + 1)
        yield raw


def _text_items(file: DataFile) -> Iterator[Record | Rejection]:
    lines: list[tuple[int, str]] = []
    for number, line in _lines(file):
        if isinstance(line, Rejection):
            yield line
        else:
            lines.append((number, line))
    for passage in passages(lines):
        where = f"{file.name}:{passage.line}"
        if passage.response:
            yield Record(file.domain, passage.prompt, passage.response, file.source, {"task": "continuation"}, where, file.exam_only)
        else:
            yield Rejection(where, "single sentence", "nothing follows this last sentence that could be its continuation")


def _parquet_items(file: DataFile, *, cache_dir: Path) -> Iterator[Record | Rejection]:
    import datasets  # slow to import, and most folders have no Parquet
    import pyarrow

    datasets.logging.set_verbosity(logging.CRITICAL)  # it logs what is reported below, without the file's name in the run's terms
    row = 0
    try:
        rows = datasets.load_dataset("parquet", data_files=[glob.escape(str(file.path))], split="train", streaming=True, cache_dir=str(cache_dir))
        columns = tuple(rows.column_names or ())
        if not {"prompt", "response"} <= set(columns):
            yield Rejection(f"{file.name}:1", "wrong columns", f"has {', '.join(columns)}; prompt and response are needed, source and meta are taken")
            return
        for row, fields in enumerate(rows, start=1):
            yield _to_record(fields, file=file, where=f"{file.name}:{row}")
    except (pyarrow.ArrowException, datasets.exceptions.DatasetGenerationError, OSError, ValueError, NotImplementedError) as error:
        yield Rejection(f"{file.name}:{row + 1}", "damaged file", f"can't be read as Parquet from this row on: {error}; the {row} rows before are kept")


def _to_record(fields: Any, *, file: DataFile, where: str) -> Record | Rejection:
    """A record of parsed fields, or why there is none. Unknown fields are left alone."""
    if not isinstance(fields, dict):
        return Rejection(where, "wrong type", f"a {type(fields).__name__} in place of an object with prompt and response")
    for name, reason in (("prompt", "no prompt"), ("response", "no response")):
        value = fields.get(name)
        if value is None:
            return Rejection(where, reason, f"has no {name}" + (f"; its keys are {', '.join(map(str, fields))[:200]}" if name not in fields else ": null"))  # type: ignore[arg-type]
        if not isinstance(value, str):
            return Rejection(where, "wrong type", f"{name} is a {type(value).__name__}; write text")
        if _lone_surrogate(value):
            return Rejection(where, "not UTF-8", f"{name} has half of a surrogate pair, which is no character")
    meta, source = fields.get("meta"), fields.get("source")
    if meta is not None and not isinstance(meta, dict):
        return Rejection(where, "wrong type", f"meta is a {type(meta).__name__}; write an object, or leave it out")
    if source is not None and not isinstance(source, str):
        return Rejection(where, "wrong type", f"source is a {type(source).__name__}; write text, or leave it out")
    if source is not None and _lone_surrogate(source):
        return Rejection(where, "not UTF-8", "source has half of a surrogate pair, which is no character")
    return Record(file.domain, fields["prompt"], fields["response"], source or file.source, meta or {}, where, file.exam_only)


def _lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else False
