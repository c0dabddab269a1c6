"""What holds for every curriculum: nothing of an exam in training, fixed exams, seeds, balance, and its own answers right."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from data_prep import curriculum, sandbox
from data_prep.curriculum.code import program_with_tests
from data_prep.curriculum.code_meanings import MEANINGS
from data_prep.curriculum.conversation_wording import REMARKS
from data_prep.curriculum.names import NAMES
from data_prep.curriculum.tasks import side_of
from data_prep.curriculum.wording import THINGS
from data_prep.records import Record, split_turns

DOMAINS = ("math", "reasoning", "conversation", "knowledge", "code")
TRAINING_RECORDS = 50_000
DRILLS = {"drill", "everyday", "small_equation"}  # trained on whole, never examined


def plain(prompt: str) -> str:
    """A prompt as a near-duplicate check would see it: case and marks aside."""
    return " ".join("".join(letter if letter.isalnum() or letter in "+-*/" else " " for letter in prompt.lower()).split())


def test_domains_are_the_five_of_the_tree() -> None:
    assert curriculum.domains() == DOMAINS


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("levels", [(1, 2, 3), None], ids=["levels 1-3", "all levels"])
def test_make_records_never_gives_an_instance_or_prompt_of_the_exam(domain: str, levels: tuple[int, ...] | None) -> None:
    exam = curriculum.make_exam(domain)
    instances, prompts = {record.meta["instance"] for record in exam}, {plain(record.prompt) for record in exam}
    wanted = levels or curriculum.levels(domain)
    held_out = {record.meta["instance"] for record in curriculum.make_validation(domain, count=1000, levels=wanted, seed=7)}
    trained, asked = set(), set()
    for record in curriculum.make_records(domain, count=TRAINING_RECORDS, levels=wanted, seed=7):
        trained |= endings(record) if domain == "code" else {record.meta["instance"]}
        asked.add(plain(record.prompt))
    assert not instances & trained
    assert not prompts & asked
    assert len(held_out) > 300
    assert not held_out & (trained | instances)


def endings(record: Record) -> set[str]:
    """Keys of a program and of the shorter ones that it ends with."""
    kind, _, names = record.meta["instance"].partition(": ")
    operations = names.split()
    return {f"{kind}: {' '.join(operations[start:])}" for start in range(max(1, len(operations) - 1))}


def test_make_records_of_math_never_work_out_an_operation_of_the_exam_or_of_validation() -> None:
    """Read from the texts, not from instance keys: whatever is written as a number, a sign and a number."""
    def worked(text: str) -> set[tuple[int, str, int]]:
        operations = {(int(first), sign, int(second)) for first, sign, second in re.findall(r"(?<![\d+*/-])(\d+)([-+*/])(\d+)(?![\d+*/-])", text)}
        return {(max(first, second), sign, min(first, second)) if sign in "+*" else (first, sign, second) for first, sign, second in operations}

    held_out = [*curriculum.make_exam("math"), *curriculum.make_validation("math", count=600, levels=(1, 2, 3), seed=7)]
    asked, tasks = set[tuple[int, str, int]](), set[str]()
    for record in held_out:
        first_line = record.response.split("\n")[0]
        if re.fullmatch(r"(?:[a-z]=)?\d+[-+*/]\d+", first_line):
            asked |= worked(first_line)
            tasks.add(record.meta["task"])
    assert tasks == {"add", "subtract", "multiply", "divide", "story", "equation", "part", "unit"}
    assert len(asked) > 300
    shown = {operation for record in curriculum.make_records("math", count=20_000, levels=(1, 2, 3), seed=7) for operation in worked(record.response)}
    assert not asked & shown


def blanked(record: Record) -> str:
    """A prompt's wording: numbers, names and the words that make the instance aside."""
    blanks = set(re.findall(r"[a-z]+", " ".join(map(str, (record.meta["instance"], *NAMES, *THINGS))).lower()))
    words = re.findall(r"[a-z]+|\d+", split_turns(record.prompt)[-1]["content"].lower())
    return " ".join("_" if word.isdigit() or word in blanks or word.rstrip("s") in blanks else word for word in words)


@pytest.mark.parametrize("domain", DOMAINS)
def test_make_records_words_each_task_in_two_dozen_ways(domain: str) -> None:
    forms: dict[str, set[str]] = defaultdict(set)
    for record in curriculum.make_records(domain, count=6000, levels=(1, 2, 3), seed=3):
        remark = record.meta["task"] in (*REMARKS, "unknowable")  # is its own instance: what varies is all of it
        forms[record.meta["task"]].add(record.prompt if remark else blanked(record))
    assert {task: len(found) for task, found in forms.items() if len(found) < 24} == {}


