"""Cleaning records: what is changed, what is left out and why, and what counts as the same content."""

from __future__ import annotations

import pytest

from data_prep.clean import Cleaned, clean, clean_text, normalised
from data_prep.records import Record, content_key
from settings import DataSettings


def record(prompt: str, response: str = "answer", *, number: int = 1, exam_only: bool = False) -> Record:
    return Record("math", prompt, response, "source", {"n": number}, f"math/a.jsonl:{number}", exam_only)


def run(*records: Record, loosely: bool = True, **settings: int) -> Cleaned:
    return clean(records, settings=DataSettings.model_validate(settings), loosely=loosely)


@pytest.mark.parametrize(("raw", "kept"), [
    ("cafe\u0301", "caf\u00e9"),  # combining accent -> NFC
    ("a\x00b\x1bc\x7f", "abc"),
    ("a\tb\r\nc\rd", "a\tb\nc\nd"),
    ("  a b \n", "a b"),
    ("\ufeffa\u2028b", "a\nb"),
    ("x\u200dy", "x\u200dy"),  # zero-width joiner: emoji and some scripts need it
])
def test_clean_text_keeps_text_and_drops_controls(raw: str, kept: str) -> None:
    assert clean_text(raw) == kept


def test_clean_makes_an_example_of_each_record() -> None:
    [example] = run(record(" q\u0000 ", "a\n")).examples
    assert (example.domain, example.prompt, example.response, example.source, example.meta) == ("math", "q", "a", "source", {"n": 1})
    assert example.key == content_key("math", "q", "a")


@pytest.mark.parametrize(("bad", "reason", "detail"), [
    (record("\x00 ", number=2), "empty", "nothing is left of the prompt"),
    (record("qq", " \n", number=2), "empty", "nothing is left of the response"),
    (record("p" * 21, number=2), "over length", "prompt of 21 characters; data.max_prompt_chars = 20"),
    (record("qq", "r" * 31, number=2), "over length", "response of 31 characters; data.max_response_chars = 30"),
    (record("q", "r", number=2), "too short", "prompt of 1 characters; data.min_chars = 2"),
])
def test_record_out_of_bounds_is_left_out_with_its_place(bad: Record, reason: str, detail: str) -> None:
    cleaned = run(record("fine"), bad, min_chars=2, max_prompt_chars=20, max_response_chars=30)
    assert [example.prompt for example in cleaned.examples] == ["fine"]
    assert [(rejection.where, rejection.reason) for rejection in cleaned.rejections] == [("math/a.jsonl:2", reason)]
    assert detail in cleaned.rejections[0].detail


def test_duplicate_in_case_spacing_and_marks_is_left_out_and_names_the_first() -> None:
    cleaned = run(record("What is 2?", "It is two."), record("other", number=2), record("what  is 2", "It is TWO", number=3))
    assert [example.meta["n"] for example in cleaned.examples] == [1, 2]
    [rejection] = cleaned.rejections
    assert (rejection.where, rejection.reason, rejection.detail) == ("math/a.jsonl:3", "duplicate", "same content as math/a.jsonl:1")


@pytest.mark.parametrize(("one", "other"), [("3 + 1", "3 - 1"), ("a = b", "a != b"), ("3.5", "35"), ("1,000", "1 000"), ("x > 2", "x < 2")])
def test_normalised_keeps_what_changes_the_meaning(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_same_prompt_with_another_answer_is_no_duplicate() -> None:
    assert len(run(record("q", "one"), record("q", "two", number=2)).examples) == 2


def test_not_loosely_only_equal_contents_are_duplicates() -> None:
    cleaned = run(record("Hi"), record("hi", number=2), record("hi", number=3), loosely=False)
    assert [example.meta["n"] for example in cleaned.examples] == [1, 2]


def test_training_record_that_an_exam_record_repeats_is_left_out() -> None:
    cleaned = run(record("How many?", "five"), record("how many", "5", number=2), record("other", number=3),
                  record("How many?", "five", number=9, exam_only=True))
    assert [(example.meta["n"], example.exam_only) for example in cleaned.examples] == [(3, False), (9, True)]
    assert [(rejection.where, rejection.reason) for rejection in cleaned.rejections] == [
        ("math/a.jsonl:1", "duplicate"), ("math/a.jsonl:2", "same prompt as a held-out row")]


def test_clean_remembers_where_each_example_was_found() -> None:
    cleaned = run(record("q", number=7))
    assert cleaned.places == {cleaned.examples[0].key: "math/a.jsonl:7"}
