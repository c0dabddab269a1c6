"""What one answer, given to every task alike, would score in an exam: the figure that an accuracy is read beside.

The commonest ways in which training answers of a task end, and its commonest labels, are graded on training rows; the best of them on
the exam's. Runs no model, and no program either: tasks that are graded by running code are left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from data_prep.records import Example
from training.exam import Exam, ExamSource, task_of
from training.graders import family, grade, runs_programs

_CHOSEN_ON = 200  # training rows of a task on which its constant answer is chosen
_CANDIDATES = 5   # endings, and as many labels, that are tried


def constant_scores(source: ExamSource, exam: Exam) -> dict[str, float]:
    """Mean score of the best constant answer to the tasks of an exam, keyed "domain/task"; without those that have no grader."""
    found: dict[str, float] = {}
    for domain, rows in exam.tasks.items():
        learnt = _by_task(source.examples(domain, "train"))
        by_family = {family(task): known for task, known in learnt.items()}
        for task, asked in _by_task(rows).items():
            known = learnt.get(task) or by_family.get(family(task))  # the exam of gsm8k_test, say, against gsm8k_train
            text = constant_answer(known) if known else None
            scores = _scores(text, asked) if text is not None else []
            if scores:
                found[f"{domain}/{task}"] = sum(scores) / len(scores)
    return found


def constant_answer(rows: Sequence[Example]) -> str | None:
    """The text that scores best as the answer to all of these rows; None where nothing can be graded."""
    endings = Counter(row.response.rstrip().rpartition("\n")[2] for row in rows)
    labels = Counter(str(row.meta["answer"]) for row in rows if "answer" in row.meta)
    texts = [text for counted in (endings, labels) for text, _ in counted.most_common(_CANDIDATES)]
    judged = {text: scores for text in texts if (scores := _scores(text, rows[:_CHOSEN_ON]))}
    return max(judged, key=lambda text: sum(judged[text])) if judged else None


def _scores(text: str, rows: Sequence[Example]) -> list[float]:
    return [found.score for row in rows if not runs_programs(row) and (found := grade(row, text)) is not None]


def _by_task(rows: Sequence[Example]) -> Mapping[str, list[Example]]:
    groups: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        groups[task_of(row)].append(row)
    return groups
