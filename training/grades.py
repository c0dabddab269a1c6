"""Every node's grade on every exam prompt that all nodes answered: what a router's choices are held against.

Lays results of exams side by side and writes them as JSON lines. Examines nothing and knows no router.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.records import Example
from experts.durable import write_bytes
from training.exam import ExamSource
from training.scorecard import Scorecard


@dataclass(frozen=True, slots=True)
class GradedPrompt:
    """An exam prompt, its domain and source, and the grade (0 to 1) of each node's answer."""

    prompt: str
    label: str
    source: str
    grades: Mapping[str, float]


def graded_prompts(matrix: Mapping[str, Mapping[str, Scorecard]], source: ExamSource, domains: Sequence[str]) -> list[GradedPrompt]:
    """The exam prompts that every node of the matrix (node -> domain -> results) was graded on; free text has no grades and is left out."""
    found: list[GradedPrompt] = []
    for domain in domains:
        rows: dict[str, Example] = {row.key[:16]: row for row in source.examples(domain, "exam")}
        scores = {node: {outcome.key: outcome.score for outcome in results[domain].outcomes if outcome.score is not None} for node, results in matrix.items()}
        shared = [key for key in rows if all(key in graded for graded in scores.values())]
        found += [GradedPrompt(rows[key].prompt, domain, rows[key].source, {node: graded[key] for node, graded in scores.items()}) for key in shared]
    return found


def write_grades(file: Path, graded: Sequence[GradedPrompt]) -> None:
    """As `python -m routing evaluate --prompts` reads it; gzipped when the name ends in .gz."""
    text = "".join(json.dumps(asdict(row)) + "\n" for row in graded).encode()
    write_bytes(file, gzip.compress(text, mtime=0) if file.suffix == ".gz" else text)
