"""Grades an answer by the source of its task: the curriculum's own graders, and those of the real data sets.

grade() is pure but for code, which runs in data_prep.sandbox. Free text has no grader. Doesn't choose tasks (exam.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from data_prep import curriculum, sandbox
from data_prep.curriculum.answer_match import best_f1, exact_match
from data_prep.curriculum.code import program_with_tests
from data_prep.curriculum.conversation_wording import SLOTS
from data_prep.curriculum.math import final_number
from data_prep.records import Example

EDITION = 7  # raised when a grader's verdict on some answer, or on a loop, changes: what was graded before is examined again


@dataclass(frozen=True, slots=True)
class Grade:
    """score: 0 to 1 (F1 where the source has it), correct: whether the answer counts as right."""

    score: float
    correct: bool


def grade(example: Example, text: str) -> Grade | None:
    """The grade of an answer to an example, or None for free text: a source without a grader, a continuation of plain text, or a record whose meta
    lacks what its grader needs or has it of another type. Never raises for a bad text or record."""
    if example.meta.get("task") == "continuation":  # data_prep.sources, of *.txt; the file may bear any name
        return None
    if example.source.startswith("curriculum/"):
        return _task_of_the_curriculum(example, text)
    grader = _GRADERS.get(family(example.source))
    return None if grader is None else grader(example, text)


def graded_sources() -> tuple[str, ...]:
    """Sources of real records that have a grader; with suffixes such as _test or _en they are of the same family."""
    return tuple(_GRADERS)


def runs_programs(example: Example) -> bool:
    """Whether grading an answer runs it."""
    return family(example.source) in _PROGRAMS


_PROGRAMS = frozenset(("curriculum/code", "mbpp"))
_SUFFIXES = re.compile(r"([_-](train|test|valid|validation|dev|en))+$")


def family(source: str) -> str:
    """Name of a source without its suffixes, so that gsm8k_train and gsm8k_test are one, xquad_en_test and xquad too."""
    return _SUFFIXES.sub("", source.lower())


def _right(correct: bool) -> Grade:
    return Grade(float(correct), correct)


def _task_of_the_curriculum(example: Example, text: str) -> Grade | None:
    domain, meta = example.source.removeprefix("curriculum/"), example.meta
    enough = {"math": _is_number(meta.get("answer")), "reasoning": isinstance(meta.get("answer"), str),
              "knowledge": bool(_texts(meta.get("answers"))), "code": bool(_texts(meta.get("tests"))),
              "conversation": isinstance(meta.get("kind"), str) and isinstance(meta.get("exactly", ""), str)
              and meta.get("slot") in (None, *SLOTS)
              and all(_texts(meta.get(key, ())) is not None for key in ("any_of", "none_of", "one_of", "said"))}
    return _right(curriculum.grade(domain, meta, text)) if enough.get(domain) else None


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, str | int | float) and math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


def _texts(value: Any) -> list[str] | None:
    """A list of texts as it is; None for anything else."""
    return list(value) if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value) else None


def _answer(example: Example, allowed: re.Pattern[str]) -> str | None:
    """meta.answer where it is a text of the form that the grader compares."""
    answer = example.meta.get("answer")
    return answer.strip() if isinstance(answer, str) and allowed.fullmatch(answer.strip()) else None


def _wanted_number(example: Example) -> float | None:
    """meta.answer, a number or a text of one (thousands commas and all), else the response's own; None where neither can be compared."""
    answer = example.meta.get("answer")
    wanted = answer if isinstance(answer, float) else final_number(f"#### {answer}") if isinstance(answer, str | int) else None
    if wanted is None:
        wanted = final_number(example.response)
    return wanted if wanted is not None and math.isfinite(wanted) else None


_NUMBERED_PERCENT = re.compile(r"\d[\s-]*(?:%|per ?cent)", re.IGNORECASE)
_PERCENT = re.compile(r"%|per ?cent", re.IGNORECASE)
_COUNT_ASKED = re.compile(r"\bhow (?:many|much)\b|\b(?:number|amount) of\b|\d\s*(?:%|per ?cent) of\b", re.IGNORECASE)


