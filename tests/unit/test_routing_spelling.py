"""Words read as the one that is meant: against an edit distance worked out the slow way, and what a typo does to a prompt's features."""

from itertools import product
from random import Random

import numpy as np
import pytest

import routing.fit
import settings
from experts.tree import Tree
from routing.everyday import everyday_rows
from routing.features import Counts, fit_features
from routing.perturb import typo
from routing.spelling import Spelling, fit_spelling, is_one_slip
from routing.text import read

SPELLING = Spelling(frozenset({"what", "capital", "captain", "where", "were", "cat"}), ("what", "where", "capital", "captain"))
LETTERS = "abc"


def _distance(one, other):
    """Optimal string alignment (Damerau's four slips), by the textbook table."""
    table = [[max(row, column) if 0 in (row, column) else 0 for column in range(len(other) + 1)] for row in range(len(one) + 1)]
    for row, column in product(range(1, len(one) + 1), range(1, len(other) + 1)):
        table[row][column] = min(table[row - 1][column] + 1, table[row][column - 1] + 1,
                                 table[row - 1][column - 1] + (one[row - 1] != other[column - 1]))
        if row > 1 and column > 1 and one[row - 1] == other[column - 2] and one[row - 2] == other[column - 1]:
            table[row][column] = min(table[row][column], table[row - 2][column - 2] + 1)
    return table[-1][-1]


def test_is_one_slip_equals_the_textbook_distance_of_one():
    words = ["".join(letters) for size in range(5) for letters in product(LETTERS, repeat=size)]
    wrong = [(one, other) for one, other in product(words, words) if is_one_slip(one, other) != (_distance(one, other) == 1)]
    assert wrong == []


def test_meant_is_the_most_frequent_word_at_distance_one_with_the_same_first_letter():
    rng = Random(3)
    common = tuple(dict.fromkeys("".join(rng.choices(LETTERS, k=rng.randint(4, 6))) for _ in range(150)))
    spelling = Spelling(frozenset(common), common)
    strange = ["".join(rng.choices(LETTERS, k=rng.randint(3, 7))) for _ in range(600)]
    expected = [word if word in common else next((near for near in common if near[0] == word[0] and _distance(word, near) == 1), word) for word in strange]
    assert [spelling.meant(word) for word in strange] == expected
    assert sum(word != near for word, near in zip(strange, expected, strict=True)) > 100


@pytest.mark.parametrize(("word", "meant"), [
    ("waht", "what"), ("wat", "what"), ("whaat", "what"), ("captial", "capital"), ("captin", "captain"),
    ("hwat", "hwat"),  # another first letter
    ("were", "were"), ("cat", "cat"),  # known, however near
    ("wt", "wt"), ("w3at", "w3at"), ("capitol hill", "capitol hill"), ("wxyt", "wxyt")])
def test_meant_leaves_known_and_far_words_alone(word, meant):
    assert SPELLING.meant(word) == meant


def test_respelled_reading_has_the_tokens_and_the_form_of_the_right_text():
    assert SPELLING.respelled(read("Wher is it. Waht is the captial?")) == read("where is it. what is the capital?")
    assert SPELLING.respelled(read("Wher is it. Waht is the captial?")).form[-4:] == ["what", "is", "the", "x"]


def test_respelled_without_common_words_is_the_reading_itself():
    reading = read("Waht is the captial?")
    assert Spelling().respelled(reading) is reading


def test_fit_spelling_takes_words_of_enough_texts_and_of_two_sources():
    texts = ["what rains", "what snows", "what snows", "rains", "hola", "hola"]
    sources = ["one", "one", "one", "two", None, None]
    spelling = fit_spelling([read(text) for text in texts], sources=sources, most=10, min_rows=2)
    assert spelling.known == {"what", "rains", "snows", "hola"}
    assert spelling.common == ("rains",)  # the only word of two sources
    assert fit_spelling([read(text) for text in texts], sources=["one"] * 6, most=2, min_rows=2).common == ("what", "hola")


def test_features_of_a_prompt_with_a_typo_in_a_common_word_equal_those_without():
    texts = ["what is the capital of france", "where was the captain born", "what is the largest captain", "where is the capital born"] * 2
    readings, sources = [read(text) for text in texts], ["one"] * 4 + ["two"] * 4
    spelling = fit_spelling(readings, sources=sources, most=100, min_rows=2)
    features = fit_features(Counts.of(texts, readings), sources=sources, word_limit=100, gram_limit=500, form_limit=100, min_rows=2, spelling=spelling)
    rng = Random(0)
    changed = sorted({typo(texts[0], rng) for _ in range(60)} - {texts[0]})
    assert len(changed) > 20
    wanted = features.one(texts[0])
    for text in changed:
        assert np.array_equal(features.one(text).ids, wanted.ids)
        assert np.array_equal(features.one(text).values, wanted.values)
    assert abs(features.many(changed) - features.many([texts[0]] * len(changed))).max() == 0


def test_fit_reads_its_rows_as_the_router_reads_prompts(monkeypatch):
    seen = {}

    def classifiers(prepared, matrix, **rest):
        seen.update(texts=prepared.texts, matrix=matrix)
        return fit_classifiers(prepared, matrix, **rest)

    fit_classifiers = routing.fit._fit_classifiers
    monkeypatch.setattr(routing.fit, "_fit_classifiers", classifiers)
    tree = Tree.from_settings(settings.TreeSettings())
    small = settings.RouterSettings(everyday_rows=100, none_rows=200, words=3000, letter_groups=4000, forms=1000, perturbed_share=1.0)
    features = routing.fit.fit(everyday_rows(tree.domains, count=150, seed=7), tree=tree, settings=small, seed=0).router.features
    assert abs(seen["matrix"] - features.many(seen["texts"])).max() == 0
    respelled = [text for text in seen["texts"] if features.spelling.respelled(read(text)) != read(text)]
    assert len(respelled) > 50
    assert features.spelling.known.isdisjoint({"waht", "captial"})
