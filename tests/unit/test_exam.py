"""training/exam.py: which rows an exam asks, and what is made of answers. The examinee is scripted; real models sit exams in test_loop.py."""

import math
from dataclasses import replace

import pytest

from data_prep.records import Example, content_key
from experts.durable import write_json
from experts.expert import Answer, LogLikelihood
from settings import DecodingSettings, ExamSettings
from training.exam import Exam, bits_per_byte, examine, goes_in_circles, stratified

SETTINGS = ExamSettings(tasks=10, root_tasks=10)
DECODING = DecodingSettings()


def _row(number, *, source="gsm8k", level=None, answer="4"):
    prompt, response = f"question {number}", f"steps\n#### {answer}"
    meta = {"answer": answer} | ({"level": level} if level else {})
    return Example("math", prompt, response, source, content_key("math", prompt, response), meta)


class _Scripted:
    """Answers from a list; every response costs 8 nats a row."""

    def __init__(self, answers):
        self.answers = answers

    def generate(self, conversations, *, max_new_tokens, batch_rows, repetition):
        return [Answer(text=text, token_ids=tuple(ids), finish_reason=reason, prompt_tokens=1) for text, ids, reason in self.answers[:len(conversations)]]

    def log_likelihood(self, pairs, *, batch_rows):
        return [LogLikelihood(nats=8.0, tokens=3, bytes=len(response.encode())) for _, response in pairs]


def test_stratified_takes_from_every_source_and_level_in_turn():
    rows = [_row(i, level=1) for i in range(50)] + [_row(i, level=2) for i in range(50, 60)] + [_row(i, source="mawps") for i in range(60, 63)]
    taken = stratified(rows, count=12)
    counts = {("gsm8k", 1): 0, ("gsm8k", 2): 0, ("mawps", None): 0}
    for row in taken:
        counts[row.source, row.meta.get("level")] += 1
    assert counts == {("gsm8k", 1): 5, ("gsm8k", 2): 4, ("mawps", None): 3}


def test_stratified_ignores_the_order_of_the_rows():
    rows = [_row(i, level=1 + i % 3) for i in range(40)]
    assert stratified(rows, count=15) == stratified(rows[::-1], count=15)


def test_stratified_takes_levels_of_users_that_are_no_numbers_as_none():
    levels = ["hard", 2, None, ["a"], "easy", 2.5]
    taken = stratified([replace(_row(number), meta={"level": level}) for number, level in enumerate(levels)], count=6)
    assert [row.meta["level"] for row in taken].index(2) == 1  # in turn from two groups: without a level, and level 2


def test_exam_fingerprint_changes_with_the_rows_and_only_then():
    rows = [_row(i) for i in range(4)]
    assert Exam({"math": rows}, {"math": rows}).fingerprint == Exam({"math": list(rows)}, {"math": list(rows)}).fingerprint
    assert Exam({"math": rows}, {"math": rows}).fingerprint != Exam({"math": rows[:3]}, {"math": rows}).fingerprint
    assert Exam({"math": rows}, {"math": rows[:3]}).fingerprint != Exam({"math": rows[:3]}, {"math": rows}).fingerprint


@pytest.mark.parametrize("changed", [{"source": "mawps"}, {"meta": {"answer": "5"}}, {"meta": {"answer": "4", "level": 2}}])
def test_exam_fingerprint_changes_with_what_answers_are_graded_by(changed):
    rows = [_row(i) for i in range(4)]
    other = [*rows[:3], replace(rows[3], **changed)]
    assert Exam({"math": other}, {"math": rows}).fingerprint != Exam({"math": rows}, {"math": rows}).fingerprint
    assert Exam({"math": rows}, {"math": other}).fingerprint == Exam({"math": rows}, {"math": rows}).fingerprint


def test_exam_fingerprint_ignores_how_meta_is_written():
    """In memory a tuple, from disk a list, and keys in another order; half of a surrogate pair has no UTF-8 form."""
    row = _row(1)
    one, other = ({"answers": ("a", "\ud800"), "level": 1}, {"level": 1, "answers": ["a", "\ud800"]})
    assert len({Exam({"math": [replace(row, meta=meta)]}, {"math": [row]}).fingerprint for meta in (one, other)}) == 1