@pytest.mark.parametrize("domain", DOMAINS)
def test_make_exam_has_200_different_tasks_of_levels_1_to_3_in_equal_parts(domain: str) -> None:
    exam = curriculum.make_exam(domain)
    assert len({record.prompt for record in exam}) == 200
    assert Counter(record.meta["level"] for record in exam) == {1: 67, 2: 67, 3: 66}
    assert {record.source for record in exam} == {f"curriculum/{domain}"}
    assert all(record.exam_only for record in exam)


@pytest.mark.parametrize(("domain", "different", "most"), [
    ("math", 200, 1), ("reasoning", 197, 2), ("conversation", 187, 3), ("knowledge", 200, 1), ("code", 163, 4)])
def test_make_exam_asks_an_instance_again_only_where_a_task_has_no_other(domain: str, different: int, most: int) -> None:
    asked = Counter(record.meta["instance"] for record in curriculum.make_exam(domain))
    assert (len(asked), max(asked.values())) == (different, most)


@pytest.mark.parametrize("domain", DOMAINS)
def test_make_exam_asks_every_task_that_is_trained_at_its_levels(domain: str) -> None:
    trained = {record.meta["task"] for record in curriculum.make_records(domain, count=3000, levels=(1, 2, 3), seed=0)} - DRILLS
    assert {record.meta["task"] for record in curriculum.make_exam(domain)} == trained


@pytest.mark.parametrize("domain", DOMAINS)
def test_make_exam_of_fewer_tasks_is_the_beginning_of_the_whole(domain: str) -> None:
    assert curriculum.make_exam(domain, count=60) == curriculum.make_exam(domain)[:60]


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("level", [4, 5])
def test_make_exam_of_a_level_that_exams_leave_out_asks_that_alone_by_instances_of_the_exam(domain: str, level: int) -> None:
    exam = curriculum.make_exam(domain, count=40, levels=(level,))
    assert len({record.prompt for record in exam}) == 40
    assert {(record.meta["level"], record.exam_only, side_of(record.meta["instance"])) for record in exam} == {(level, True, "exam")}


def test_make_exam_is_the_same_in_another_process_with_another_hash_seed() -> None:
    program = ("import hashlib; from data_prep import curriculum; "
               "print(hashlib.sha256(repr([curriculum.make_exam(name) for name in curriculum.domains()]).encode()).hexdigest())")
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
                           env={**os.environ, "PYTHONHASHSEED": "12345"}).stdout.strip()
    here = hashlib.sha256(repr([curriculum.make_exam(name) for name in DOMAINS]).encode()).hexdigest()
    assert there == here


@pytest.mark.parametrize("domain", DOMAINS)
def test_make_records_same_seed_gives_the_same_and_another_seed_others(domain: str) -> None:
    def made(seed: int) -> list[Record]:
        return list(curriculum.make_records(domain, count=200, levels=(1, 2, 3), seed=seed))
    assert made(3) == made(3)
    assert sum(first.prompt != second.prompt for first, second in zip(made(3), made(4), strict=True)) > 150


@pytest.mark.parametrize("domain", DOMAINS)
def test_make_records_of_fewer_is_the_beginning_of_more(domain: str) -> None:
    few = list(curriculum.make_records(domain, count=50, levels=(1, 2), seed=1))
    assert few == list(itertools.islice(curriculum.make_records(domain, count=500, levels=(2, 1, 1), seed=1), 50))


@pytest.mark.parametrize("domain", DOMAINS)
def test_make_records_gives_the_levels_in_equal_parts(domain: str) -> None:
    records = curriculum.make_records(domain, count=500, levels=curriculum.levels(domain), seed=0)
    assert Counter(record.meta["level"] for record in records) == dict.fromkeys((1, 2, 3, 4, 5), 100)


@pytest.mark.parametrize("domain", [name for name in DOMAINS if name != "code"])
def test_grade_takes_the_own_answer_and_refuses_that_of_another_task(domain: str) -> None:
    records = [*curriculum.make_exam(domain), *curriculum.make_records(domain, count=1000, levels=curriculum.levels(domain), seed=5)]
    assert all(curriculum.grade(domain, record.meta, record.response) for record in records)
    shifted = [curriculum.grade(domain, record.meta, other.response) for record, other in zip(records, [*records[1:], records[0]], strict=True)]
    # Yes and no answers, kinds of reply and continents repeat; most answers must not do for another task.
    assert sum(shifted) < 0.35 * len(shifted)


