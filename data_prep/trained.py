"""Prompts that a run trained on, one file a domain: a row that a model has learned must not stand in a later exam or validation.

Rows come and go between cycles, and a small domain holds out by rank, so by the files alone a learned row could become an exam row. Eight bytes
of a hash are kept of each prompt of people's records; the curriculum's exams are apart by construction. Written by the one process that has the run's lock.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.clean import clean_text
from data_prep.records import Example
from data_prep.split import prompt_hash
from experts.durable import ensure_folder, move_aside, write_bytes

logger = logging.getLogger(__name__)

FOLDER = "trained"
BATCH = 65_536  # rows read at once


@dataclass(frozen=True, slots=True)
class Trained:
    """What a domain's models have learned. hashes: of prompts, sorted; newest, before: the folder of examples that added the last of them, and the mark
    of those that were there when it was made."""

    hashes: NDArray[np.uint64]
    newest: str = ""
    before: str = ""

    @property
    def mark(self) -> str:
        """Names the set; empty for none."""
        return hashlib.sha256(self.hashes.tobytes()).hexdigest() if len(self.hashes) else ""

    def folder(self, domain: str, fingerprint: str) -> str:
        """Name of the folder of examples that files and settings of this fingerprint give. The newest one's own rows change nothing about its split,
        so with the same files it is the same folder."""
        again = _name(domain, fingerprint, mark=self.before)
        return again if again == self.newest else _name(domain, fingerprint, mark=self.mark)

    def holds(self, prompt: str) -> bool:
        """Whether a prompt was trained on."""
        asked = prompt_hash(clean_text(prompt))
        place = int(np.searchsorted(self.hashes, np.uint64(asked)))
        return place < len(self.hashes) and int(self.hashes[place]) == asked

    def keys(self, examples: Sequence[Example]) -> frozenset[str]:
        """Keys of the examples whose prompt was trained on."""
        if not len(self.hashes):
            return frozenset()
        asked = np.fromiter((prompt_hash(row.prompt) for row in examples), dtype=np.uint64, count=len(examples))
        return frozenset(examples[place].key for place in np.flatnonzero(np.isin(asked, self.hashes)).tolist())


def load(folder: Path, domain: str) -> Trained:
    """What a run trained on. folder: <run>/data."""
    file = _file(folder, domain)
    if not file.exists():
        return Trained(np.empty(0, dtype=np.uint64))
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as found:
            return Trained(found["hashes"].astype(np.uint64), str(found["newest"]), str(found["before"]))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        aside = move_aside(file, "damaged")
        logger.warning("%s can't be read (%s), and is set aside as %s: exams of %s may hold rows that were trained on before", file, error, aside.name, domain)
        return Trained(np.empty(0, dtype=np.uint64))


def remember(folder: Path, domain: str, examples: Path) -> None:
    """Add the training rows of a folder of examples, before they are trained on."""
    known = load(folder, domain)
    if examples.name == known.newest:
        return
    hashes = np.union1d(known.hashes, np.fromiter(_hashes(examples / "train.parquet"), dtype=np.uint64))
    if len(hashes) > len(known.hashes):
        ensure_folder(folder / FOLDER)
        stream = io.BytesIO()
        np.savez(stream, hashes=hashes, newest=np.array(examples.name), before=np.array(known.mark))
        write_bytes(_file(folder, domain), stream.getvalue())


def _file(folder: Path, domain: str) -> Path:
    return folder / FOLDER / f"{domain}.npz"


def _name(domain: str, fingerprint: str, *, mark: str) -> str:
    return f"{domain}-{(hashlib.sha256(f'{fingerprint} {mark}'.encode()).hexdigest() if mark else fingerprint)[:16]}"


def _hashes(file: Path) -> Iterator[int]:
    with pq.ParquetFile(file) as rows:
        for batch in rows.iter_batches(BATCH, columns=["prompt", "source"]):
            for prompt, source in zip(batch["prompt"].to_pylist(), batch["source"].to_pylist(), strict=True):
                if not source.startswith("curriculum/"):
                    yield prompt_hash(prompt)
