"""Data sets of the Hugging Face Hub (or local folders laid out like one) as record files of a run.

A data set is named in one line (data.hub, recipes/hub.toml), streamed once up to a number of rows, and kept under the run
folder as JSON lines; from then on it is a file like any other, and no network is asked. Runs no code of a data set.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.records import Message, join_turns
from data_prep.sources import DataError, DataFile
from experts.durable import write_bytes

DEFAULT_ROWS = 20_000
_FORM = ('"owner/name config=C split=train prompt=FIELD response=FIELD rows=N exam=yes source=NAME meta=FIELD+NAME:FIELD" (or messages=FIELD in place of '
         "prompt and response; FIELD may be a+b for two joined by a blank line, and a.b.0 for what lies inside)")
_KEYS = ("config", "split", "prompt", "response", "messages", "rows", "exam", "source", "meta")
_ROW = "row"  # what meta has of every record: its number in the data set


@dataclass(frozen=True, slots=True)
class HubSet:
    """One data set and how its fields become records. called: the source's name where the line gives one. kept: (name in meta, field) of each."""

    name: str
    config: str | None
    split: str
    prompt: str
    response: str
    messages: str
    rows: int
    exam: bool
    called: str | None
    kept: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, line: str, *, domain: str) -> HubSet:
        """A data set from its line in the settings; raises DataError that shows the form."""
        name, *options = line.split() or [""]
        fields = dict(option.partition("=")[::2] for option in options)
        wrong = _faults(name, fields)
        if wrong is not None:
            raise DataError(f"data.hub.{domain}: {line!r} isn't of the form {_FORM}" + (f"; {wrong}" if wrong else ""))
        return cls(name, fields.get("config"), fields.get("split", "train"), fields.get("prompt", ""), fields.get("response", ""), fields.get("messages", ""),
                   int(fields.get("rows", DEFAULT_ROWS)), fields.get("exam") == "yes", fields.get("source"), _kept(fields.get("meta", "")))

    @property
    def source(self) -> str:
        """What its records say they come from, and part of their file's name. *_test: for exams alone."""
        if self.called is not None:
            split = re.match("train|validation|valid|dev", self.split)
            ending = f"_{split.group()}" if split else ""
            return re.sub("[_-](train|test|validation|valid|dev)$", "", self.called) + ("_test" if self.exam else ending)
        name = self.name if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.name) else re.split(r"[/\\]", self.name)[-1]
        plain = re.sub(r"[^A-Za-z0-9.-]+", "_", "_".join(part for part in (name, self.config, self.split) if part)).strip("_")
        return re.sub("_test$", "", plain) + ("_test" if self.exam else "")


def _faults(name: str, fields: Mapping[str, str]) -> str | None:
    """What is wrong with a line, in words where the form alone doesn't show it; None for a good one."""
    unknown = [key for key, value in fields.items() if key not in _KEYS or not value]
    if unknown:
        return f"unknown: {', '.join(unknown)}"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", fields.get("source", "x"), re.ASCII):
        return f"source={fields['source']}: a name of letters, digits, _ . and - that begins with a letter or digit, as in source=gsm8k"
    kept = _kept(fields.get("meta", "")) if "meta" in fields else ()
    if any(not key or not field for key, field in kept) or len({_ROW, *(key for key, _ in kept)}) <= len(kept):
        return (f"meta={fields['meta']}: fields with + between them, each with the name that meta has it by in front where that is another, "
                f"as in meta=id+answers:answers.text; no name twice, and {_ROW!r} is taken")
    mapped = ("messages" in fields) != ("prompt" in fields and "response" in fields)
    good = name and "=" not in name and mapped and re.fullmatch("0*[1-9][0-9]*", fields.get("rows", "1")) and fields.get("exam", "no") in ("yes", "no")
    return None if good else ""


def _kept(text: str) -> tuple[tuple[str, str], ...]:
    """(name in meta, field) of each part of FIELD+NAME:FIELD."""
    parts = [part.partition(":") for part in text.split("+")] if text else []
    return tuple((name, field if colon else name) for name, colon, field in parts)


def fetch(sets: Mapping[str, Sequence[str]], *, folder: Path, cache_dir: Path) -> dict[str, tuple[DataFile, ...]]:
    """The record files of all data sets by domain, loaded where they aren't there yet. Raises DataError for one that can't be loaded."""
    files: dict[str, tuple[DataFile, ...]] = {}
    for domain, lines in sets.items():
        files[domain] = tuple(_file(HubSet.parse(line, domain=domain), line=line, domain=domain, folder=folder, cache_dir=cache_dir) for line in lines)
    return files


