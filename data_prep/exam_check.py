"""Exams against the training rows of all domains: which exam rows a model may have seen, and whether the exam can stand.

Looks at real records only: the curriculum keeps its exam instances out of training by construction, while its phrasings are
alike by design. Rows of one domain that the split itself parted are seldom near-duplicates (intake.py sees to it), so what is
found here came with the files: a *_test file that repeats training rows, the same rows in two domains, prompts of one mould.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from data_prep.intake import read_examples
from data_prep.overlap import near_duplicates
from data_prep.records import Example
from data_prep.report import Overlap
from data_prep.sources import DataError
from settings import DataSettings

PAIRS_SHOWN = 3


class ExamOverlap(DataError):
    """An exam that too many training rows repeat. The message names the domain, the share and some of the rows."""


def question(folders: Mapping[str, Path], settings: DataSettings) -> str:
    """What the check depends on, as a sha256 (hex): with the same one its answer needn't be worked out again."""
    parts = [settings.near_duplicate, settings.max_exam_overlap, [[domain, folder.name] for domain, folder in folders.items()]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def overlaps(folders: Mapping[str, Path], *, similarity: float, most: float) -> dict[str, Overlap]:
    """Of each domain with real exam rows: how many have a near-duplicate among the training rows of any domain. folders: examples by domain."""
    exams = [row for domain, folder in folders.items() for row in _real(domain, folder, "exam")]
    training = [row.prompt for domain, folder in folders.items() for row in _real(domain, folder, "train")] if exams else []
    nearest: dict[int, tuple[float, int]] = {}
    for pair in near_duplicates([row.prompt for row in exams], training, similarity=similarity):
        nearest[pair.held_out] = max(nearest.get(pair.held_out, (0.0, 0)), (pair.similarity, pair.training))
    found = {}
    for domain in folders:
        places = [place for place, row in enumerate(exams) if row.domain == domain]
        seen = [place for place in places if place in nearest]
        if places:
            share = len(seen) / len(places)
            pairs = tuple((exams[place].prompt, training[nearest[place][1]], nearest[place][0]) for place in seen[:PAIRS_SHOWN])
            found[domain] = Overlap(len(places), len(seen), share, share > allowed(len(places), most=most), tuple(exams[place].key for place in seen), pairs)
    return found


def allowed(rows: int, *, most: float) -> float:
    """The share of an exam's rows that training may repeat: at most data.max_exam_overlap, or one of several rows, which is left out of the exam
    and would else refuse every small one. None where that is 0."""
    return max(most, min(1, rows - 1) / rows) if most > 0 else 0.0


def require_exams(found: Mapping[str, Overlap], *, most: float) -> None:
    """Raises ExamOverlap for exams that are refused."""
    for domain, overlap in found.items():
        if overlap.refused:
            rows = "; ".join(f"{asked[:80]!r} is like {trained[:80]!r} ({similarity:.2f})" for asked, trained, similarity in overlap.pairs)
            raise ExamOverlap(
                f"the exam of {domain!r} is refused: {overlap.overlapping} of its {overlap.exam_rows} rows ({overlap.share:.1%}) have a near-duplicate "
                f"in training, data.max_exam_overlap = {most:g}: {rows}; take them out of the training files or of *_test; "
                "where prompts are alike by design, raise data.near_duplicate (1: equal ones alone count), or raise data.max_exam_overlap")


def _real(domain: str, folder: Path, split: str) -> list[Example]:
    return [row for row in read_examples(folder / f"{split}.parquet", domain=domain) if not row.source.startswith("curriculum/")]
