"""A router is the mean of fits that each leave some sources out: who is left out when, and that the mean is one."""

import dataclasses

import numpy as np
import pytest

import routing.fit
import settings
from experts.tree import Tree
from routing.everyday import everyday_rows
from routing.features import Counts
from routing.fit import Prepared, fit, prepare_rows, source_folds
from routing.rows import FEEDBACK, Row
from routing.text import read

TREE = Tree.from_settings(settings.TreeSettings())
SMALL = settings.RouterSettings(everyday_rows=60, none_rows=120, words=2000, letter_groups=3000, forms=800)
SHARES = (0.4, 0.2, 0.2, 0.2)


def _prepared(pairs, *, given=None):
    """Rows of (label, source), the first `given` the caller's."""
    return Prepared(["text"] * len(pairs), np.array([label for label, _ in pairs]), [source for _, source in pairs], np.ones(len(pairs)),
                    np.zeros(len(pairs), dtype=bool), len(pairs) if given is None else given, len(pairs))


def test_source_folds_of_a_label_take_turns_and_the_next_label_goes_on_where_it_ended():
    pairs = [("math", "big"), ("math", "big"), ("math", "small"), ("code", "b"), ("code", "a"), ("code", "a"), ("code", "c")]
    assert source_folds(_prepared(pairs), count=4).tolist() == [0, 0, 1, 3, 2, 2, 0]


def test_source_folds_keep_what_was_added_corrections_and_labels_of_a_single_source_in_every_fit():
    pairs = [("math", "one"), ("math", FEEDBACK), ("code", "a"), ("code", "b"), ("math", "everyday/math"), ("math", "everyday/math")]
    assert source_folds(_prepared(pairs, given=4), count=3).tolist() == [-1, -1, 0, 1, -1, -1]


def test_source_folds_of_no_fit_leave_nothing_out():
    assert set(source_folds(_prepared([("math", "a"), ("math", "b")]), count=0).tolist()) == {-1}


@pytest.fixture(scope="module")
def rows():
    found = everyday_rows(TREE.domains, count=120, seed=77)
    return [dataclasses.replace(row, source=f"{row.source}/{number % 3}") for number, row in enumerate(found)]


def test_fit_is_the_mean_of_the_fit_on_all_and_of_those_without_each_fold(rows):
    folded = SMALL.model_copy(update={"source_folds": 3, "folds_share": 0.6})
    router = fit(rows, tree=TREE, settings=folded, seed=1).router
    prepared = prepare_rows(rows, tree=TREE, settings=folded, seed=1)
    folds = source_folds(prepared, count=3)
    assert set(folds.tolist()) == {-1, 0, 1, 2}
    counts = Counts.of(prepared.texts, [router.features.spelling.respelled(read(text)) for text in prepared.texts])
    alone = []
    for left_out in (-2, 0, 1, 2):
        left = np.flatnonzero(folds != left_out)
        alone.append(routing.fit._fit_classifiers(prepared.take(left), router.features.of_counts(counts)[left], features=router.features, tree=TREE,
                                                  settings=SMALL.model_copy(update={"source_folds": 0}), seed=1))
    matrix = router.features.many([row.prompt for row in rows[:50]])
    for name in ("gate", "root"):
        wanted = np.average([getattr(one, name).scores(matrix) for one in alone], axis=0, weights=SHARES)
        assert np.abs(getattr(router, name).scores(matrix) - wanted).max() < 1e-9
    for branch, child in router.children.items():
        assert np.abs(child.scores(matrix) - np.average([one.children[branch].scores(matrix) for one in alone], axis=0, weights=SHARES)).max() < 1e-9
    assert np.abs(alone[2].gate.weights - alone[1].gate.weights).max() > 1e-3


@pytest.mark.parametrize(("two_sources", "fits", "share_of_all"), [((), 1, 1.0), (("math",), 3, 0.7)])
def test_fit_leaves_out_the_fits_that_would_be_the_one_on_all_once_more(rows, monkeypatch, two_sources, fits, share_of_all):
    """With a source a label, as the curriculum has, no fold holds a row; with two sources of one label two folds of four do."""
    found = [dataclasses.replace(row, source=f"{row.label}/{number % 2 if row.label in two_sources else 0}") for number, row in enumerate(rows)]
    made, one_fit = [], routing.fit._one_fit
    monkeypatch.setattr(routing.fit, "_one_fit", lambda *args, **more: made.append(one_fit(*args, **more)) or made[-1])
    router = fit(found, tree=TREE, settings=SMALL.model_copy(update={"source_folds": 4, "folds_share": 0.6}), seed=1).router
    assert len(made) == fits
    wanted = np.average([of_one[1].weights for of_one in made], axis=0, weights=[share_of_all, *[0.15] * (fits - 1)])
    assert np.abs(router.root.weights - wanted).max() < 1e-12


def test_fit_gives_a_word_of_one_source_less_weight_than_with_all_sources_at_once():
    plain = everyday_rows(TREE.domains, count=120, seed=77)
    marked = [Row(f"zebracorn {row.prompt}" if row.label == "math" and number % 3 == 0 else row.prompt, row.label, f"{row.label}/{number % 3}")
              for number, row in enumerate(plain)]
    weight = {}
    for count in (0, 3):
        router = fit(marked, tree=TREE, settings=SMALL.model_copy(update={"source_folds": count, "folds_share": 1.0}), seed=1).router
        weight[count] = router.root.weights[router.root.labels.index("math"), router.features.words["zebracorn"]]
    assert 0 < weight[3] < 0.9 * weight[0]
