"""Grades an answer by the source of its task: the curriculum's own graders, and those of the real data sets.

grade() is pure but for code, which runs in data_prep.sandbox. Free text has no grader. Doesn't choose tasks (exam.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from data_prep import curriculum, sandbox
from data_prep.curriculum.answer_match import best_f1, exact_match
from data_prep.curriculum.code import program_with_tests
from data_prep.curriculum.math import final_number
from data_prep.records import Example

EDITION = 2  # raised when a grader's verdict on some answer, or on a loop, changes: what was graded before is examined again


@dataclass(frozen=True, slots=True)
class Grade:
    """score: 0 to 1 (F1 where the source has it), correct: whether the answer counts as right."""

    score: float
    correct: bool


def grade(example: Example, text: str) -> Grade | None:
    """The grade of an answer to an example, or None where its source has no grader (free text). Never raises for a bad text."""
    if example.source.startswith("curriculum/"):
        return _right(curriculum.grade(example.source.removeprefix("curriculum/"), example.meta, text))
    grader = _GRADERS.get(family(example.source))
    return None if grader is None else grader(example, text)


def graded_sources() -> tuple[str, ...]:
    """Sources of real records that have a grader; a suffix such as _test or _train is part of the same family."""
    return tuple(_GRADERS)


def runs_programs(example: Example) -> bool:
    """Whether grading an answer runs it."""
    return family(example.source) in _PROGRAMS


_PROGRAMS = frozenset(("curriculum/code", "mbpp"))
_SUFFIX = re.compile(r"[_-](train|test|valid|validation|dev|en)$")


def family(source: str) -> str:
    """Name of a source without its suffix, so that gsm8k_train and gsm8k_test are one."""
    return _SUFFIX.sub("", source.lower())


def _right(correct: bool) -> Grade:
    return Grade(float(correct), correct)


def _number(example: Example, text: str) -> Grade:
    """The number after "####" against meta.answer (or the response's own), compared as numbers."""
    wanted = final_number(f"#### {example.meta['answer']}") if "answer" in example.meta else final_number(example.response)
    got = final_number(text)
    return _right(got is not None and wanted is not None and abs(got - wanted) <= 1e-6 * max(1.0, abs(wanted)))


_OPTION = re.compile(r"\banswer is:?\s*\(?([A-Z])\b|^\s*\(?([A-Z])[).:]|^\s*([A-Z])\s*$", re.MULTILINE)


def _letter(example: Example, text: str) -> Grade:
    """The option's letter in "The answer is B) ..." or at the start of a line; the last one said counts."""
    said = [next(filter(None, groups)) for groups in _OPTION.findall(text)]
    return _right(bool(said) and said[-1] == str(example.meta["answer"]))


_VERDICT = re.compile(r"\b(true|false|uncertain|unknown)\b", re.IGNORECASE)


def _verdict(example: Example, text: str) -> Grade:
    """FOLIO: True, False or Uncertain (Unknown says the same); the last one said counts."""
    return _right(_last(_VERDICT, text).replace("unknown", "uncertain") == str(example.meta["answer"]).lower())


_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def _yes_no(example: Example, text: str) -> Grade:
    return _right(_last(_YES_NO, text) == str(example.meta["answer"]).lower())


def _last(pattern: re.Pattern[str], text: str) -> str:
    said = pattern.findall(text)
    return said[-1].lower() if said else ""


def _short_answer(example: Example, text: str) -> Grade:
    """Exact match decides, F1 is the score; both over the response (where several answers are right, their list) and the aliases in meta.answers."""
    listed = example.meta.get("answers")
    answers = [example.response, *(str(answer) for answer in (listed if isinstance(listed, list | tuple) else ()))]
    return Grade(best_f1(text, answers), exact_match(text, answers))


_LEADING_OPTION = re.compile(r"^\s*\(?([A-E])(?:[).:]\s*|\s*$)")


def _option_text(example: Example, text: str) -> Grade:
    """ARC: the text of the right option, or its letter alone or before the text."""
    said = _LEADING_OPTION.match(text)
    if said is None:
        return _right(exact_match(text, [example.response]))
    rest = text[said.end():]
    return _right(said.group(1) == str(example.meta.get("answer", "")) and (not rest.strip() or exact_match(rest, [example.response])))


def _tests_pass(example: Example, text: str) -> Grade:
    """MBPP: the code passes its tests in the sandbox."""
    tests = [str(test) for test in example.meta["test_list"]]
    return _right(sandbox.run(program_with_tests(text, tests, setup=str(example.meta.get("test_setup_code") or ""))).outcome == "passed")


_GRADERS: Mapping[str, Callable[[Example, str], Grade]] = {
    "gsm8k": _number, "mawps": _number, "proofwriter": _letter, "prontoqa": _letter, "folio": _verdict, "strategyqa": _yes_no,
    "nq_open": _short_answer, "webquestions": _short_answer, "opentriviaqa": _short_answer, "sciq": _short_answer, "triviaqa": _short_answer,
    "arc": _option_text, "xquad": _short_answer, "mbpp": _tests_pass,
}
