"""Held-out answers in training rows: what is found is what looking for every answer in every row finds."""

from __future__ import annotations

from random import Random

import pytest

from data_prep import answers
from data_prep.answers import MOST_SHOWN, Shown, shown_answers

ANSWER = "The ferry leaves at nine, and you can buy a ticket on board."


@pytest.mark.parametrize("row", [
    (f"User: When?\nAssistant: {ANSWER}\nUser: Thanks", "You are welcome."),
    ("Say it", ANSWER),
    ("Say it", f"Well. {ANSWER} Or so."),
    ("the  ferry LEAVES at nine and\nyou can buy a ticket on board", "x"),
], ids=["prompt", "whole response", "inside a response", "case, blanks and marks"])
def test_whole_answer_in_prompt_or_response_is_found(row: tuple[str, str]) -> None:
    assert shown_answers(["No.", ANSWER], [("other", "row"), row]) == [Shown(1, 1)]


@pytest.mark.parametrize("row", [
    ("The ferry leaves at nine, and you can buy a ticket on", "board."),
    ("The ferry leaves at nine, and you can buy a ticket on boards.", "x"),
    ("The ferry leaves at nine and you may buy a ticket on board", "x"),
    ("", ""),
], ids=["in two parts", "a longer word", "another word", "nothing"])
def test_part_of_an_answer_is_not_found(row: tuple[str, str]) -> None:
    assert shown_answers([ANSWER], [row, row]) == []


def test_short_answers_count_for_nothing() -> None:
    seven, eight = "one two three four five six seven", "one two three four five six seven eight"
    assert shown_answers([seven, eight, "a b c d e f g h"], [(f"{eight} a b c d e f g h", "x")]) == [Shown(1, 0)]
    fifteen, sixteen = ("".join(chr(0x4E00 + place) for place in range(count)) for count in (15, 16))
    assert shown_answers([fifteen, sixteen], [(f"{sixteen}\u4f60", "x")]) == [Shown(1, 0)]  # a script without spaces


def test_answer_that_many_training_rows_show_is_a_formula_and_counts_for_nothing() -> None:
    rows = [(f"question {number}", ANSWER) for number in range(MOST_SHOWN)]
    assert len(shown_answers([ANSWER], rows)) == MOST_SHOWN
    assert shown_answers([ANSWER], [*rows, (ANSWER, "one more")]) == []


def test_equal_answers_count_as_their_first_and_a_row_once_each() -> None:
    other = "You can ask the harbour master who has the list of all crossings."
    assert shown_answers([other, ANSWER, ANSWER.upper()], [(f"{ANSWER} {other} {ANSWER}", ANSWER)]) == [Shown(0, 0), Shown(1, 0)]


@pytest.mark.parametrize(("held_out", "training"), [([], [("a", "b")]), ([ANSWER], []), (["short"], [("short", "short")])])
def test_nothing_to_find_gives_nothing(held_out: list[str], training: list[tuple[str, str]]) -> None:
    assert shown_answers(held_out, training) == []


def test_what_is_found_equals_comparing_all_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "BATCH", 7)
    monkeypatch.setattr(answers, "MOST_SHOWN", 1000)
    random = Random(3)
    held_out = [" ".join(random.choices(["red", "hat"], k=random.randrange(6, 11))) for _ in range(60)]
    training = [(" ".join(random.choices(["red", "hat"], k=400)), " ".join(random.choices(["red", "hat", "new"], k=60))) for _ in range(40)]
    first = {text: place for place, text in reversed(list(enumerate(held_out)))}
    expected = {(first[text], row) for text in held_out if len(text.split()) >= 8 for row, pair in enumerate(training)
                if any(f" {text} " in f" {side} " for side in pair)}
    assert 100 < len(expected) < 2000
    found = shown_answers(held_out, training)
    assert {(pair.held_out, pair.training) for pair in found} == expected
    assert len(found) == len(expected)
    assert [pair.training for pair in found] == sorted(pair.training for pair in found)
