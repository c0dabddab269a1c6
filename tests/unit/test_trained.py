"""What a run trained on: kept over cycles, found again, and no obstacle when it is damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.intake import write_examples
from data_prep.records import Example, content_key
from data_prep.split import prompt_hash
from data_prep.trained import load, remember


def example(prompt: str, *, source: str = "s") -> Example:
    return Example("law", prompt, "a", source, content_key("law", prompt, "a"), {})


def learn(folder: Path, name: str, *rows: Example) -> None:
    (folder / "examples" / name).mkdir(parents=True)
    write_examples(folder / "examples" / name / "train.parquet", rows)
    remember(folder, "law", folder / "examples" / name)


def test_rows_are_known_by_their_normalised_prompt_and_add_up(tmp_path: Path) -> None:
    learn(tmp_path, "law-1", example("What is it?"), example("told", source="curriculum/law"))
    learn(tmp_path, "law-2", example("and that"))
    rows = [example("what  is it"), example("and that"), example("told"), example("new")]
    assert load(tmp_path, "law").keys(rows) == {rows[0].key, rows[1].key}
    assert load(tmp_path, "law").hashes.tolist() == sorted(map(prompt_hash, ("what is it", "and that")))
    assert load(tmp_path, "math").keys(rows) == frozenset()


def test_folder_of_the_newest_rows_keeps_its_name_and_others_depend_on_what_is_known(tmp_path: Path) -> None:
    assert load(tmp_path, "law").folder("law", "f" * 64) == f"law-{'f' * 16}"
    learn(tmp_path, f"law-{'f' * 16}", example("one"))
    known = load(tmp_path, "law")
    assert known.folder("law", "f" * 64) == f"law-{'f' * 16}"
    assert known.folder("law", "e" * 64) != f"law-{'e' * 16}"
    learn(tmp_path, known.folder("law", "e" * 64), example("two"))
    later = load(tmp_path, "law")
    assert later.folder("law", "e" * 64) == known.folder("law", "e" * 64)
    assert later.folder("law", "f" * 64) != f"law-{'f' * 16}"  # its held-out rows may have been trained on since


@pytest.mark.parametrize("cut", [0, 40, -30])
def test_damaged_file_is_set_aside_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: int) -> None:
    learn(tmp_path, "law-1", example("one"))
    file = tmp_path / "trained" / "law.npz"
    file.write_bytes(file.read_bytes()[:cut])
    assert load(tmp_path, "law").hashes.dtype == np.uint64
    assert not len(load(tmp_path, "law").hashes)
    assert "exams of law may hold rows that were trained on before" in caplog.text
    assert (tmp_path / "trained" / "law.npz.damaged-1").exists()


def test_a_prompt_is_known_however_it_is_written(tmp_path: Path) -> None:
    learn(tmp_path, "law-1", *(example(f"What is {number}?") for number in range(50)))
    known = load(tmp_path, "law")
    assert all(known.holds(prompt) for prompt in ("What is 7?", " what is 7 ", "What  is 49?\r\n"))
    assert not any(known.holds(prompt) for prompt in ("What is 50?", "", "Who is 7?"))
    assert not load(tmp_path, "math").holds("What is 7?")
