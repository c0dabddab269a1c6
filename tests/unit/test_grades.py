"""Grades of all nodes laid side by side, and on disk as the router's command reads them."""

import gzip
import json
from types import SimpleNamespace

import pytest

from routing.__main__ import read_labelled
from training.grades import graded_prompts, write_grades
from training.scorecard import Outcome, Scorecard

KEYS = {"math": ("a" * 20, "b" * 20, "c" * 20), "code": ("d" * 20,)}


class Rows:
    """An exam source of fixed rows."""

    def examples(self, domain, split):
        assert split == "exam"
        return [SimpleNamespace(key=key, prompt=f"prompt {key[0]}", source=f"toy/{domain}") for key in KEYS[domain]]


def _card(domain, **scores):
    outcomes = tuple(Outcome(letter * 16, domain, "task", 1, score, False) for letter, score in scores.items())
    return Scorecard(exam="x", outcomes=outcomes, bits_per_byte={domain: 1.0}, distinct_2={domain: 1.0}, seconds_per_answer=0.1)


MATRIX = {"generalist": {"math": _card("math", a=1.0, b=0.0), "code": _card("code", d=None)},
          "math": {"math": _card("math", a=0.5, b=1.0, c=1.0), "code": _card("code", d=0.0)}}


def test_graded_prompts_are_those_that_every_node_was_graded_on():
    found = graded_prompts(MATRIX, Rows(), ("math", "code"))
    assert [(row.prompt, row.label, row.source, row.grades) for row in found] == [
        ("prompt a", "math", "toy/math", {"generalist": 1.0, "math": 0.5}), ("prompt b", "math", "toy/math", {"generalist": 0.0, "math": 1.0})]


@pytest.mark.parametrize("name", ["grades.jsonl", "grades.jsonl.gz"])
def test_write_grades_is_read_by_the_routers_command(tmp_path, name):
    write_grades(tmp_path / name, graded_prompts(MATRIX, Rows(), ("math", "code")))
    rows, graded = read_labelled(tmp_path / name)
    assert [(row.prompt, row.label, row.source) for row in rows] == [("prompt a", "math", "toy/math"), ("prompt b", "math", "toy/math")]
    assert [row.grades for row in graded] == [{"generalist": 1.0, "math": 0.5}, {"generalist": 0.0, "math": 1.0}]
    if name.endswith(".gz"):
        assert json.loads(gzip.decompress((tmp_path / name).read_bytes()).splitlines()[0])["label"] == "math"
