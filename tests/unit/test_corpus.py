"""prepare: what a cycle's data holds, what is made again and what isn't, and what a user is told."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from rich.console import Console

import settings
from data_prep import curriculum, manifest
from data_prep.__main__ import main as look
from data_prep.corpus import Corpus, DataError, keep, last_cycle, last_levels, open_corpus, prepare
from data_prep.exam_check import ExamOverlap, allowed
from data_prep.split import prompt_place
from experts import tokenizer as tokenizers
from experts.tree import Tree

WORDS = ("river", "stone", "cloud", "lamp", "garden", "winter", "metal", "paper", "music", "bridge", "silver", "candle", "forest", "engine", "mirror", "harbor")


def sentence(number: int) -> str:
    """Ten words, hardly ever three in a row of another number's."""
    random = Random(number)
    return " ".join(random.choice(WORDS) + str(random.randrange(10)) for _ in range(10)) + "?"


def write_records(file: Path, numbers: Sequence[int], *, answer: str = "answer") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_rows(file, [(sentence(number), f"{answer} {number}", number) for number in numbers])


def write_rows(file: Path, rows: Sequence[tuple[str, str, int]]) -> None:
    """(prompt, response, number) as JSON lines, after those that the file has."""
    with file.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"prompt": prompt, "response": response, "meta": {"n": number}}) + "\n" for prompt, response, number in rows)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_records(tmp_path / "data" / "law" / "a.jsonl", range(200))
    write_records(tmp_path / "data" / "math" / "a.jsonl", range(1000, 1150))
    return tmp_path / "data"


class Prepared:
    """prepare on a small tree, with the lines it logged."""

    def __init__(self, tmp_path: Path, *, branches: dict[str, list[str]] | None = None, **tables: dict[str, object]) -> None:
        self.tables: dict[str, dict[str, object]] = {
            "run": {"dir": str(tmp_path / "run")}, "tree": {"branches": branches or {"one": ["law", "math"]}}, "tokenizer": {"vocab_size": 400},
            "train": {"row_tokens": 64}, "exam": {"tasks": 30}}
        for name, table in tables.items():
            self.tables[name] = self.tables.get(name, {}) | table
        self.lines: list[str] = []

    def __call__(self, *, cycle: int = 1, resume: bool = True, allow_overlap: bool = False, levels: dict[str, int] | None = None,
                 tokenizer: tokenizers.Tokenizer | None = None, training: str | None = None, **data: object) -> Corpus:
        self.lines.clear()
        chosen = settings.check(self.tables | {"data": self.tables.get("data", {}) | data})
        return prepare(chosen, Tree.from_settings(chosen.tree), cycle=cycle, log=self.lines.append, resume=resume, allow_overlap=allow_overlap, levels=levels,
                       tokenizer=tokenizer, training=training)


@pytest.fixture
def prepared(tmp_path: Path, data: Path) -> Prepared:
    return Prepared(tmp_path, data={"path": str(data), "curriculum": "never"})


def numbers(corpus: Corpus, domain: str, split: str) -> list[int]:
    return [row.meta["n"] for row in corpus.examples(domain, split)]  # type: ignore[arg-type]


def test_every_record_is_in_one_split(prepared: Prepared) -> None:
    corpus = prepared()
    found = [numbers(corpus, "law", split) for split in ("train", "validation", "exam")]
    assert sorted(number for part in found for number in part) == list(range(200))
    assert all(len(part) >= 10 for part in found)


def test_shard_holds_the_examples_of_its_split_in_order(prepared: Prepared) -> None:
    corpus = prepared()
    for split in ("train", "validation", "exam"):
        shard, rows = corpus.shard("math", split), corpus.examples("math", split)  # type: ignore[arg-type]
        assert len(shard) == len(rows) > 0
        for number, row in enumerate(rows):
            whole = tokenizers.prompt_ids(corpus.tokenizer, row.messages) + tokenizers.answer_ids(corpus.tokenizer, row.response)
            assert shard.tokens[shard.starts[number]:shard.starts[number + 1]].tolist() == whole
            assert shard.answer_starts[number] == shard.starts[number] + len(tokenizers.prompt_ids(corpus.tokenizer, row.messages))


