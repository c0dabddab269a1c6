"""One domain's records, from files and curriculum, cleaned and split, kept as one folder of Parquet files and a count of everything.

The folder's name is a fingerprint of all that decides its content: finding it means that nothing has to be done again. A
changed or new file changes the fingerprint of its own domain alone. Does not tokenize (corpus.py does).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import curriculum
from data_prep.clean import Cleaned, clean, normalised
from data_prep.records import Example, Record, Split
from data_prep.report import Intake, count_drops
from data_prep.sources import DataFile, Rejection, read_files
from data_prep.split import SPLITS, split_of
from experts.durable import new_folder, sha256_of
from settings import Settings

FORMAT = 1  # goes up when the same input gives other examples
FACTS = "facts.json"
_SCHEMA = pa.schema([("prompt", pa.string()), ("response", pa.string()), ("source", pa.string()), ("key", pa.string()),
                     ("meta", pa.string()), ("exam_only", pa.bool_())])


@dataclass(frozen=True, slots=True)
class Lessons:
    """What the curriculum makes for a domain in one cycle: as many records, of these levels, and so many exam tasks."""

    domain: str
    cycle: int
    count: int
    validation: int
    exam: int
    levels: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, settings: Settings, *, domain: str, cycle: int, level: int) -> Lessons:
        """Lessons up to a level, at most the highest that the domain has."""
        data = settings.data
        levels = tuple(known for known in curriculum.levels(domain) if known <= level) or curriculum.levels(domain)[:1]
        validation = max(1, round(data.curriculum_records * data.validation_share))
        return cls(domain, cycle, data.curriculum_records, validation, settings.exam.tasks, levels, settings.run.seed)

    def records(self, split: Split) -> Iterable[Record]:
        """Training records are new ones each cycle; validation and exam stay the same, so that versions can be compared."""
        if split == "exam":
            return curriculum.make_exam(self.domain, count=self.exam)
        name = f"cycle {self.cycle}" if split == "train" else split
        seed = int.from_bytes(hashlib.sha256(f"{self.seed} {self.domain} {name}".encode()).digest()[:6], "big")
        return curriculum.make_records(self.domain, count=self.count if split == "train" else self.validation, levels=self.levels, seed=seed)


def fingerprint(domain: str, *, files: Sequence[DataFile], lessons: Lessons | None, settings: Settings) -> str:
    """sha256 (hex) of everything that decides the examples of a domain: names and contents of files, settings, lessons."""
    data = settings.data
    parts = [FORMAT, domain, [(file.name, sha256_of(file.path, cached=True)) for file in files], data.min_chars, data.max_prompt_chars, data.max_response_chars,
             data.validation_share, data.exam_share, repr(lessons)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def take_in(folder: Path, *, files: Sequence[DataFile], lessons: Lessons | None, settings: Settings, cache_dir: Path) -> Intake:
    """Make the folder (absent before): <split>.parquet and facts.json. Returns what facts.json says."""
    reading = read_files(files, cache_dir=cache_dir)
    cleaned = clean(reading.records, settings=settings.data)
    sources: dict[str, int] = {}
    for record in reading.records:
        sources[record.source] = sources.get(record.source, 0) + 1
    has_exam = any(example.exam_only for example in cleaned.examples)
    splits: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    for example in cleaned.examples:
        splits[split_of(example, settings=settings.data, has_exam=has_exam)].append(example)
    read = len(reading.records) + len(reading.rejections)
    rejections = [*reading.rejections, *cleaned.rejections]
    own = len(cleaned.examples)
    if lessons is not None:
        for split in SPLITS:
            made = clean(lessons.records(split), settings=settings.data)
            splits[split] += made.examples
            rejections += made.rejections
            read += len(made.examples) + len(made.rejections)
            sources[f"curriculum/{lessons.domain}"] = sources.get(f"curriculum/{lessons.domain}", 0) + len(made.examples) + len(made.rejections)
        rejections += _part(splits)
    intake = Intake(read=read, own=own, kept={split: len(splits[split]) for split in SPLITS}, sources=sources, drops=count_drops(rejections),
                    text_bytes={split: sum(len(row.prompt.encode()) + len(row.response.encode()) for row in splits[split]) for split in SPLITS},
                    cycle=lessons.cycle if lessons is not None else None)
    with new_folder(folder, last=FACTS) as temporary:
        for split in SPLITS:
            write_examples(temporary / f"{split}.parquet", splits[split])
        (temporary / FACTS).write_text(json.dumps(intake.to_json(), indent=1) + "\n", encoding="utf-8")
    return intake


def _part(splits: dict[Split, list[Example]]) -> list[Rejection]:
    """Take out of training what is asked in validation or exam, and out of validation what the exam asks; returns what went."""
    asked = {normalised(example.prompt) for example in splits["exam"]}
    rejections: list[Rejection] = []
    for split in ("validation", "train"):
        rows = Cleaned([], rejections)
        for example in splits[split]:
            if normalised(example.prompt) in asked:
                rejections.append(Rejection(example.source, "same prompt as a held-out row", example.prompt[:80]))
            else:
                rows.examples.append(example)
        splits[split] = rows.examples
        asked |= {normalised(example.prompt) for example in rows.examples}
    return rejections


def load_intake(folder: Path) -> Intake | None:
    """What a finished folder says of itself; None when there is none (an unfinished one bears a temporary name)."""
    try:
        return Intake.from_json(json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Examples as Parquet, meta as JSON text."""
    columns: dict[str, list[Any]] = {
        "prompt": [row.prompt for row in examples], "response": [row.response for row in examples], "source": [row.source for row in examples],
        "key": [row.key for row in examples], "meta": [json.dumps(dict(row.meta), ensure_ascii=True, default=str) for row in examples],
        "exam_only": [row.exam_only for row in examples]}
    pq.write_table(pa.table(columns, schema=_SCHEMA), path, compression="zstd")


def read_examples(path: Path, *, domain: str) -> list[Example]:
    """The examples that write_examples wrote."""
    rows = pq.read_table(path, schema=_SCHEMA, memory_map=False).to_pylist()
    return [Example(domain, row["prompt"], row["response"], row["source"], row["key"], json.loads(row["meta"]), row["exam_only"]) for row in rows]
