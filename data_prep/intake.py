"""One domain's records, from files and curriculum, cleaned and split, kept as one folder of Parquet files and a count of everything.

The folder's name is a fingerprint of all that decides its content: finding it means that nothing has to be done again. A
changed or new file changes the fingerprint of its own domain alone. Does not tokenize (corpus.py does).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import curriculum
from data_prep.answers import shown_answers
from data_prep.clean import Cleaned, clean, normalised
from data_prep.overlap import Pair, near_duplicates
from data_prep.records import Example, Record, Split
from data_prep.report import Intake, count_drops
from data_prep.sources import DataError, DataFile, Rejection, read_files
from data_prep.split import SPLITS, split_all
from data_prep.trained import Trained
from experts.durable import new_folder, sha256_of
from settings import Settings

FORMAT = 13  # goes up when the same input gives other examples
FACTS = "facts.json"
MOST_LOST = 0.2  # share of a domain's training rows that may go as near-duplicates of held-out ones, or as showing their answers
_SCHEMA = pa.schema([("prompt", pa.string()), ("response", pa.string()), ("source", pa.string()), ("key", pa.string()),
                     ("meta", pa.string()), ("exam_only", pa.bool_())])


class DamagedExamples(ValueError):
    """A folder of examples that isn't what was written. The message names it and the difference."""


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
        if split == "train":
            return curriculum.make_records(self.domain, count=self.count, levels=self.levels, seed=seed)
        return curriculum.make_validation(self.domain, count=self.validation, levels=self.levels, seed=seed)


