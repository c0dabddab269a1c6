"""Splitting by content: shares, stability, equal prompts together, exam files."""

from __future__ import annotations

import hashlib

import pytest

from data_prep.records import Example, content_key
from data_prep.split import prompt_place, split_all, split_of
from settings import DataSettings

SETTINGS = DataSettings.model_validate({"validation_share": 0.1, "exam_share": 0.2})


def example(prompt: str, response: str = "a", *, exam_only: bool = False) -> Example:
    return Example("math", prompt, response, "s", content_key("math", prompt, response), {}, exam_only)


def test_place_is_the_hash_of_the_normalised_prompt() -> None:
    expected = int(hashlib.sha256(b"what is it").hexdigest()[:12], 16) / 2**48
    assert prompt_place("What  is it?") == expected


def test_shares_are_met_on_many_prompts() -> None:
    splits = [split_of(example(f"question {number}"), settings=SETTINGS) for number in range(10_000)]
    assert splits.count("validation") == pytest.approx(1000, abs=100)
    assert splits.count("exam") == pytest.approx(2000, abs=130)


def test_prompts_that_differ_in_case_and_marks_share_a_split() -> None:
    for number in range(200):
        one, other = example(f"Question {number}?", "a"), example(f"question  {number}", "b")
        assert split_of(one, settings=SETTINGS) == split_of(other, settings=SETTINGS)


def test_exam_only_is_exam_whatever_the_hash() -> None:
    assert {split_of(example(f"q {number}", exam_only=True), settings=SETTINGS) for number in range(50)} == {"exam"}


def test_with_an_exam_file_other_rows_train_and_validation_stays() -> None:
    for number in range(500):
        row = example(f"q {number}")
        alone, beside = split_of(row, settings=SETTINGS), split_of(row, settings=SETTINGS, has_exam=True)
        assert beside == ("train" if alone == "exam" else alone)


@pytest.mark.parametrize(("rows", "least"), [(2, 0), (3, 1), (19, 1), (40, 4), (150, 10)])
def test_small_domain_holds_rows_out_by_hash(rows: int, least: int) -> None:
    tiny = DataSettings.model_validate({"validation_share": 1e-9, "exam_share": 1e-9})
    examples = [example(f"q {number}") for number in range(rows)]
    split = split_all(examples, settings=tiny)
    in_order = sorted(examples, key=lambda row: prompt_place(row.prompt))
    assert {row.key for row in split["validation"]} == {row.key for row in in_order[:least]}
    assert {row.key for row in split["exam"]} == {row.key for row in in_order[least:2 * least]}
    assert len(split["train"]) == rows - 2 * least


def test_small_domain_whose_exam_took_nearly_all_rows_holds_out_what_is_left() -> None:
    # nineteen answers to one question go to the exam together; two rows are wanted for validation, one is left
    asked = next(prompt for prompt in map("q {}".format, range(1000)) if 0.1 <= prompt_place(prompt) < 0.3)
    other = next(prompt for prompt in map("q {}".format, range(1000)) if prompt_place(prompt) >= 0.3)
    split = split_all([*(example(asked, str(number)) for number in range(19)), example(other)], settings=SETTINGS)
    assert {name: len(rows) for name, rows in split.items()} == {"train": 0, "validation": 1, "exam": 19}


def test_small_domain_with_an_exam_file_takes_no_more_rows_for_the_exam() -> None:
    tiny = DataSettings.model_validate({"validation_share": 1e-9, "exam_share": 1e-9})
    split = split_all([*(example(f"q {number}") for number in range(20)), example("asked", exam_only=True)], settings=tiny)
    assert [row.prompt for row in split["exam"]] == ["asked"]
    assert len(split["validation"]) == 2


@pytest.mark.parametrize("shares", [(1e-9, 1e-9), (0.02, 0.03), (0.1, 0.2)])
def test_growing_domain_never_holds_out_a_row_that_was_trained_on(shares: tuple[float, float]) -> None:
    chosen = DataSettings.model_validate({"validation_share": shares[0], "exam_share": shares[1]})
    learned: set[str] = set()
    for rows in range(3, 400):
        split = split_all([example(f"q {number}") for number in range(rows)], settings=chosen, trained=learned)
        assert sum(map(len, split.values())) == rows
        assert not {row.key for name in ("validation", "exam") for row in split[name]} & learned  # type: ignore[index]
        learned |= {row.key for row in split["train"]}
    least = 10
    assert min(len(split["validation"]), len(split["exam"])) >= least


def test_split_all_agrees_with_split_of_on_a_large_domain() -> None:
    examples = [example(f"q {number}") for number in range(1000)]
    split = split_all(examples, settings=SETTINGS)
    assert all(split_of(row, settings=SETTINGS) == name for name, rows in split.items() for row in rows)
    assert sum(map(len, split.values())) == 1000