def _file(wanted: HubSet, *, line: str, domain: str, folder: Path, cache_dir: Path) -> DataFile:
    # The name tells the whole line apart: a changed one is another file.
    path = folder / domain / f"{hashlib.sha256(line.encode()).hexdigest()[:8]}-{wanted.source}.jsonl.gz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(fields, ensure_ascii=True) + "\n" for fields in _rows(wanted, cache_dir=cache_dir))
        write_bytes(path, gzip.compress(text.encode("ascii"), mtime=0))
    return DataFile(path, f"hub/{domain}/{path.name}", domain, ".jsonl.gz")


def _rows(wanted: HubSet, *, cache_dir: Path) -> Iterator[dict[str, Any]]:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        rows = datasets.load_dataset(wanted.name, wanted.config, split=wanted.split, streaming=True, cache_dir=str(cache_dir))
        for number, row in enumerate(islice(rows, wanted.rows), start=1):
            yield _fields(row, wanted, number=number)
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError, HfHubHTTPError) as error:
        raise _failed(wanted, error) from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise _failed(wanted, error) from error


def _failed(wanted: HubSet, error: Exception) -> DataError:
    return DataError(f"data set {wanted.name!r} (config {wanted.config}, split {wanted.split}) can't be loaded: {type(error).__name__}: {str(error)[:300]}; "
                     "the first time needs the network (or a local folder of that name); else take its line out of data.hub")


def _fields(row: Mapping[str, Any], wanted: HubSet, *, number: int) -> dict[str, Any]:
    prompt, response = _conversation(row, wanted) if wanted.messages else (_text(row, wanted.prompt, wanted=wanted), _text(row, wanted.response, wanted=wanted))
    meta = {name: _plain_data(_value(row, field, wanted=wanted), field=field, wanted=wanted) for name, field in wanted.kept}
    return {"prompt": prompt, "response": response, "source": wanted.source, "meta": {_ROW: number, **meta}}


def _conversation(row: Mapping[str, Any], wanted: HubSet) -> tuple[str | None, str | None]:
    """What came before the assistant's last turn, and that turn. None where there is nothing: the reader then rejects the line."""
    found = _value(row, wanted.messages, wanted=wanted) or ()
    for turn in found:
        if not (isinstance(turn, Mapping) and {"role", "content"} <= set(turn)):
            keys = ", ".join(map(str, turn)) if isinstance(turn, Mapping) else repr(turn)[:80]
            raise DataError(f"data set {wanted.name!r}: each turn of {wanted.messages!r} needs role and content; found {keys}; name prompt and response "
                            "in data.hub in place of messages, or take its line out")
    turns: list[Message] = [{"role": turn["role"], "content": turn["content"]} for turn in found if turn["role"] in ("user", "assistant")]
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    return (join_turns(turns[:-1]), turns[-1]["content"]) if len(turns) > 1 else (None, None)


def _text(row: Mapping[str, Any], fields: str, *, wanted: HubSet) -> str | None:
    """The texts of fields, joined; None when all of them are missing in this row."""
    parts = [_plain(_value(row, field, wanted=wanted)) for field in fields.split("+")]
    return "\n\n".join(part for part in parts if part) or None


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "\n".join(map(_plain, value)) if isinstance(value, list) else "" if value is None else str(value)


def _plain_data(value: Any, *, field: str, wanted: HubSet) -> Any:
    """A value as meta keeps it: true and false as yes and no, as in texts; lists and objects as they are."""
    if isinstance(value, bool):
        return _plain(value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain_data(item, field=field, wanted=wanted) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain_data(item, field=field, wanted=wanted) for key, item in value.items()}
    raise DataError(f"data set {wanted.name!r}: field {field!r} holds a {type(value).__name__}, and meta keeps texts, numbers, and lists and objects of them; "
                    "take the field out of meta= in data.hub")


def _value(row: Mapping[str, Any], path: str, *, wanted: HubSet) -> Any:
    value: Any = row
    for step in path.split("."):
        if isinstance(value, list):
            value = value[int(step)] if step.isdigit() and int(step) < len(value) else None
        elif isinstance(value, Mapping) and step in value:
            value = value[step]
        elif value is not None:
            raise DataError(f"data set {wanted.name!r} has no field {path!r}; its fields are {', '.join(row)}; mend its line in data.hub")
    return value