def test_own_answers_of_code_pass_their_tests_with_every_operation() -> None:
    records = [*curriculum.make_exam("code"), *curriculum.make_records("code", count=1000, levels=(1, 2, 3, 4, 5), seed=5)]
    # Every function is tested before the next one may take its name, so many fit into one program.
    programs = ["\n".join(program_with_tests(record.response, record.meta["tests"]) for record in batch) for batch in batches(records, 100)]
    results = sandbox.run_all(programs)
    assert [result.outcome for result in results] == ["passed"] * len(programs)
    keys = [record.meta["instance"].split(": ") for record in records if record.meta["task"] != "everyday"]
    composed = {(kind, name) for kind, names in keys for name in names.split()}
    assert composed == {(kind, name) for kind, meanings in MEANINGS.items() for name in meanings}


def batches(records: list[Record], size: int) -> list[list[Record]]:
    return [records[start:start + size] for start in range(0, len(records), size)]


def test_grade_code_refuses_the_functions_of_other_tasks() -> None:
    exam = curriculum.make_exam("code", count=24)
    results = sandbox.run_all([program_with_tests(wrong.response, record.meta["tests"]) for record, wrong in zip(exam, exam[7:], strict=False)])
    assert {result.outcome for result in results} == {"failed"}


def test_grade_code_takes_a_fenced_answer() -> None:
    record = curriculum.make_exam("code", count=1)[0]
    assert curriculum.grade("code", record.meta, f"Sure:\n```python\n{record.response}\n```") is True


@pytest.mark.parametrize("answer", [
    "Sure:\n```Python\n{}\n```", "```python \n{}\n```", "```\t\r\n{}\n```", "```PY\n{}\n```\nDone.", "```python\n{}", "```\n{}",
    "Input:\n```text\n1 2\n```\nCode:\n```python\n{}\n```", "Run:\n```\npip install x\n```\n```py\n{}\n```", "```text\n1 2\n```\n```\n{}\n```", "{}",
    "```\npip install x\n```\n```python\n{}\n```",
    "```\ndef f(x):\n    ...\n```\n```python\n{}\n```", "```python3\n{}\n```", "```\n{}\n```\nUse it:\n```python\nprint(f(1))\n```",
])
def test_program_with_tests_takes_the_code_from_an_answer(answer: str) -> None:
    program = program_with_tests(answer.format("def f(x):\n    return x"), ["assert f(1) == 1"])
    assert program.split() == ["def", "f(x):", "return", "x", "assert", "f(1)", "==", "1"]


ROOT = "def f(x):\n    return math.sqrt(x)"


@pytest.mark.parametrize("answer", [
    f"First:\n```python\nimport math\n```\nThen:\n```python\n{ROOT}\n```",
    f"```python\n{ROOT}\n```\nIt needs:\n```python\nimport math\n```",
    "```python\ndef root(x):\n    return math.sqrt(x)\n```\n```py\nimport math\nLIMIT = 3\n```\n```python\ndef f(x):\n    return root(x)\n```",
    f"```\nimport math\n```\n```\n{ROOT}\n```",
    f"```python\nimport math\n{ROOT}\n```\nOr:\n```python\ndef f(x):\n    return 0\n```",
    f"```python\nimport math\n{ROOT}\n```\nTests:\n```python\nimport pytest\nfrom solution import f\ndef test_f() -> None:\n    assert f(4) == 2\n```",
    f"```python\nprint(f(int(input())))\n```\n```python\nimport math\n{ROOT}\n```\n```python\n>>> f(4)\n```",
    f"import math\n{ROOT}\nif __name__ == '__main__':\n    print(f(int(input())))",
    f"```python\nfrom __future__ import annotations\nimport math\n{ROOT}\n```",
    f"```python\ndef add(a, b):\n    return a + b\n```\n```python\nimport math\n{ROOT}\nprint(f(4))\n```",
    f"```python\ndef add(a, b):\n    return a + b\n```\n```python\nimport math\n{ROOT}\nif __name__ == '__main__':\n    print(f(int(input())))\n```",
    f"'The root.'\nfrom __future__ import (\n    annotations,\n)\nimport math\n{ROOT}",
    f"from __future__ import annotations\nimport math\nfrom dataclasses import dataclass\n@dataclass\nclass Root:\n    of: float\n{ROOT}",
])
def test_right_program_passes_whatever_fences_guards_and_imports_it_has(answer: str) -> None:
    result = sandbox.run(program_with_tests(answer, ["assert f(FOUR) == 2"], setup="FOUR = 4"))
    assert result.outcome == "passed", result.output