def test_sitting_changes_with_rows_answer_length_and_graders(monkeypatch):
    rows = [_row(i) for i in range(4)]
    exam = Exam({"math": rows}, {"math": rows})
    before = exam.sitting(SETTINGS, DECODING)
    assert examine(_Scripted([("#### 4", [1], "stop")] * 4), exam, settings=SETTINGS, decoding=DECODING, circles=False).exam == before
    assert exam.sitting(SETTINGS.model_copy(update={"max_new_tokens": 64}), DECODING) != before
    assert Exam({"math": rows[:3]}, {"math": rows}).sitting(SETTINGS, DECODING) != before
    assert exam.sitting(SETTINGS, DecodingSettings(dry="never")) != before
    monkeypatch.setattr("training.exam.EDITION", 99)
    assert exam.sitting(SETTINGS, DECODING) != before


def test_exam_without_rows_names_the_domain_and_the_repair():
    with pytest.raises(ValueError, match=r"exam of 'math': 0 tasks and 1 held-out rows; give the domain more records"):
        Exam({"math": []}, {"math": [_row(1)]})


def test_examine_grades_answers_and_counts_loops():
    rows = [_row(i) for i in range(4)]
    answers = [("so\n#### 4", [1, 2, 3], "stop"), ("so\n#### 5", [1, 2, 3], "stop"), ("so\n#### 4", [7] * 16, "stop"), ("4 " * 9, [4], "length")]
    card = examine(_Scripted(answers), Exam({"math": rows}, {"math": rows}), settings=SETTINGS, decoding=DECODING, circles=False)
    assert [outcome.score for outcome in card.outcomes] == [1.0, 0.0, 1.0, 0.0]
    assert [outcome.looped for outcome in card.outcomes] == [False, False, True, True]
    assert [outcome.correct for outcome in card.outcomes] == [True, False, True, False]
    assert card.mean_words == {"math": (3 + 3 + 3 + 9) / 4}
    assert card.accuracy == 0.5
    assert card.loop_rate == 0.5
    assert [outcome.never_ended for outcome in card.outcomes] == [False, False, False, True]


def test_examine_a_conversation_reply_that_loops_or_never_ends_is_wrong_whatever_it_holds():
    rows = [Example("talk", f"I'm Anna. Who am I? {number}", "You are Anna.", "curriculum/conversation", str(number) * 64, {"kind": "any", "any_of": ["Anna"]})
            for number in range(3)]
    said = "Your name is Anna."
    answers = [(said, [1, 2], "stop"), (f"{said} {said}", [7] * 16, "stop"), (said + " " * 90, [1], "length")]
    card = examine(_Scripted(answers), Exam({"talk": rows}, {"talk": rows}), settings=SETTINGS, decoding=DECODING, circles=False)
    assert [(outcome.score, outcome.looped, outcome.correct) for outcome in card.outcomes] == [(1.0, False, True), (0.0, True, False), (0.0, True, False)]


def test_examine_takes_the_level_of_a_task_of_the_curriculum_alone():
    """A user's level may be anything, a year as well."""
    rows = [_row(1, source="curriculum/math", level=3), _row(2, level=1999), _row(3, source="curriculum/math")]
    card = examine(_Scripted([("#### 4", [1], "stop")] * 3), Exam({"math": rows}, {"math": rows}), settings=SETTINGS, decoding=DECODING, circles=False)
    assert [(outcome.score, outcome.level) for outcome in card.outcomes] == [(1.0, 3), (1.0, None), (1.0, None)]


@pytest.mark.parametrize("task", [None, "", " ", 3, ["add"], "half \ud83d of a pair"])
def test_examine_names_a_task_after_the_source_where_meta_has_no_name_that_can_be_written(task, tmp_path):
    rows = [replace(_row(number), meta={"answer": "4", "task": named}) for number, named in enumerate((task, "adding \U0001f600"))]
    card = examine(_Scripted([("#### 4", [1], "stop")] * 2), Exam({"math": rows}, {"math": rows}), settings=SETTINGS, decoding=DECODING, circles=False)
    assert [outcome.task for outcome in card.outcomes] == ["gsm8k", "adding \U0001f600"]
    write_json(tmp_path / "card.json", card.to_json())


def test_examine_a_short_answer_scores_f1_and_is_right_as_exact_match_alone():
    rows = [Example("knowledge", f"who lost {number}", "Pittsburgh Steelers", "squad", str(number) * 64) for number in range(2)]
    answers = [("the Pittsburgh Steelers", [1, 2], "stop"), ("Steelers", [1, 2], "stop")]
    card = examine(_Scripted(answers), Exam({"k": rows}, {"k": rows}), settings=SETTINGS, decoding=DECODING, circles=False)
    assert [outcome.score for outcome in card.outcomes] == [1.0, pytest.approx(2 / 3)]
    assert [outcome.correct for outcome in card.outcomes] == [True, False]
    assert card.exact_match == {"k/squad": 0.5}


