"""Grades of answers by source, worked by hand."""

from __future__ import annotations

import time
from typing import Any

import pytest

from data_prep import curriculum
from data_prep.curriculum.answer_match import best_f1, exact_match, normalise
from data_prep.records import Example
from training.graders import Grade, grade, graded_sources


def example(source: str, *, prompt: str = "?", response: str = "", **meta: Any) -> Example:
    return Example(domain="any", prompt=prompt, response=response, source=source, key="0", meta=meta)


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


@pytest.mark.parametrize(("asked", "answer", "taken"), [
    ("What is 50% of 84?", "42", False), ("20% of 210 cars are red. How many cars are red?", "42", False),
    ("He saves 10 percent. How much money is that, in dollars?", "42", False), ("What percentage of the cars are red?", "42", True),
    ("How many percent is that?", "42", True), ("10% are gone. How much more likely is it (as a percentage)?", "42", True),
    ("She had 40% and 44%. What is the average?", "42", True), ("What are the odds of rain?", "42", True), ("How much of 50% is that?", "42%", True)])
def test_grade_gsm8k_takes_a_percentage_where_none_but_that_may_be_asked_for(asked: str, answer: str, taken: bool) -> None:
    task = example("gsm8k_test", prompt=asked, answer=answer)
    assert (correct(task, "#### 42"), correct(task, "#### 42%"), correct(task, "#### 42 percent")) == (True, taken, taken)


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


@pytest.mark.parametrize("text", [
    "ANSWER: B",
    "Answer: B", "**Answer:** B", "**Answer: B**", "B is correct.", "(B) is correct", "Max is not red, so B is the right one.", "The answer is **B**",
    "The answer is option B", "The correct answer is B.", "Option B", "option B.", "**B**", "**B) False**", "(B)", "The answer is: (B) False", "B\nB) False",
    "A) True\nB) False\nThe answer is B.", "The answer is B) False.\nA) True", "Therefore, B.", "Max is red.\nSo B) False", "The correct option is B.",
    "The answer is B. A and C are false.", "Answer: B. Options A and C are incorrect.", "The answer is **B**. This excludes A and C.",
    "The answer is B. Not A or C.", "Therefore, B. A and C are false.",
    "The right choice is (B)", "The answer is clearly B.", "The answer is B, not A.", "The answer is B, as A is false.", "The answer is B and A is wrong.",
    "The answer is B, A cat is big.", "The answer is B) False or no.", "A is wrong and B is correct.", "The answer is A or B. The answer is B."])
def test_grade_options_takes_the_letter_however_it_is_given_as_the_answer(text: str) -> None:
    assert [letter for letter in "ABC" if correct(example("proofwriter", answer=letter), text)] == ["B"]


@pytest.mark.parametrize("text", [
    "A) True\nB) False\nC) Uncertain", "A\nB\nC", "B\nC", "The answer is:\nA) True\nB) False\nC) Uncertain", "Bob is red.", "A cat is big.", "answer B?",
    "The answer is A or B.", "The answer is A, B and C.", "The answer is A, B, C", "The answer is A) True or B) False", "Answer: A/B",
    "The answer is (A) or (B).",
    "The answer is **A** and **B**.", "The answer is A and B", "Therefore, A or B.", "A or B is correct.", "So A cat is big.", "Therefore, Bob is red.",
    "The correct option is not A.", "The answer is option A or option B, who knows"])
def test_grade_options_over_again_are_no_answer(text: str) -> None:
    assert not any(correct(example("prontoqa", answer=letter), text) for letter in "ABC")


def test_grade_options_takes_what_is_called_the_answer_before_a_line_that_begins_with_a_letter() -> None:
    text = "The answer is A) True.\nB) False"
    assert [letter for letter in "ABC" if correct(example("proofwriter", answer=letter), text)] == ["A"]