def test_documents_are_cut_to_a_row(tmp_path: Path, data: Path) -> None:
    write_records(data / "law" / "long.jsonl", range(300, 310), answer="so many words " * 40)
    corpus = Prepared(tmp_path, data={"path": str(data), "curriculum": "never"})()
    assert int(corpus.shard("law", "train").lengths.max()) == 65  # 64 places and one more token that is only a target
    assert 1 <= corpus.report.domains[0].packing.cut_responses <= 10


def test_same_cycle_again_does_nothing_and_gives_the_same(prepared: Prepared) -> None:
    first = prepared()
    again = prepared()
    assert prepared.lines == []
    assert again.fingerprint == first.fingerprint
    assert again.report == first.report


def test_two_runs_with_the_same_files_have_the_same_corpus(tmp_path: Path, data: Path) -> None:
    one, other = (Prepared(tmp_path / name, data={"path": str(data), "curriculum": "never"})() for name in ("one", "other"))
    assert one.fingerprint == other.fingerprint
    assert one.shard("law", "train").tokens.tolist() == other.shard("law", "train").tokens.tolist()


def test_changed_file_makes_new_shards_of_its_domain_alone(prepared: Prepared, data: Path) -> None:
    first = prepared(cycle=1)
    write_records(data / "law" / "a.jsonl", [200])
    second = prepared(cycle=2)
    assert prepared.lines == ["law: reading law/a.jsonl", "law: tokenizing"]
    assert second.fingerprint != first.fingerprint
    assert second.folders["math"] == first.folders["math"]
    assert tokenizers.fingerprint(second.tokenizer) == tokenizers.fingerprint(first.tokenizer)


def test_new_file_waits_for_the_next_cycle(prepared: Prepared, data: Path) -> None:
    first = prepared(cycle=1)
    write_records(data / "law" / "b.jsonl", range(200, 260))
    assert prepared(cycle=1).fingerprint == first.fingerprint
    corpus = prepared(cycle=2)
    assert sum(len(corpus.examples("law", split)) for split in ("train", "validation", "exam")) == 260  # type: ignore[arg-type]


def test_without_resume_a_new_file_is_taken_at_once(prepared: Prepared, data: Path) -> None:
    first = prepared(cycle=1)
    write_records(data / "law" / "b.jsonl", range(200, 260))
    assert prepared(cycle=1, resume=False).fingerprint != first.fingerprint


def test_training_that_was_stopped_finds_its_corpus_after_a_look_and_another_training(prepared: Prepared, data: Path) -> None:
    first = prepared(cycle=3, training="loop")
    for number, (cycle, training) in enumerate([(3, None), (0, "fast law"), (0, None), (3, None)]):
        write_records(data / "law" / f"b{number}.jsonl", [200 + number])
        assert prepared(cycle=cycle, training=training, resume=False).fingerprint != first.fingerprint
    again = prepared(cycle=3, training="loop")
    assert prepared.lines == []
    assert again.fingerprint == first.fingerprint
    assert again.shard("law", "train").tokens.tolist() == first.shard("law", "train").tokens.tolist()


def test_corpus_of_a_released_training_is_removed(prepared: Prepared, data: Path) -> None:
    fast = prepared(cycle=0, training="fast law")
    manifest.release(fast.folder, "fast law")
    for cycle in (1, 2):
        write_records(data / "law" / "a.jsonl", [200 + cycle])
        prepared(cycle=cycle, training="loop")
    assert not fast.folders["law"].shards.exists()


def test_kept_corpus_is_what_a_resume_of_the_next_cycle_finds(prepared: Prepared, data: Path) -> None:
    first = prepared(cycle=1, training="loop")
    write_records(data / "law" / "b.jsonl", range(200, 260))
    chosen = settings.check(prepared.tables)
    keep(first, chosen, Tree.from_settings(chosen.tree), cycle=2, levels={}, training="loop")
    assert prepared(cycle=2, training="loop").fingerprint == first.fingerprint
    assert prepared(cycle=3, training="loop").fingerprint != first.fingerprint


def test_refused_exam_leaves_the_corpus_before_in_force(prepared: Prepared, data: Path) -> None:
    first = prepared(cycle=1, training="loop")
    write_rows(data / "math" / "copied.jsonl", [(f"{sentence(number)} {word}", "y", number) for number in range(200) for word in ("please", "again")])
    with pytest.raises(ExamOverlap):
        prepared(cycle=2, training="loop")
    assert last_cycle(first.folder) == 1
    assert prepared(cycle=1, training="loop").fingerprint == first.fingerprint


