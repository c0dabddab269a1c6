"""The second look at a refused training, over real parts at toy size: what the walk back looks at, what is written down, and where it stops."""

import pytest

from data_prep.corpus import prepare
from data_prep.records import Example, content_key
from experts.device import choose
from training import examiner as examiner_module
from training.exam import Exam, stratified
from training.examiner import Examiner, left_over
from training.run_folder import open_run


class Rows:
    """A source of so many validation rows a domain, half of them on level 2, and ten exam rows."""

    def __init__(self, **counts):
        self.counts = counts

    def examples(self, domain, split):
        count = self.counts[domain] if split == "validation" else 10
        return [Example(domain, f"{split} {n}?", f"{n}", "toy", content_key(domain, f"{split} {n}?", f"{n}"), {"level": 1 + n % 2}) for n in range(count)]


def left(source, *, bits_rows):
    domains = list(source.counts)
    exam = Exam.of(source, domains, tasks=10, bits_rows=bits_rows)
    return exam, left_over(exam, source, bits_rows=bits_rows)


def test_left_over_takes_rows_that_the_exam_does_not_use_spread_like_them():
    source = Rows(math=50, code=120)
    exam, rows = left(source, bits_rows=20)
    for domain, count in (("math", 30), ("code", 100)):
        keys = {row.key for row in exam.held_out[domain]}
        others = [row for row in source.examples(domain, "validation") if row.key not in keys]
        assert len(others) == count
        assert rows[domain] == stratified(others, count=20)
        assert [row.meta["level"] for row in rows[domain]] == [1, 2] * 10


@pytest.mark.parametrize(("validation", "own"), [(49, True), (50, False)])
def test_left_over_is_the_exams_own_rows_where_a_domain_has_too_few_others(validation, own):
    """29 beside the exam's 20 are too few, 30 are enough; a domain with many doesn't help one with few."""
    exam, rows = left(Rows(math=validation, code=120), bits_rows=20)
    assert (rows == exam.held_out) == own


@pytest.mark.parametrize(("bits_rows", "disjoint"), [(4, True), (40, False)])
def test_walk_back_chooses_by_rows_that_the_exam_of_the_node_is_not_judged_by(toy_settings, tmp_path, write_records, monkeypatch, bits_rows, disjoint):
    chosen = toy_settings(f"exam.bits_rows={bits_rows}", 'tree.branches={technical=["code"]}',
                          data=write_records(tmp_path / "records", domains=["code"], count=600))
    asked = []
    monkeypatch.setattr(examiner_module, "bits_per_byte", lambda expert, rows, *, settings: asked.append([row.key for row in rows]) or float(len(asked)))
    with open_run(chosen) as run:
        corpus = prepare(chosen, run.tree, cycle=0, log=lambda text: None)
        cost = Examiner(run, device=choose("cpu")).held_out_cost("code", None, corpus)
        assert (cost(), cost()) == (1.0, 2.0)
        exam = {row.key for row in Exam.of(corpus, ["code"], tasks=10, bits_rows=bits_rows).held_out["code"]}
    assert asked[0] == asked[1]
    assert len(asked[0]) == bits_rows
    assert exam.isdisjoint(asked[0]) == disjoint
    assert (set(asked[0]) == exam) != disjoint