@pytest.mark.parametrize("source", ["prontoqa", "boolq", "folio", "arc", "gsm8k"])
def test_grade_of_an_answer_of_marks_over_and_over_takes_no_time(source: str) -> None:
    task = example(source, response="B", answer={"boolq": "yes", "folio": "True", "gsm8k": "4"}.get(source, "B"))
    started = time.process_time()
    assert not any(correct(task, lead + mark * 800) for lead in ("Answer: ", "#### ", "") for mark in ("*", "(", ":", "* ", "\\", "so ", "clearly ", "\n"))
    assert time.process_time() - started < 2


@pytest.mark.parametrize(("text", "expected"), [("Uncertain", True), ("unknown.", True), ("The statement is uncertain.", True), ("True", False), ("", False)])
def test_grade_folio_compares_the_verdict(text: str, expected: bool) -> None:
    assert correct(example("folio", answer="Uncertain"), text) is expected


@pytest.mark.parametrize(("text", "expected"), [
    ("So the answer is yes.", True), ("Yes", True), ("There is no doubt.\nSo the answer is yes.", True), ("So the answer is no.", False), ("yesterday", False),
])
def test_grade_strategyqa_compares_yes_and_no(text: str, expected: bool) -> None:
    assert correct(example("strategyqa", answer="yes"), text) is expected


@pytest.mark.parametrize(("text", "said"), [
    ("There is no doubt that cats are big and", ""), ("No one knows", ""), ("No-one knows.", ""), ("I would say yes to that", ""), ("not yes", ""),
    ("The answer is not yes.", ""), ("noyes", ""), ("Yes, because cats are big.", "yes"), ("No. Cats are small.", "no"), ("Yes because they are", "yes"),
    ("No - they are small", "no"), ("**Yes**\nCats are big.", "yes"), ("NO", "no"), (" yes. ", "yes"), ("Cats are small. No.", "no"), ("Big.\nyes", "yes"),
    ("The answer is yes. No doubt", "yes"), ("The answer is no. Wait: the answer is yes, since cats are big.", "yes"), ("Yes, they were. No.", "no"),
    ("So the answer is: no", "no"), ("Answer: yes", "yes"),
    ("**Answer:** yes", "yes"), ("Answer: Yes. Because cats are big.", "yes"),
    ("The answer is yes or no.", ""), ("Answer: yes/no", ""), ("Yes, but no.", ""), ("The answer is yes and no.", ""), ("Yes or no", ""), ("No/yes.", ""),
    ("The answer is no doubt yes.", "yes"), ("The answer is no doubt", ""), ("It is yes", "yes"), ("It's no.", "no"), ("The answer is clearly yes.", "yes"),
    ("Therefore, no.", "no"), ("So it is definitely yes.", "yes"), ("Yes, but no one knows why.", "yes"),
    ("No, no, they were not.", "no"), ("No, and yes was never said.", "no"),
    ("It is yes that they say", ""), ("The answer is \"no\" here", "no"), ("Is it? yes!", "yes"), ("yesterday, no more", ""), ("", "")])
def test_grade_yes_no_takes_the_word_where_it_is_the_answer_alone(text: str, said: str) -> None:
    assert [correct(example("strategyqa", answer=answer), text) for answer in ("yes", "no")] == [said == "yes", said == "no"]


@pytest.mark.parametrize(("text", "said"), [
    ("It is true that cats are big, so it", ""), ("True friends are few", ""), ("This is not true", ""), ("A false start", ""), ("True", "true"),
    ("False.", "false"),
    ("Uncertain, since nobody said so", "uncertain"), ("The premises say nothing. Unknown.", "uncertain"), ("The statement is false.", "false"),
    ("If it is true, cats are big. The answer is False.", "false"), ("The conclusion is unknown", "uncertain"),
    ("The answer is true or false.", ""), ("True or false", ""), ("True, false or uncertain.", ""), ("The statement is true/false", ""),
    ("It's uncertain.", "uncertain"), ("The statement is clearly false", "false"), ("It is true.", "true"), ("It is not true.", ""),
    ("The answer is unknown or uncertain.", "uncertain"),
    ("Uncertain, true or false is not known.", "uncertain"), ("It is uncertain or unknown.", "uncertain"),
    ("Unknown or uncertain.", "uncertain"), ("False, false or not.", "false")])