def test_folders_of_the_cycle_before_last_are_removed(prepared: Prepared, data: Path) -> None:
    folders = []
    for cycle in (1, 2, 3):
        write_records(data / "law" / "a.jsonl", [200 + cycle])
        folders.append(prepared(cycle=cycle).folders["law"].shards)
    assert [folder.is_dir() for folder in folders] == [False, True, True]


@pytest.mark.parametrize("damaged", ["shards", "examples"])
def test_damaged_folder_is_set_aside_and_made_again(prepared: Prepared, damaged: str) -> None:
    first = prepared()
    places = first.folders["law"]
    file = places.shards / "train.tokens.npy" if damaged == "shards" else places.examples / "train.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    again = prepared()
    assert again.fingerprint == first.fingerprint
    assert file.read_bytes() == whole
    assert all("law" in line for line in prepared.lines)


@pytest.mark.parametrize("left", ["", "{}"])
def test_damaged_facts_of_shards_are_made_again(prepared: Prepared, left: str) -> None:
    first = prepared()
    file = first.folders["law"].shards / "facts.json"
    whole = file.read_bytes()
    file.write_text(left, encoding="utf-8")
    assert prepared().report == first.report
    assert file.read_bytes() == whole


@pytest.mark.parametrize("left", ["", "{}"])
def test_damaged_facts_of_the_tokenizer_are_refused_with_the_repair(prepared: Prepared, left: str) -> None:
    (prepared().folder / "tokenizer" / "facts.json").write_text(left, encoding="utf-8")
    with pytest.raises(DataError, match=r"facts\.json .*can't be read.*every version of this run depends on that tokenizer.*--run DIR"):
        prepared(cycle=2)


def test_damaged_manifest_is_no_obstacle(prepared: Prepared) -> None:
    first = prepared()
    (first.folder / "corpus.json").write_text("{", encoding="utf-8")
    assert last_cycle(first.folder) is None
    assert prepared().fingerprint == first.fingerprint
    assert last_cycle(first.folder) == 1


def test_tokenizer_of_other_settings_is_refused_with_the_difference(prepared: Prepared) -> None:
    prepared()
    prepared.tables["tokenizer"] = {"vocab_size": 500}
    with pytest.raises(DataError, match=r"made with .*400.*, the settings say .*500.*--run DIR"):
        prepared()


def test_given_tokenizer_is_used_and_none_is_trained(prepared: Prepared) -> None:
    mine = tokenizers.train(["other text"], settings=settings.TokenizerSettings(kind="byte"))
    corpus = prepared(tokenizer=mine)
    assert corpus.tokenizer is mine
    assert not (corpus.folder / "tokenizer").exists()


def test_test_file_is_the_exam_and_nothing_else_is(prepared: Prepared, data: Path) -> None:
    write_records(data / "law" / "b_test.jsonl", range(500, 520))
    corpus = prepared()
    assert sorted(numbers(corpus, "law", "exam")) == list(range(500, 520))
    assert sorted(numbers(corpus, "law", "train") + numbers(corpus, "law", "validation")) == list(range(200))


def held_out(corpus: Corpus, domain: str) -> set[int]:
    return set(numbers(corpus, domain, "validation") + numbers(corpus, domain, "exam"))


@pytest.mark.parametrize("sizes", [[19, 20, 59, 60, 100], [200, 90, 30], [59, 20, 110]], ids=["growing", "shrinking", "both"])
def test_rows_of_a_small_domain_that_were_trained_on_are_never_held_out_later(prepared: Prepared, data: Path, sizes: Sequence[int]) -> None:
    learned: set[int] = set()
    for cycle, size in enumerate(sizes):
        (data / "law" / "a.jsonl").unlink()
        write_records(data / "law" / "a.jsonl", range(size))
        corpus = prepared(cycle=cycle, training="loop")
        assert not held_out(corpus, "law") & learned, size
        assert min(len(numbers(corpus, "law", split)) for split in ("train", "validation", "exam")) > 0
        learned |= set(numbers(corpus, "law", "train"))


