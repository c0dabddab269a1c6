"""What the router's benchmark reckons by itself, by hand; and that its hand-written prompts are no phrases that a router is fitted on."""

import numpy as np
import pytest

import settings
from benchmarks.route_plain import Plain
from benchmarks.route_rows import BLIND, everyday_test_rows
from benchmarks.route_sources import Turn, at_coverage, capped_rows
from experts.tree import Tree
from routing.everyday import everyday_rows
from routing.rows import Row

TREE = Tree.from_settings(settings.TreeSettings())


def _turn(confidence, right):
    return Turn("s", "math", 0.0, 0.0, 0.0, 0.0, np.array(confidence), np.array(right), [])


def test_at_coverage_each_source_counts_the_same_whatever_its_rows():
    # weights: 0.25 a row of the first source, 0.5 for the only row of the second; the surest first: 0.9 right, 0.8 wrong (weight 0.5), 0.7 right
    turns = [_turn([0.9, 0.7], [True, True]), _turn([0.8], [False])]
    assert at_coverage(turns, 0.25) == 1.0
    assert at_coverage(turns, 0.75) == pytest.approx(0.25 / 0.75)
    assert at_coverage(turns, 1.0) == pytest.approx(0.5)


def test_capped_rows_keep_small_sources_whole_and_cut_large_ones():
    rows = [Row(str(number), "math", "large") for number in range(50)] + [Row("x", "code", "small")]
    kept = capped_rows(rows, most=5, seed=0)
    assert [sum(row.source == name for row in kept) for name in ("large", "small")] == [5, 1]
    assert kept == capped_rows(rows, most=5, seed=0)


def test_plain_peer_is_right_on_what_it_was_fitted_on():
    rows = [Row(f"add {number} and two", "math", "s") for number in range(20)] + [Row(f"write function {number}", "code", "s") for number in range(20)]
    assert Plain(rows).accuracy(rows) == 1.0


@pytest.mark.parametrize("options", [{}, {"file": BLIND}])
def test_hand_written_prompts_are_not_among_the_phrases_that_routers_are_fitted_on(options):
    asked = {row.prompt.lower().strip("?!. ") for row in everyday_test_rows(TREE, **options)}
    fitted = {row.prompt.lower().strip("?!. ") for row in everyday_rows(TREE.domains, count=2500, seed=0)}
    assert len(asked) >= 70
    assert sorted(asked & fitted) == []