def test_grade_verdict_takes_the_word_where_it_is_the_answer_alone(text: str, said: str) -> None:
    verdicts = ("true", "false", "uncertain")
    assert [correct(example("folio", answer=answer.title()), text) for answer in verdicts] == [said == answer for answer in verdicts]


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
    ("The answer is B) The refrigerator door contains iron.", True), ("The answer is B.", True), ("Answer: B", True), ("The correct answer is: (B)", True),
    ("The answer is **B**", True), ("**Answer:** B", True), ("So the answer is option B.", True), ("Answer: The refrigerator door contains iron.", True),
    ("The answer is A) The refrigerator door contains iron.", False), ("The answer is A.", False), ("The answer is B) The door is smooth.", False),
])
def test_grade_arc_compares_the_option(text: str, expected: bool) -> None:
    assert correct(example("arc", response="The refrigerator door contains iron.", answer="B"), text) is expected


@pytest.mark.parametrize(("response", "meta", "text", "expected"), [
    ("E. coli", {"answer": "C"}, "E. coli", True), ("E. coli", {"answer": "C"}, "C) E. coli", True), ("E. coli", {"answer": "C"}, "E", False),
    ("C", {}, "C", True), ("C", {"answer": "B"}, "C", True), ("C", {"answer": "B"}, "D", False), ("B) the sun", {"answer": "B"}, "B) the sun", True),
    ("The answer is no", {}, "The answer is no", True),
    ("B) the sun", {}, "A) the sun", False), ("the sun", {"answer": "B"}, "A) the sun", False), ("E. coli", {"answer": "E"}, "E) E. coli", True),
])
def test_grade_arc_takes_the_response_word_for_word_whatever_it_begins_with(response: str, meta: dict[str, Any], text: str, expected: bool) -> None:
    assert correct(example("arc", response=response, **meta), text) is expected


def test_grade_xquad_scores_f1_and_counts_exact_matches() -> None:
    task = example("xquad_en", response="Pittsburgh Steelers")
    assert grade(task, "the Pittsburgh Steelers.") == Grade(1.0, True)
    assert grade(task, "Steelers") == Grade(pytest.approx(2 / 3), False)


@pytest.mark.parametrize("source", ["xquad_en_test", "xquad_en-train", "XQuAD_en_dev", "gsm8k-test_en"])
def test_grade_finds_the_grader_of_a_source_with_several_suffixes(source: str) -> None:
    assert grade(example(source, response="#### 4", answer="4"), "#### 4") == Grade(1.0, True)


def test_grade_mbpp_runs_the_tests() -> None:
    task = example("mbpp", test_list=["assert add(1, 2) == 3", "assert add(0, 0) == BASE"], test_setup_code="BASE = 0")
    assert correct(task, "def add(a, b):\n    return a + b")
    assert correct(task, "Here you are:\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds.")
    assert not correct(task, "def add(a, b):\n    return 3")


@pytest.mark.parametrize("source", ["topical_chat", "gpteacher_codegen", "nl2bash", "dolly_open_qa", "hub/unknown"])
def test_grade_free_text_has_no_grade(source: str) -> None:
    assert grade(example(source, answer="yes"), "yes") is None


_RESPONSE_SAYS = ("nq_open", "webquestions", "opentriviaqa", "sciq", "triviaqa", "arc", "xquad", "squad")  # the right answer is the response itself
_META_SAYS = {"gsm8k": "answer", "mawps": "answer", "proofwriter": "answer", "prontoqa": "answer", "folio": "answer", "strategyqa": "answer", "boolq": "answer",
              "mbpp": "test_list", "curriculum/math": "answer", "curriculum/reasoning": "answer", "curriculum/knowledge": "answers",
              "curriculum/conversation": "kind", "curriculum/code": "tests"}