def test_rows_trained_on_stay_in_training_when_the_exam_file_goes_or_its_share_grows(prepared: Prepared, data: Path) -> None:
    prepared.tables["data"] |= {"validation_share": 0.1, "exam_share": 0.1}
    write_records(data / "law" / "b_test.jsonl", range(500, 520))
    learned = set(numbers(prepared(cycle=0, training="loop"), "law", "train"))
    (data / "law" / "b_test.jsonl").unlink()
    with pytest.raises(DataError, match=r"0 for exam.*rows that this run trained on are never held out later \(bring back the held-out"):
        prepared(cycle=1, training="loop")
    write_records(data / "law" / "new.jsonl", range(600, 700))
    corpus = prepared(cycle=1, training="loop")
    assert set(numbers(corpus, "law", "exam")) <= set(range(600, 700))
    assert len(numbers(corpus, "law", "exam")) >= 10
    assert not held_out(prepared(cycle=2, training="loop", exam_share=0.4), "law") & learned


def test_exam_file_of_rows_that_were_trained_on_loses_them(prepared: Prepared, data: Path) -> None:
    learned = numbers(prepared(cycle=0, training="loop"), "law", "train")
    write_records(data / "law" / "b_test.jsonl", [*learned[:5], *range(500, 520)])
    corpus = prepared(cycle=1, training="loop")
    assert sorted(numbers(corpus, "law", "exam")) == list(range(500, 520))
    assert {*learned[:5]} <= {*numbers(corpus, "law", "train")}
    assert not {*learned[:5]} & {*held_out(corpus, "law")}
    assert corpus.report.domains[0].intake.drops["trained on before"].count == 5


def test_same_files_are_not_made_again_because_their_rows_were_trained_on(prepared: Prepared, data: Path) -> None:
    prepared(cycle=0, training="loop")
    for cycle in (1, 2):
        prepared(cycle=cycle, training="loop")
        assert prepared.lines == []
    write_records(data / "law" / "b.jsonl", range(200, 260))
    second = prepared(cycle=3, training="loop")
    assert prepared.lines == ["law: reading law/a.jsonl, law/b.jsonl", "law: tokenizing", "law: 260 examples from files", "math: 150 examples from files"]
    assert prepared(cycle=4, training="loop").fingerprint == second.fingerprint
    assert prepared(cycle=0, training="fast law", resume=False).fingerprint == second.fingerprint
    assert not any("reading" in line or "tokenizing" in line for line in prepared.lines)


def test_look_marks_no_row_as_trained_on(prepared: Prepared, data: Path) -> None:
    prepared(cycle=0)
    write_records(data / "law" / "b.jsonl", range(200, 260))
    assert not (prepared(cycle=0, resume=False).folder / "trained").exists()


def test_curriculum_rows_are_not_remembered(tmp_path: Path) -> None:
    corpus = lessons(tmp_path)(cycle=0, training="loop")
    assert not (corpus.folder / "trained").exists()


def passage(number: int) -> str:
    return " ".join(f"{WORDS[place % 16]}{number * 31 + place}" for place in range(40))


def test_questions_on_one_passage_are_never_parted_between_training_and_held_out(prepared: Prepared, data: Path) -> None:
    write_rows(data / "law" / "passages.jsonl", [(f"{passage(number)} Question {ask}?", f"{ask}", 5000 + number) for number in range(30) for ask in range(3)])
    corpus = prepared()
    held_out = set(numbers(corpus, "law", "validation") + numbers(corpus, "law", "exam")) & set(range(5000, 5030))
    assert len(held_out) >= 3
    assert not held_out & set(numbers(corpus, "law", "train"))
    drops = corpus.report.domains[0].intake.drops["near-duplicate of a held-out row"]
    assert drops.count >= len(held_out)
    assert drops.first[0].startswith("law/passages.jsonl:")


def dialogue(number: int) -> list[tuple[str, str, int]]:
    """Three turns of a dialogue, each with those before it in its prompt."""
    said = [sentence(number * 10 + place) for place in range(6)]
    return [("\n".join(f"{'Assistant' if place % 2 else 'User'}: {text}" for place, text in enumerate(said[:turn * 2 + 1])), said[turn * 2 + 1], number)
            for turn in range(3)]


