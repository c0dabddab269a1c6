"""The router's numbers against scikit-learn's own vectorizers and classifier, and a text one at a time against many at once."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from routing.classifier import Classifier
from routing.everyday import everyday_rows
from routing.features import DENSE, Counts, fit_features
from routing.fit import How, linear
from routing.nowhere import none_rows
from routing.text import read, shorten, tokens, user_turns

ROWS = [*everyday_rows(("math", "reasoning", "conversation", "knowledge", "code"), count=180, seed=5), *none_rows(150, seed=5)]
TEXTS = [row.prompt for row in ROWS] + ["", "7", "a", "x = [1, 2]\nprint(x)", "caf\u00e9 \u5317\u4eac", "don't 3.5% of 1,000?"]


@pytest.fixture(scope="module")
def fitted():
    counts = Counts.of(TEXTS, [read(text) for text in TEXTS])
    features = fit_features(counts, sources=["one"] * len(TEXTS), word_limit=3000, gram_limit=5000, form_limit=1500, min_rows=2)
    return features, counts


def _sklearn_blocks(features):
    """scikit-learn's vectorizers with the router's vocabulary, fitted from scratch on the same texts."""
    words = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), lowercase=False, sublinear_tf=True, vocabulary=features.words)
    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), lowercase=False, sublinear_tf=True, vocabulary=features.grams)
    forms = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(2, 4), lowercase=False, sublinear_tf=True, vocabulary=features.forms)
    joined = [" ".join(tokens(text)) for text in TEXTS]
    asked = [" ".join(read(text).form) for text in TEXTS]
    return sparse.hstack((words.fit_transform(joined), grams.fit_transform(joined), forms.fit_transform(asked)), format="csr")


def test_features_many_equals_scikit_learn_within_1e_9(fitted):
    features, counts = fitted
    ours = features.of_counts(counts)
    assert len(TEXTS) >= 1000
    assert abs(ours[:, :-len(DENSE)] - _sklearn_blocks(features)).max() < 1e-9


def test_features_one_equals_many_within_1e_12(fitted):
    features, counts = fitted
    matrix = features.of_counts(counts)
    for row, text in enumerate(TEXTS):
        part = features.one(text)
        dense = np.zeros(features.width)
        dense[part.ids] = part.values
        assert np.abs(dense - matrix[[row]].toarray()[0]).max() < 1e-12


def test_features_one_with_unknown_words_only_is_empty(fitted):
    assert fitted[0].one("\u5317\u4eac").empty  # in one text alone, so in no vocabulary
    assert not fitted[0].one("\u5317\u4eac what").empty
    assert fitted[0].one("").empty
    assert fitted[0].one("?!").empty


def test_classifier_scores_equal_scikit_learn_within_1e_9(fitted):
    features, counts = fitted
    matrix = features.of_counts(counts)[:len(ROWS)]
    labels = np.array([row.label for row in ROWS])
    model = linear(matrix, labels, np.ones(len(ROWS)), how=How(0.3, 0))
    ours = Classifier(tuple(model.classes_), model.coef_, model.intercept_)
    blocks = sparse.hstack((_sklearn_blocks(features)[:len(ROWS)], matrix[:, -len(DENSE):]), format="csr")
    assert np.abs(ours.scores(matrix) - model.decision_function(blocks)).max() < 1e-9
    logistic = LogisticRegression(C=4.0, max_iter=300).fit(matrix, labels)
    assert np.abs(Classifier(tuple(logistic.classes_), logistic.coef_, logistic.intercept_).probabilities(matrix) - logistic.predict_proba(blocks)).max() < 1e-9


def test_classifier_with_two_labels_equals_scikit_learn():
    features = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.2]])
    model = LogisticRegression().fit(features, ["a", "b", "b", "a"])
    ours = Classifier(("a", "b"), model.coef_, model.intercept_)
    assert np.abs(ours.probabilities(features) - model.predict_proba(features)).max() < 1e-12
    assert np.allclose(ours.margin_weights("b", "a"), -ours.margin_weights("a", "b"))


@pytest.mark.parametrize(("text", "expected"), [
    ("What's 3.5 plus 1,000?", ["whats", "0", "plus", "0"]),
    ("PLEASE sort it, thanks", ["sort", "it"]),
    ("Question: Is it?\nA) yes\nB) no", ["is", "it", "yes", "no"]),
    ("x += foo[1];", ["x", "+=", "foo", "[", "0", "];"]),
    ("Hi there, could you please help: Question: Is it?", ["is", "it"]),
    ("Question Is it?\nContext The cow sat", ["is", "it", "the", "cow", "sat"]),
    ("facts about the moon", ["facts", "about", "the", "moon"]),
    ("hi, how are you", ["how", "are", "you"]),
    ("hello there", ["hello", "there"]),
])
def test_tokens_keep_words_numbers_and_code_signs_and_drop_marks(text, expected):
    assert tokens(text) == expected


def test_read_form_leaves_the_subject_out():
    assert read("The old ship sank. Did the captain swim?").form == ["^", "the", "x", "did", "the", "x", "$", "did", "the", "x"]


def test_read_form_takes_the_last_question_before_trailing_options():
    assert read("Who won? Red team\nBlue team").form[-4:] == ["x", "$", "who", "x"]


def test_user_turns_are_newest_first_and_tags_fall_away():
    assert user_turns("User: hi\nAssistant: hello\nUser: and now?") == ("and now?", "hi")


def test_shorten_keeps_both_ends():
    assert shorten("a" * 50 + "b" * 50, limit=20) == "a" * 10 + " " + "b" * 10