def test_examine_an_answer_cut_before_the_true_one_would_end_is_no_loop():
    rows = [_row(1, answer="1" * 30), _row(2)]
    card = examine(_Scripted([("4 " * 9, [4], "length")] * 2), Exam({"math": rows}, {"math": rows}), settings=SETTINGS, decoding=DECODING, circles=False)
    assert [outcome.looped for outcome in card.outcomes] == [False, True]
    assert [outcome.never_ended for outcome in card.outcomes] == [True, True]
    assert (card.loop_rate, card.never_ended) == (0.5, 1.0)


def test_examine_records_that_are_called_as_a_graded_source_but_lack_its_meta_are_free_text():
    rows = [Example("code", f"write {number}", "print(1)", "mbpp", content_key("code", f"write {number}", "print(1)")) for number in range(2)]
    card = examine(_Scripted([("print(1)", [1, 2], "stop")] * 2), Exam({"code": rows}, {"code": rows}), settings=SETTINGS, decoding=DECODING, circles=False)
    assert [(outcome.score, outcome.correct) for outcome in card.outcomes] == [(None, None), (None, None)]
    assert card.accuracy is None


class _Circling(_Scripted):
    """Goes in circles on one prompt in `every`, unless repetition is kept down."""

    def __init__(self, *, every):
        self.every, self.rules = every, []

    def generate(self, conversations, *, max_new_tokens, batch_rows, repetition):
        self.rules.append(repetition)
        return [Answer("", (7,) * 16 if repetition is None and not place % self.every else (1, 2), "stop", 1) for place in range(len(conversations))]


def test_goes_in_circles_takes_two_of_forty_and_asks_held_out_prompts_alone():
    exam = Exam({"math": [_row(1)], "code": [_row(2)]}, {"math": [_row(i) for i in range(10, 60)], "code": [_row(i) for i in range(60, 110)]})
    assert [goes_in_circles(_Circling(every=every), exam, settings=SETTINGS) for every in (40, 20)] == [False, True]


@pytest.mark.parametrize(("rows", "circles"), [(1, False), (20, False), (21, True)])
def test_goes_in_circles_takes_one_loop_for_chance_however_few_rows_are_held_out(rows, circles):
    exam = Exam({"math": [_row(1)]}, {"math": [_row(number) for number in range(10, 10 + rows)]})
    assert goes_in_circles(_Circling(every=20), exam, settings=SETTINGS) is circles


@pytest.mark.parametrize(("dry", "circles", "rule"), [("auto", True, True), ("auto", False, False), ("always", False, True), ("never", True, False)])
def test_examine_writes_under_the_rule_where_settings_and_card_say_so(dry, circles, rule):
    examinee, decoding = _Circling(every=1), DecodingSettings(dry=dry)
    card = examine(examinee, Exam({"math": [_row(1)]}, {"math": [_row(2)]}), settings=SETTINGS, decoding=decoding, circles=circles)
    assert examinee.rules == [decoding if rule else None]
    assert card.loop_rate == (0.0 if rule else 1.0)


@pytest.mark.parametrize(("scores", "kept"), [
    ("111100", "110"), ("000111", "110"), ("010100", "110"), ("1111", "111"), ("0100", "100"), ("0000", "000"), ("0", "0"), ("0-1-", "-10")])
def test_examine_keeps_three_samples_with_one_wrong(scores, kept):
    """-: free text, which nobody grades."""
    rows = [_row(place, source="topical_chat" if score == "-" else "gsm8k") for place, score in enumerate(scores)]
    answers = [("#### 4" if score == "1" else "#### 9", [1], "stop") for score in scores]
    samples = examine(_Scripted(answers), Exam({"math": rows}, {"math": rows}), settings=SETTINGS, decoding=DECODING, circles=False).samples
    assert [sample.score for sample in samples] == [{"1": 1.0, "0": 0.0, "-": None}[score] for score in kept]


def test_bits_per_byte_is_nats_over_ln2_and_bytes():
    """Two rows of 8 nats and 12 bytes each ("steps" newline "#### 4"): 16 / ln 2 / 24."""
    assert bits_per_byte(_Scripted([]), [_row(1), _row(2)], settings=SETTINGS) == pytest.approx(16 / math.log(2) / 24)