def test_rows_that_show_the_answer_of_a_held_out_row_leave_training_and_no_other_row_moves(prepared: Prepared, data: Path) -> None:
    write_rows(data / "law" / "talk.jsonl", [row for number in range(100, 120) for row in dialogue(number)])
    corpus = prepared(near_duplicate=1.0, validation_share=0.05, exam_share=0.05, training="loop")
    train, held_out = corpus.examples("law", "train"), corpus.examples("law", "validation") + corpus.examples("law", "exam")
    long = [row.response for row in held_out if len(row.response.split()) >= 8]
    assert len(long) >= 3
    assert not [row for row in train for answer in long if answer in row.prompt or answer in row.response]
    drops = corpus.report.domains[0].intake.drops["shows a held-out row's answer"]
    assert len(train) + len(held_out) + drops.count == 260
    kept = {row.prompt for row in train + held_out}
    assert drops.count == sum(prompt not in kept for number in range(100, 120) for prompt, _, _ in dialogue(number)) >= 3
    assert re.fullmatch(r"law/talk\.jsonl:\d+: that of law/talk\.jsonl:\d+: .*", drops.first[0])
    assert f"law: {drops.count} left out, shows a held-out row's answer ({drops.first[0]})" in prepared.lines
    places = {row.prompt: prompt_place(row.prompt) for row in train + held_out}
    assert all((places[row.prompt] < 0.1) == (row in held_out) for row in train + held_out)


def test_row_trained_on_that_shows_a_later_test_files_answer_leaves_training_and_is_never_held_out(prepared: Prepared, data: Path) -> None:
    first, second, third = dialogue(300)
    write_rows(data / "law" / "a.jsonl", [(*second[:2], 901), (*third[:2], 902)])
    assert {901, 902} <= set(numbers(prepared(cycle=0, validation_share=0.001, training="loop"), "law", "train"))
    write_rows(data / "law" / "b_test.jsonl", [(first[0], first[1].replace(" ", "\n"), 900)])
    corpus = prepared(cycle=1, training="loop")
    assert numbers(corpus, "law", "exam") == [900]
    assert not {901, 902} & set(numbers(corpus, "law", "train") + numbers(corpus, "law", "validation"))
    shown = corpus.report.domains[0].intake.drops["shows a held-out row's answer"]
    assert shown.count == 2
    assert shown.first[0] == f"law/a.jsonl:201: that of law/b_test.jsonl:1: {first[1][:80]}"  # on one line
    for cycle in (2, 3):
        prepared(cycle=cycle, training="loop")
        assert prepared.lines == []
    (data / "law" / "b_test.jsonl").unlink()
    write_records(data / "law" / "new.jsonl", range(600, 700))
    write_records(data / "math" / "new.jsonl", range(1200, 1300))
    again = prepared(cycle=4, training="loop", validation_share=0.45, exam_share=0.45)
    assert {901, 902} <= set(numbers(again, "law", "train"))


def test_domain_whose_prompts_are_alike_by_design_keeps_its_training_rows_and_is_told_the_repair(prepared: Prepared, data: Path) -> None:
    (data / "law" / "a.jsonl").unlink()
    write_rows(data / "law" / "b.jsonl", [(f"{passage(1)} item {number}?", "x", number) for number in range(200)])
    with pytest.raises(ExamOverlap, match=r"exam of 'law' is refused: .*prompts are alike by design, raise data\.near_duplicate"):
        prepared()
    corpus = prepared(near_duplicate=1.0)
    assert sum(len(corpus.examples("law", split)) for split in ("train", "validation", "exam")) == 200  # type: ignore[arg-type]