def _percent_may_stand(example: Example) -> bool:
    """Whether "42%" may be 42: not where the question asks for a count or an amount and names no percentage but given ones ("What is 50% of 84?")."""
    given_alone = not _PERCENT.search(_NUMBERED_PERCENT.sub("", example.prompt))
    asked = re.split(r"[.!?]\s+", example.prompt.strip())[-1]
    wanted = (str(example.meta.get("answer", "")), example.response.rpartition("####")[2])
    return not (given_alone and _COUNT_ASKED.search(asked)) or any(_PERCENT.search(text) for text in wanted)


def _number(example: Example, text: str) -> Grade | None:
    """The number after "####" against the wanted one, compared as numbers."""
    wanted, got = _wanted_number(example), final_number(text, percent=_percent_may_stand(example))
    return None if wanted is None else _right(got is not None and abs(got - wanted) <= 1e-6 * max(1.0, abs(wanted)))


_ANSWER = r"\b(?:answer|(?:correct|right) (?:option|choice))\**(?: is\b|:)[:* ]*"  # "The answer is", "Answer:", "**Answer:**", "The correct option is"
_SURELY = r"(?:(?:clearly|definitely|certainly|surely|obviously|simply|indeed|undoubtedly|therefore|thus|hence|no doubt),? +)*"
_SO = r"(?:\A|[.!?:\n])[^\S\n]*(?:so|therefore|thus|hence),? +"
_LETTER = re.compile(r"[A-Z]")
_OPTION = r"[*(\"']{0,6}(?:[Oo]ption )?[*(\"']{0,6}([A-Z])\b"  # B, (B), **B**, option B
_OTHER = r"[*(\"']{0,6}(?:[Oo]ption )?[*(\"']{0,6}[A-Z]\b"
# The options over again: "A or B", "A/B", "A) True or B) False", "A, B and C", "A and B."; not "B, A cat ..." nor "B and A is wrong".
_ONE_OF_A_LIST = rf"(?={_OTHER}[*)\"']*(?:[.,;:!?]|\s*$|\s*\n| (?:and|or|are)\b))"
_OR_ANOTHER = rf"(?:[*)\"':]+(?: *\w+){{0,4}})?(?:,? +(?:or|and/or) +| */ *|(?:,? +(?:and|&) +|, *){_ONE_OF_A_LIST}){_OTHER}"
_SAID = re.compile(rf"(?:(?i:{_ANSWER}{_SURELY}){_OPTION}|(?i:{_SO}){_OPTION}(?=[*)\"']*(?:[).:*]|\s*\Z)))(?!{_OR_ANOTHER})"
                   r"|(?<!or )\b([A-Z])\b[*)]* is (?:the )?(?:correct|right)\b")
_AT_LINE_START = re.compile(rf"^\s*{_OPTION}(?:[*).:]|\s*$)", re.MULTILINE)


def _letter(example: Example, text: str) -> Grade | None:
    """The option's letter: the last one after "answer is", "Answer:" or "Therefore,", or before "is correct"; without such a word the one letter that
    lines begin with. Several of those are the options over again, and no answer; so is "A or B"."""
    wanted = _answer(example, _LETTER)
    said = ["".join(groups) for groups in _SAID.findall(text)][-1:] or set(_AT_LINE_START.findall(text))
    return None if wanted is None else _right(list(said) == [wanted])


@dataclass(frozen=True, slots=True)
class _Choice:
    """The words that one may answer with, and the places where one is the answer: a word within a sentence ("no doubt", "true friends") is none,
    nor is one that another follows ("yes or no", "Yes, but no.")."""

    alone: re.Pattern[str]
    after_is: re.Pattern[str]
    at_the_end: re.Pattern[str]
    at_the_start: re.Pattern[str]

    @classmethod
    def of(cls, *words: str) -> _Choice:
        other = rf"[\"'*(]{{0,6}}(?!\1\b)(?:{'|'.join(words)})\b"
        another = (rf"[\"'*)]*(?: +doubt\b|(?:,? +or +| */ *){other}|,? +(?:but|and) +{other}(?=[\"'*)]*\s*(?:[.,;!?\n]|\Z))"
                   rf"|, *{other}(?=(?:,? *or +{other})?[.!?]*\s*\Z))")
        word = rf"[\"'*(]{{0,6}}({'|'.join(words)})\b(?!{another})[\"'*)]*"
        it_is = rf"(?:(?:so|therefore|thus|hence),? +)?(?:(?:it|that|this)(?: is|'s|\u2019s) +)?{_SURELY}"
        return cls(*(re.compile(pattern, re.IGNORECASE) for pattern in (
            "|".join(words), rf"(?:{_ANSWER}|\b(?:statement|conclusion) is\b[:* ]*){_SURELY}{word}", rf"(?:\A|[.!?:\n])[^\S\n]*{it_is}{word}\s*[.!]*\s*\Z",
            rf"\A\s*{word}(?:\s*[.,;:!\n]|\s+(?:-|because|since|it|this|that|they)\s)")))

    def said(self, text: str) -> str:
        """What a text answers: the word after the last "answer is", else the last sentence that is a word alone, else the word that the text begins with."""
        after = self.after_is.findall(text)
        found = self.at_the_end.search(text) or self.at_the_start.search(text)
        return (after[-1] if after else found.group(1) if found else "").lower()


