"""Grades of answers by source, worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from data_prep.curriculum.answer_match import best_f1, exact_match, normalise
from data_prep.records import Example
from training.graders import Grade, grade


def example(source: str, *, response: str = "", **meta: Any) -> Example:
    return Example(domain="any", prompt="?", response=response, source=source, key="0", meta=meta)


def correct(task: Example, text: str) -> bool:
    graded = grade(task, text)
    assert graded is not None
    return graded.correct


@pytest.mark.parametrize(("text", "expected"), [
    ("Half of 84 is 42.\n#### 42", True), ("#### 42.0", True), ("#### $42", True), ("#### 41\n#### 42", True), ("#### 42\n#### 41", False),
    ("42", False), ("", False), ("#### forty-two", False), ("#### -42", False), ("#### 420", False), ("####42", True),
])
def test_grade_gsm8k_compares_the_number_after_the_last_mark(text: str, expected: bool) -> None:
    assert correct(example("gsm8k_test", answer="42"), text) is expected


def test_grade_gsm8k_ignores_thousands_commas() -> None:
    assert correct(example("gsm8k", answer="1,250"), "#### 1250")
    assert correct(example("gsm8k", answer="1250"), "#### 1,250")


def test_grade_mawps_takes_equal_decimals() -> None:
    assert correct(example("mawps", answer="0.5"), "X=1/2\n#### .5")


@pytest.mark.parametrize("source", ["proofwriter", "prontoqa"])
@pytest.mark.parametrize(("text", "expected"), [
    ("The answer is B) False.", True), ("Max is red.\nThe answer is B) False.", True), ("B", True), ("B) False", True), ("The answer is A) True.", False),
    ("The answer is A) True. No: the answer is B) False.", True), ("False", False), ("", False),
])
def test_grade_options_compares_the_letter_said_last(source: str, text: str, expected: bool) -> None:
    assert correct(example(source, answer="B"), text) is expected


@pytest.mark.parametrize(("text", "expected"), [("Uncertain", True), ("unknown.", True), ("The statement is uncertain.", True), ("True", False), ("", False)])
def test_grade_folio_compares_the_verdict(text: str, expected: bool) -> None:
    assert correct(example("folio", answer="Uncertain"), text) is expected


@pytest.mark.parametrize(("text", "expected"), [
    ("So the answer is yes.", True), ("Yes", True), ("There is no doubt.\nSo the answer is yes.", True), ("So the answer is no.", False), ("yesterday", False),
])
def test_grade_strategyqa_compares_yes_and_no(text: str, expected: bool) -> None:
    assert correct(example("strategyqa", answer="yes"), text) is expected


@pytest.mark.parametrize("source", ["nq_open", "webquestions", "opentriviaqa", "sciq"])
def test_grade_short_answer_takes_an_alias_and_gives_f1(source: str) -> None:
    task = example(source, response="14 December 1972 UTC", answers=["14 December 1972 UTC", "December 1972"])
    assert grade(task, "the December, 1972!") == Grade(1.0, True)
    assert grade(task, "in December 1972") == Grade(2 * 2 / (3 + 2), False)


def test_grade_webquestions_takes_the_whole_list_of_the_response() -> None:
    assert correct(example("webquestions", response="Eclipse, New Moon", answers=["Eclipse", "New Moon"]), "Eclipse, New Moon")


def test_grade_short_answer_without_aliases_compares_with_the_response() -> None:
    assert correct(example("opentriviaqa", response="Asia and Africa"), "asia and africa")


@pytest.mark.parametrize(("text", "expected"), [
    ("The refrigerator door contains iron.", True), ("B) The refrigerator door contains iron.", True), ("B", True), ("B.", True),
    ("A) The refrigerator door contains iron.", False), ("A", False), ("The door is smooth.", False),
])
def test_grade_arc_compares_the_option(text: str, expected: bool) -> None:
    assert correct(example("arc", response="The refrigerator door contains iron.", answer="B"), text) is expected


def test_grade_xquad_scores_f1_and_counts_exact_matches() -> None:
    task = example("xquad_en", response="Pittsburgh Steelers")
    assert grade(task, "the Pittsburgh Steelers.") == Grade(1.0, True)
    assert grade(task, "Steelers") == Grade(pytest.approx(2 / 3), False)


def test_grade_mbpp_runs_the_tests() -> None:
    task = example("mbpp", test_list=["assert add(1, 2) == 3", "assert add(0, 0) == BASE"], test_setup_code="BASE = 0")
    assert correct(task, "def add(a, b):\n    return a + b")
    assert correct(task, "Here you are:\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds.")
    assert not correct(task, "def add(a, b):\n    return 3")


@pytest.mark.parametrize("source", ["topical_chat", "gpteacher_codegen", "nl2bash", "dolly_open_qa", "hub/unknown"])
def test_grade_free_text_has_no_grade(source: str) -> None:
    assert grade(example(source, answer="yes"), "yes") is None


def test_grade_curriculum_source_uses_the_grader_of_its_domain() -> None:
    assert grade(example("curriculum/math", answer="42"), "#### 42") == Grade(1.0, True)
    assert grade(example("curriculum/knowledge", answers=["Paris"]), "#### 42") == Grade(0.0, False)


@pytest.mark.parametrize(("text", "expected"), [
    ("The Beatles!", "beatles"), ("a  cat, an owl", "cat owl"), ("Theater", "theater"), ("U.S.A.", "usa"), ("", "")])
def test_normalise_drops_case_marks_and_articles_as_squad_does(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_exact_match_needs_every_word() -> None:
    assert exact_match("the Eiffel tower", ["Eiffel Tower"])
    assert not exact_match("Eiffel", ["Eiffel Tower"])


def test_best_f1_counts_repeated_words_as_often_as_both_have_them() -> None:
    # got: no no no, wanted: no no -> 2 shared, precision 2/3, recall 1
    assert best_f1("no no no", ["yes", "no no"]) == pytest.approx(0.8)