def fingerprint(domain: str, *, files: Sequence[DataFile], lessons: Lessons | None, settings: Settings) -> str:
    """sha256 (hex) of everything that decides the examples of a domain: names and contents of files, settings, lessons. Raises DataError for a file that
    can't be opened."""
    data = settings.data
    parts = [FORMAT, domain, [(file.name, _contents(file)) for file in files], data.min_chars, data.max_prompt_chars, data.max_response_chars,
             data.validation_share, data.exam_share, data.near_duplicate, repr(lessons)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _contents(file: DataFile) -> str:
    try:
        return sha256_of(file.path, cached=True)
    except OSError as error:
        raise DataError(f"{file.name} can't be read ({error}); close what holds it or mend its rights, or take it out of the data folder") from error


def take_in(folder: Path, *, files: Sequence[DataFile], lessons: Lessons | None, settings: Settings, cache_dir: Path, trained: Trained) -> Intake:
    """Make the folder (absent before): <split>.parquet and facts.json. Returns what facts.json says. trained: rows that stay out of exam and validation."""
    reading = read_files(files, cache_dir=cache_dir)
    records, asked = list[Record](), list[Rejection]()
    for record in reading.records:
        if record.exam_only and trained.holds(record.prompt):
            asked.append(Rejection(record.where, "trained on before", f"no exam can ask it any more: {record.prompt[:80]}"))
        else:
            records.append(record)
    cleaned = clean(records, settings=settings.data)
    sources = Counter(record.source for record in reading.records)
    splits = split_all(cleaned.examples, settings=settings.data, trained=trained.keys(cleaned.examples))
    gone, spared = _keep_apart(splits, cleaned, similarity=settings.data.near_duplicate)
    rejections = [*reading.rejections, *cleaned.rejections, *asked, *gone]
    read = len(reading.records) + len(reading.rejections)
    own = sum(map(len, splits.values()))
    if lessons is not None:
        places = dict(cleaned.places)
        for split in SPLITS:
            # Its phrasings differ in case and marks on purpose, and an exam keeps every task.
            made = clean(lessons.records(split), settings=settings.data, loosely=False)
            splits[split] += made.examples
            places |= made.places
            rejections += made.rejections
            sources[f"curriculum/{lessons.domain}"] += len(made.examples) + len(made.rejections)
            read += len(made.examples) + len(made.rejections)
        rejections += _part(splits, places)
    intake = Intake(read=read, own=own, kept={split: len(splits[split]) for split in SPLITS}, sources=dict(sources), drops=count_drops(rejections),
                    text_bytes={split: sum(len(row.prompt.encode()) + len(row.response.encode()) for row in splits[split]) for split in SPLITS},
                    cycle=lessons.cycle if lessons is not None else None,
                    own_drops=count_drops(rejection for rejection in rejections if not rejection.where.startswith("curriculum/")), spared=count_drops(spared))
    with new_folder(folder, last=FACTS) as temporary:
        for split in SPLITS:
            write_examples(temporary / f"{split}.parquet", splits[split])
        hashes = {split: sha256_of(temporary / f"{split}.parquet") for split in SPLITS}
        (temporary / FACTS).write_text(json.dumps({"intake": intake.to_json(), "sha256": hashes}, indent=1) + "\n", encoding="utf-8")
    return intake


def _keep_apart(splits: dict[Split, list[Example]], cleaned: Cleaned, *, similarity: float) -> tuple[list[Rejection], list[Rejection]]:
    """Take near-duplicates of the rows that the split itself held out, and rows that show a held-out row's answer, out of training;
    returns what went, and what would have gone but was too much.

    Where five questions share one passage, a split by row puts some of them on each side; of a dialogue, the turn that is held out
    stands in the next one's prompt. A *_test file was chosen by the user, so its rows take no near-duplicate away: exam_check.py
    reports on those. Neither does a domain lose much of its training rows: where so many are near-duplicates, prompts are alike by
    design, and exam_check.py says what to do.
    """
    gone, spared = list[Rejection](), list[Rejection]()
    for find in (partial(_near, similarity=similarity), _showing):
        found = find(splits, cleaned.places)
        if len(found) > MOST_LOST * len(splits["train"]):
            spared += found.values()
        else:
            gone += found.values()
            splits["train"] = [row for place, row in enumerate(splits["train"]) if place not in found]
    return gone, spared


def _near(splits: Mapping[Split, Sequence[Example]], places: Mapping[str, str], *, similarity: float) -> dict[int, Rejection]:
    """Training rows, by place, that are near-duplicates of rows that the split held out."""
    held_out = [row for row in (*splits["validation"], *splits["exam"]) if not row.exam_only]
    near: dict[int, Pair] = {}
    for pair in near_duplicates([row.prompt for row in held_out], (row.prompt for row in splits["train"]), similarity=similarity):
        near.setdefault(pair.training, pair)
    return {place: Rejection(places[splits["train"][place].key], "near-duplicate of a held-out row",
                             f"similarity {pair.similarity:.2f} to {places[held_out[pair.held_out].key]}") for place, pair in near.items()}


def _showing(splits: Mapping[Split, Sequence[Example]], places: Mapping[str, str]) -> dict[int, Rejection]:
    """Training rows, by place, that hold a held-out row's answer."""
    held_out = [*splits["validation"], *splits["exam"]]
    shown: dict[int, Example] = {}
    for found in shown_answers([row.response for row in held_out], ((row.prompt, row.response) for row in splits["train"])):
        shown.setdefault(found.training, held_out[found.held_out])
    return {place: Rejection(places[splits["train"][place].key], "shows a held-out row's answer",
                             f"that of {places[row.key]}: {' '.join(row.response.split())[:80]}") for place, row in shown.items()}


def _part(splits: dict[Split, list[Example]], places: Mapping[str, str]) -> list[Rejection]:
    """Take out of training what is asked in validation or exam, and out of validation what the exam asks; returns what went. places: by key."""
    asked = {normalised(example.prompt) for example in splits["exam"]}
    gone: list[Rejection] = []
    for split in ("validation", "train"):
        prompts = [normalised(row.prompt) for row in splits[split]]
        gone += [Rejection(places[row.key], "same prompt as a held-out row", row.prompt[:80])
                 for row, prompt in zip(splits[split], prompts, strict=True) if prompt in asked]
        splits[split] = [row for row, prompt in zip(splits[split], prompts, strict=True) if prompt not in asked]
        asked.update(prompts)
    return gone


def load_intake(folder: Path) -> Intake | None:
    """What a finished folder says of itself; None when there is none (an unfinished one bears a temporary name).

    Raises DamagedExamples when a file isn't the one that was written.
    """
    if not folder.is_dir():
        return None
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        wrong = [split for split in SPLITS if sha256_of(folder / f"{split}.parquet", cached=True) != facts["sha256"][split]]
        if not wrong:
            return Intake.from_json(facts["intake"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedExamples(f"examples in {folder} can't be read: {error}") from error
    raise DamagedExamples(f"examples in {folder}: {', '.join(wrong)} differ from what was written")


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
