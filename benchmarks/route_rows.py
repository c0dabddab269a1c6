"""Rows for the router's figures: a folder of records, curriculum prompts, and hand-written everyday and out-of-domain prompts.

The out-of-domain rows differ in kind from those the router fits on: other languages, other tasks, other kinds of noise.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from random import Random

from data_prep.prompts import curriculum_prompts
from data_prep.sources import list_folder, read_files
from experts.tree import OUT_OF_DOMAIN, Tree
from routing.rows import Row

MANY = 2  # the batch is timed over the test prompts that many times
PROMPTS = Path(__file__).resolve().parent / "route_prompts.toml"
BLIND = Path(__file__).resolve().parent / "route_blind.toml"


def nowhere_rows() -> list[Row]:
    """Prompts of no domain, other in kind than those the router fits on."""
    return [Row(text, OUT_OF_DOMAIN, "nowhere") for text in _prompts(PROMPTS)["nowhere"]]


def record_rows(folder: Path, *, tree: Tree) -> list[Row]:
    """All training records of a folder of domains; files kept for exams are left out."""
    listed = list_folder(folder, domains=tree.domains).files
    reading = read_files([file for domain in tree.domains for file in listed[domain] if not file.exam_only], cache_dir=Path.home() / ".cache")
    return [Row(record.prompt, record.domain, record.source) for record in reading.records]


def curriculum_rows(tree: Tree, *, seed: int, count: int = 1500) -> list[Row]:
    """Prompts of the embedded curriculum, count a domain."""
    return [Row(*prompt) for prompt in curriculum_prompts(tree, count=count, seed=seed)]


def everyday_test_rows(tree: Tree, *, file: Path = PROMPTS) -> list[Row]:
    """Short prompts written by hand for the test alone, shuffled so that no order helps."""
    found = _prompts(file)
    rows = [Row(text, domain, "everyday test") for domain in tree.domains for text in found.get(domain, [])]
    Random(0).shuffle(rows)
    return rows


def _prompts(file: Path) -> dict[str, list[str]]:
    return tomllib.loads(file.read_text(encoding="utf-8"))