def test_training_rows_that_are_too_many_to_leave_out_are_kept_and_said(prepared: Prepared, data: Path) -> None:
    (data / "law" / "a.jsonl").unlink()
    write_rows(data / "law" / "b.jsonl", [(f"{passage(1)} item {number}?", sentence(number // 4), number) for number in range(200)])
    corpus = prepared(training="loop", allow_overlap=True)
    train = numbers(corpus, "law", "train")
    intake = corpus.report.domains[0].intake
    assert len(train) == intake.kept["train"] == 200 - intake.kept["validation"] - intake.kept["exam"]
    told = {number // 4 for number in set(range(200)) - set(train)}  # four rows have each answer
    near, showing = intake.spared["near-duplicate of a held-out row"], intake.spared["shows a held-out row's answer"]
    assert near.count == len(train)
    assert showing.count == sum(number // 4 in told for number in train) > len(train) / 5
    assert re.fullmatch(r"law/b\.jsonl:1: similarity 0\.9\d to law/b\.jsonl:\d+", near.first[0])
    lines = [f"law: {near.count} training rows are like held-out ones and were kept: more than a fifth of the domain ({near.first[0]})",
             f"law: {showing.count} training rows show the answers of held-out ones and were kept: more than a fifth of the domain ({showing.first[0]})"]
    assert [line for line in prepared.lines if "were kept" in line] == lines
    console = Console(width=1000, record=True, file=io.StringIO())
    console.print(corpus.report.tables())
    assert [line.rstrip() for line in console.export_text().splitlines() if "were kept" in line] == [f"note: {line}" for line in lines]
    assert json.loads(json.dumps(corpus.report.to_json()))["domains"]["law"]["spared"]["near-duplicate of a held-out row"]["count"] == near.count
    assert corpus.report.domains[1].intake.spared == {}
    assert prepared(training="loop", allow_overlap=True).report.domains[0].intake.spared == intake.spared  # as read from the folder


def test_exam_that_training_repeats_too_much_is_refused(prepared: Prepared, data: Path) -> None:
    write_rows(data / "law" / "b_test.jsonl", [(f"{passage(number)} now?", "x", number) for number in range(10)])
    write_rows(data / "math" / "copied.jsonl", [(f"{passage(number)} {word}?", "y", -number) for number in range(2) for word in ("please", "again", "soon")])
    with pytest.raises(ExamOverlap, match=r"exam of 'law' is refused: 2 of its 10 rows \(20\.0%\) have a near-duplicate in training, data\.max_exam"):
        prepared()
    overlap = prepared(allow_overlap=True).report.domains[0].overlap
    assert overlap is not None
    assert overlap.refused
    assert (overlap.exam_rows, overlap.overlapping) == (10, 2)


def test_few_exam_rows_that_training_repeats_are_left_out_of_the_exam(prepared: Prepared, data: Path) -> None:
    write_records(data / "law" / "b_test.jsonl", range(500, 539))
    write_rows(data / "law" / "b_test.jsonl", [(f"{passage(1)} now?", "x", 999)])
    write_rows(data / "law" / "a.jsonl", [(f"{passage(1)} {word}?", "y", 998) for word in ("please", "again")])
    corpus = prepared()
    overlap = corpus.report.domains[0].overlap
    assert overlap is not None
    assert (overlap.exam_rows, overlap.overlapping, overlap.share, overlap.refused) == (40, 1, 0.025, False)
    assert sorted(numbers(corpus, "law", "exam")) == list(range(500, 539))
    assert numbers(prepared(), "law", "exam") == numbers(corpus, "law", "exam")


@pytest.mark.parametrize(("rows", "overlapping", "most", "refused"), [
    (10, 1, 0.05, False),  # one row of a small exam is left out of it
    (10, 2, 0.05, True),
    (1, 1, 0.05, True),  # none would be left
    (1, 1, 1.0, False),
    (10, 1, 0.0, True),  # 0: not one
    (100, 29, 0.29, False),
    (100, 30, 0.29, True),
])
def test_exam_is_refused_above_the_share_but_not_for_one_row_of_several(rows: int, overlapping: int, most: float, refused: bool) -> None:
    assert (overlapping / rows > allowed(rows, most=most)) is refused


def test_one_row_of_a_small_exam_that_training_repeats_is_left_out_and_refuses_nothing(prepared: Prepared, data: Path) -> None:
    asked = next(row for row in prepared(cycle=0).examples("math", "exam"))
    write_rows(data / "law" / "copied.jsonl", [(f"{asked.prompt} {word}?", "y", -1) for word in ("please", "again", "soon")])
    corpus = prepared(cycle=1)
    overlap = next(report.overlap for report in corpus.report.domains if report.domain == "math")
    assert overlap is not None
    assert (overlap.overlapping, overlap.refused) == (1, False)
    assert overlap.exam_rows < 20
    assert asked.key not in {row.key for row in corpus.examples("math", "exam")}


def test_domain_without_data_or_curriculum_is_refused_with_the_repair(tmp_path: Path, data: Path) -> None:
    prepared = Prepared(tmp_path, branches={"one": ["law", "cooking"]}, data={"path": str(data)})
    with pytest.raises(DataError, match=r"'cooking' has too little data: .*no curriculum for it.*<data\.path>/cooking/, or take 'cooking' out"):
        prepared()


def test_domain_whose_records_are_all_bad_is_refused_with_their_reasons(prepared: Prepared, data: Path) -> None:
    (data / "law" / "a.jsonl").write_text("junk\n\xff\n", encoding="latin-1")
    with pytest.raises(DataError, match=r"2 records read, kept 0 for train.*1 not JSON \(law/a\.jsonl:1: .*1 not UTF-8 \(law/a\.jsonl:2: .*no curriculum"):
        prepared()


def lessons(tmp_path: Path, **data: object) -> Prepared:
    return Prepared(tmp_path, branches={"one": ["math", "code"]}, data={"curriculum_records": 300, **data})


def test_curriculum_makes_new_training_rows_each_cycle_and_keeps_the_held_out_ones(tmp_path: Path) -> None:
    prepared = lessons(tmp_path)
    first, second = prepared(cycle=1), prepared(cycle=2)
    keys = {(cycle, split): [row.key for row in corpus.examples("math", split)]  # type: ignore[arg-type]
            for cycle, corpus in ((1, first), (2, second)) for split in ("train", "validation", "exam")}
    assert len(keys[1, "exam"]) == 30
    assert keys[1, "exam"] == keys[2, "exam"]
    assert keys[1, "validation"] == keys[2, "validation"]
    assert len(set(keys[1, "train"]) & set(keys[2, "train"])) < 0.2 * len(keys[1, "train"])


def test_curriculum_training_rows_ask_nothing_that_is_held_out(tmp_path: Path) -> None:
    corpus = Prepared(tmp_path, branches={"one": ["conversation"]}, data={"curriculum_records": 3000})()
    instances = {split: {row.meta["instance"] for row in corpus.examples("conversation", split)}  # type: ignore[arg-type]
                 for split in ("train", "validation", "exam")}
    assert min(map(len, instances.values())) > 20
    assert not instances["train"] & (instances["validation"] | instances["exam"])
    assert not instances["validation"] & instances["exam"]
    prompts = {split: {row.prompt for row in corpus.examples("conversation", split)} for split in ("train", "validation", "exam")}  # type: ignore[arg-type]
    assert not prompts["train"] & (prompts["validation"] | prompts["exam"])
    assert not prompts["validation"] & prompts["exam"]


def test_records_that_ask_what_the_curriculum_holds_out_are_left_out_of_training(tmp_path: Path, data: Path) -> None:
    asked = curriculum.make_exam("math", count=1)[0].prompt
    write_rows(data / "math" / "b.jsonl", [(asked.upper(), f"answer {number}", number) for number in range(2000, 2060)])
    corpus = lessons(tmp_path, path=str(data), curriculum="always")()
    drops = next(report for report in corpus.report.domains if report.domain == "math").intake.drops["same prompt as a held-out row"]
    assert drops.count > 0
    assert all(place.startswith("math/b.jsonl:") for place in drops.first)
    assert asked.upper() not in {row.prompt for row in corpus.examples("math", "train")}


def test_auto_curriculum_covers_domains_without_records_alone(tmp_path: Path, data: Path) -> None:
    corpus = lessons(tmp_path, path=str(data))()
    assert {row.source for row in corpus.examples("math", "train")} == {"a"}
    assert {row.source for row in corpus.examples("code", "train")} == {"curriculum/code"}
    assert corpus.of_records == {"math"}
    assert "code/: no such folder, so code has no records of its own" in corpus.report.notes


def test_curriculum_always_joins_the_records(tmp_path: Path, data: Path) -> None:
    corpus = lessons(tmp_path, path=str(data), curriculum="always")()
    assert {row.source for row in corpus.examples("math", "train")} == {"a", "curriculum/math"}
    assert {row.source for row in corpus.examples("math", "exam")} == {"a", "curriculum/math"}
    assert corpus.of_records == frozenset()


def test_auto_curriculum_helps_a_domain_with_too_few_records(tmp_path: Path, data: Path) -> None:
    (data / "math" / "a.jsonl").unlink()
    write_records(data / "math" / "a.jsonl", [1])
    corpus = lessons(tmp_path, path=str(data))()
    assert {row.source for row in corpus.examples("math", "train")} == {"a", "curriculum/math"}
    assert "math: 1 of the 1 records in its folder can be used, too few; the curriculum adds its own" in corpus.report.notes


def test_training_logs_what_became_of_the_files_once_while_it_stays_the_same(tmp_path: Path, data: Path) -> None:
    prepared = lessons(tmp_path, path=str(data))
    (data / "math" / "a.jsonl").write_text('{"question": "2 and 2?", "answer": "4"}\n' * 3, encoding="utf-8")
    (data / "law").rename(data / "Code")
    (data / "code").mkdir()
    (data / "code" / "rows.csv").write_text("a,b\n", encoding="utf-8")
    prepared(training="loop")
    told = "\n".join(prepared.lines)
    assert "math: 3 left out, no prompt (math/a.jsonl:1:" in told
    assert "math: 0 of the 3 records in its folder can be used, too few; the curriculum adds its own" in told
    assert "code/rows.csv: neither of *.jsonl" in told
    assert "Code/: no domain of that name" in told
    prepared(cycle=2, training="loop")
    assert not any("left out" in line or "rows.csv" in line for line in prepared.lines)
    write_records(data / "math" / "a.jsonl", range(1000, 1150))
    prepared(cycle=3, training="loop")
    assert "math: 150 examples from files" in prepared.lines
    prepared(cycle=4)
    assert not any("rows.csv" in line for line in prepared.lines)


def test_levels_raise_the_curriculum_of_one_domain(tmp_path: Path) -> None:
    prepared = lessons(tmp_path, curriculum_level=1)
    low, high = prepared(cycle=1), prepared(cycle=2, levels={"math": 3})
    assert {row.meta["level"] for row in low.examples("math", "train")} == {1}
    assert {row.meta["level"] for row in high.examples("math", "train")} == {1, 2, 3}
    assert {row.meta["level"] for row in high.examples("code", "train")} == {1}


def test_open_corpus_gives_what_was_prepared_and_reads_no_files(prepared: Prepared, data: Path) -> None:
    first = prepared()
    (data / "law" / "a.jsonl").unlink()
    chosen = settings.check(prepared.tables)
    again = open_corpus(chosen, Tree.from_settings(chosen.tree))
    assert again.fingerprint == first.fingerprint
    assert again.examples("law", "exam") == first.examples("law", "exam")


def test_open_corpus_without_prepared_data_names_the_command(prepared: Prepared) -> None:
    chosen = settings.check(prepared.tables)
    with pytest.raises(DataError, match=r"holds no prepared data of law, math; run python continuous_loop\.py or python -m data_prep build first"):
        open_corpus(chosen, Tree.from_settings(chosen.tree))


def test_open_corpus_of_damaged_data_names_the_command(prepared: Prepared) -> None:
    (prepared().folders["law"].examples / "exam.parquet").unlink()
    chosen = settings.check(prepared.tables)
    with pytest.raises(DataError, match=r"is damaged or belongs to another tokenizer; run python -m data_prep build to make it again"):
        open_corpus(chosen, Tree.from_settings(chosen.tree))


def test_unknown_domain_of_a_corpus_names_the_known_ones(prepared: Prepared) -> None:
    with pytest.raises(KeyError, match="no data of a domain 'cooking'; there is some of law, math"):
        prepared().examples("cooking", "train")


def test_a_look_shows_the_levels_that_the_loop_had_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared = Prepared(tmp_path, branches={"one": ["math"]}, data={"curriculum": "always", "curriculum_records": 120, "curriculum_level": 1})
    raised = prepared(cycle=2, levels={"math": 2}, training="loop")
    assert {row.meta["level"] for row in raised.examples("math", "train")} == {1, 2}
    assert last_levels(tmp_path / "run" / "data") == {"math": 2}
    config = tmp_path / "look.toml"
    config.write_text(settings.to_toml(settings.check(prepared.tables)), encoding="utf-8")
    assert look(["report", "--config", str(config)]) == 0
    assert "reading" not in capsys.readouterr().err
    again = open_corpus(settings.check(prepared.tables), Tree.from_settings(settings.check(prepared.tables).tree))
    assert again.fingerprint == raised.fingerprint