_RIGHT = {"gsm8k": "4", "mawps": "4", "proofwriter": "B", "prontoqa": "B", "folio": "True", "strategyqa": "yes", "boolq": "yes", "mbpp": ["assert True"],
          "curriculum/math": "4", "curriculum/reasoning": "yes", "curriculum/knowledge": ["Paris"], "curriculum/conversation": "any",
          "curriculum/code": ["assert True"]}


def test_every_grader_is_named_in_the_tests_of_records_without_meta() -> None:
    assert {*_RESPONSE_SAYS, *_META_SAYS} == {*graded_sources(), *(f"curriculum/{domain}" for domain in curriculum.domains())}


@pytest.mark.parametrize("source", [*_META_SAYS, "curriculum/law"])
def test_grade_without_what_its_grader_needs_is_that_of_free_text(source: str) -> None:
    assert grade(example(source, response="some response"), "yes") is None


@pytest.mark.parametrize("source", _RESPONSE_SAYS)
@pytest.mark.parametrize("meta", [{}, {"answer": 3, "answers": "Asia"}, {"answer": None, "answers": {"text": 1}}])
def test_grade_by_the_response_needs_no_meta(source: str, meta: dict[str, Any]) -> None:
    assert grade(example(source, response="Asia and Africa", **meta), "Asia and Africa") == Grade(1.0, True)


@pytest.mark.parametrize(("source", "key"), _META_SAYS.items())
@pytest.mark.parametrize("value", [["maybe", 3], [], {}, True, {"text": ["x"]}, "certainly not", ""])
def test_grade_of_meta_of_a_wrong_type_is_that_of_free_text(source: str, key: str, value: Any) -> None:
    assert grade(example(source, **{key: _RIGHT[source]}), "#### 4") is not None
    if not (isinstance(value, str) and source in ("curriculum/reasoning", "curriculum/conversation")):  # any text will do
        assert grade(example(source, response="some response", **{key: value}), "yes") is None


@pytest.mark.parametrize("source", [*_META_SAYS, *_RESPONSE_SAYS])
def test_grade_of_plain_text_is_none_whatever_its_file_is_called(source: str) -> None:
    key = _META_SAYS.get(source, "answer")
    assert grade(example(source, response="and so on.", task="continuation", **{key: _RIGHT.get(source, "B")}), "and so on.") is None


def test_grade_other_parts_of_a_wrong_type_is_that_of_free_text() -> None:
    assert grade(example("mbpp", test_list=["assert True"], test_setup_code=["X = 1"]), "") is None
    for key, value in {"any_of": "Paris", "none_of": [1], "one_of": None, "said": 3, "exactly": ["Paris"], "slot": "town"}.items():
        assert grade(example("curriculum/conversation", kind="any", **{key: value}), "Paris") is None
    assert grade(example("curriculum/math", answer="1,250"), "#### 1250") is None


@pytest.mark.parametrize("domain", curriculum.domains())
def test_grade_takes_what_the_curriculum_makes(domain: str) -> None:
    made = [example(record.source, response=record.response, **record.meta) for record in curriculum.make_exam(domain, count=6 if domain == "code" else 60)]
    assert all(correct(task, task.response) for task in made)


def test_grade_gsm8k_takes_a_number_as_it_is_and_without_one_that_of_the_response() -> None:
    assert correct(example("gsm8k", answer=42), "#### 42")
    assert correct(example("gsm8k", answer=1e20), "#### 100000000000000000000")
    assert correct(example("gsm8k", response="so\n#### 42", answer=None), "#### 42")
    assert grade(example("gsm8k", answer="9" * 400), "#### 42") is None  # no number that can be compared


def test_grade_folio_takes_unknown_for_uncertain_in_the_record_too() -> None:
    assert correct(example("folio", answer="Unknown"), "Uncertain")


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