_VERDICT = _Choice.of("true", "false", "uncertain")
_VERDICT_WANTED = re.compile("true|false|uncertain|unknown", re.IGNORECASE)
_YES_NO = _Choice.of("yes", "no")


def _verdict(example: Example, text: str) -> Grade | None:
    """FOLIO: True, False or Uncertain (Unknown says the same)."""
    wanted = _answer(example, _VERDICT_WANTED)
    return None if wanted is None else _right(_VERDICT.said(_as_uncertain(text)) == _as_uncertain(wanted).lower())


def _as_uncertain(text: str) -> str:
    return re.sub(r"\b(?:unknown or uncertain|uncertain or unknown|unknown)\b", "uncertain", text, flags=re.IGNORECASE)


def _yes_no(example: Example, text: str) -> Grade | None:
    wanted = _answer(example, _YES_NO.alone)
    return None if wanted is None else _right(_YES_NO.said(text) == wanted.lower())


def _short_answer(example: Example, text: str) -> Grade:
    """Exact match decides, F1 is the score; both over the response (where several answers are right, their list) and the aliases in meta.answers."""
    listed = example.meta.get("answers")
    answers = [example.response, *(str(answer) for answer in (listed if isinstance(listed, list | tuple) else ()))]
    return Grade(best_f1(text, answers), exact_match(text, answers))


_LEAD_IN = re.compile(rf"^\s*\**(?:so,? )?(?:the )?(?:correct )?{_ANSWER}(?:option )?", re.IGNORECASE)
_LEADING_OPTION = re.compile(r"^\s*[*(]*([A-E])(?:[*).:]+\s*|\s*$)")


def _option_text(example: Example, text: str) -> Grade:
    """ARC: the text of the right option, or its letter alone or before the text, "The answer is" before it or not. The text itself may begin with
    a letter ("E. coli")."""
    text, response = _LEAD_IN.sub("", text), _LEAD_IN.sub("", example.response)
    said, own = _LEADING_OPTION.match(text), _LEADING_OPTION.match(response)
    if said is None or (own is not None and said.group(1) == own.group(1) and exact_match(text, [response])):
        return _right(exact_match(text, [response]))
    rest = text[said.end():]
    return _right(said.group(1) == str(example.meta.get("answer", "")) and (not rest.strip() or exact_match(rest, [response])))


def _tests_pass(example: Example, text: str) -> Grade | None:
    """MBPP: the code passes its tests in the sandbox."""
    tests, setup = _texts(example.meta.get("test_list")), example.meta.get("test_setup_code")
    if not tests or not isinstance(setup, str | None):
        return None
    return _right(sandbox.run(program_with_tests(text, tests, setup=setup or "")).outcome == "passed")


_GRADERS: Mapping[str, Callable[[Example, str], Grade | None]] = {
    "gsm8k": _number, "mawps": _number, "proofwriter": _letter, "prontoqa": _letter, "folio": _verdict, "strategyqa": _yes_no,
    "boolq": _yes_no, "squad": _short_answer,
    "nq_open": _short_answer, "webquestions": _short_answer, "opentriviaqa": _short_answer, "sciq": _short_answer, "triviaqa": _short_answer,
    "arc": _option_text, "xquad": _short_answer, "mbpp": _tests_pass,
}