@pytest.mark.parametrize("answer", [
    "```python\nimport math\n```\n```python\ndef f(x):\n    return math.floor(x)\n```", f"```text\nimport math\n```\n```python\n{ROOT}\n```",
    f"```python\n{ROOT}\n```", f"if __name__ == '__main__':\n    import math\n{ROOT}",
    "```python\ndef f(x):\n    return 0\n```\nBetter:\n```python\ndef f(x):\n    return x ** 0.5\n```"])
def test_wrong_program_fails_in_fences_and_guards_too(answer: str) -> None:
    assert sandbox.run(program_with_tests(answer, ["assert f(FOUR) == 2"], setup="FOUR = 4")).outcome == "failed"


def test_code_tests_are_passed_by_no_function_that_ignores_its_input() -> None:
    for record in curriculum.make_exam("code"):
        assert len({test.split(" == ", 1)[1] for test in record.meta["tests"]}) > 1


def shortened(program: str) -> list[str]:
    """A function without one line or several in a row; for its last line it returns what it has."""
    head, *body, last = program.splitlines()
    shorter = [[*body[:first], *body[end:], last] for first, end in itertools.combinations(range(len(body) + 1), 2)]
    variable = head.partition("(")[2].rstrip("):")
    if last != f"    return {variable}":
        shorter += [[*body[:first], f"    return {variable}"] for first in range(len(body) + 1)]
    return ["\n".join([head, *lines]) for lines in shorter]


def passes(program: str) -> bool:
    try:
        exec(program, {})  # generated by the curriculum itself
    except AssertionError:
        return False
    return True


def test_code_tests_are_passed_by_no_program_with_a_step_left_out() -> None:
    records = [*curriculum.make_exam("code"), *curriculum.make_records("code", count=1000, levels=(1, 2, 3), seed=11)]
    programs = [(record, program) for record in records if record.meta["task"] != "everyday" for program in shortened(record.response)]
    assert len(programs) > 3000
    assert [(record.meta["instance"], program) for record, program in programs if passes(program_with_tests(program, record.meta["tests"]))] == []


def test_code_tests_of_a_sorted_dict_compare_its_order() -> None:
    records = [*curriculum.make_exam("code"), *curriculum.make_records("code", count=2000, levels=(1, 2), seed=1)]
    made = [record for record in records if re.match("dict: .*sort.* dict$", record.meta["instance"])]
    assert {True, False} == {record.exam_only for record in made if record.meta["task"] != "drill"}  # not as a drill alone
    tests = [test for record in made for test in record.meta["tests"]]
    assert all(test.startswith("assert list(") and ".items()) == [" in test for test in tests)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("text", ["", "####", "#### ", "is is is is is is is is", "yes", "\ud800", "def f(", "x" * 100_000])
def test_grade_bad_text_is_wrong_and_never_raises(domain: str, text: str) -> None:
    task = next(record for record in curriculum.make_exam(domain) if record.response != text)
    assert curriculum.grade(domain, task.meta, text) is False


@pytest.mark.parametrize("domain", DOMAINS)
def test_records_are_ascii_without_outer_blanks_and_short(domain: str) -> None:
    for record in curriculum.make_records(domain, count=3000, levels=curriculum.levels(domain), seed=2):
        assert record.prompt.isascii()
        assert record.response.isascii()
        assert record.prompt == record.prompt.strip()
        assert record.response == record.response.strip() != ""
        assert len(record.prompt) < 900
        assert len(record.response) < 400


def test_unknown_domain_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no curriculum for domain 'law'; there is one for math, reasoning"):
        curriculum.make_exam("law")


def test_make_exam_of_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match=r"curriculum 'math' has no level \[9\]"):
        curriculum.make_exam("math", levels=(9,))


@pytest.mark.parametrize("levels", [(1, 9), ()])
def test_unknown_level_is_refused_with_the_known_ones(levels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"has no level .*; give some of \[1, 2, 3, 4, 5\]"):
        next(curriculum.make_records("math", count=1, levels=levels, seed=0))


def test_several_turns_of_a_conversation_become_messages() -> None:
    exam = curriculum.make_exam("conversation")
    long = [record for record in exam if record.prompt.startswith("User: ")]
    assert len(long) > 40
    for record in long:
        messages = split_turns(record.prompt)
        assert [message["role"] for message in messages] == (["user", "assistant"] * 10)[:len(messages)]
        assert len(messages) >= 3
