"""The best constant answer: worked by hand on records of sources with a grader, chosen on training rows alone."""

from data_prep.records import Example
from training.constant import constant_answer, constant_scores
from training.exam import Exam


def row(number, source, response, split="train", **meta):
    return Example("d", f"question {number} {split}", response, source, key=f"{number:08d}{split}", meta=meta)


class Rows:
    def __init__(self, **splits):
        self.splits = splits

    def examples(self, _domain, split):
        return self.splits[split]


def test_the_commonest_label_is_found_and_its_share_of_the_exam_given():
    train = [row(n, "strategyqa", "So the answer is yes.", answer="yes" if n % 4 else "no") for n in range(40)]
    exam = [row(n, "strategyqa", "yes", "exam", answer="yes" if n < 3 else "no") for n in range(10)]
    assert constant_answer(train) in {"yes", "So the answer is yes."}
    assert constant_scores(Rows(train=train), Exam({"d": exam}, {"d": exam})) == {"d/strategyqa": 0.3}


def test_the_choice_is_made_on_training_rows_even_where_another_answer_suits_the_exam_better():
    train = [row(n, "folio", "True", answer="True") for n in range(5)] + [row(9, "folio", "False", answer="False")]
    exam = [row(n, "folio", "False", "exam", answer="False") for n in range(4)]
    assert constant_scores(Rows(train=train), Exam({"d": exam}, {"d": exam})) == {"d/folio": 0.0}


def test_a_source_of_tests_alone_is_judged_by_its_training_sister():
    train = [row(n, "gsm8k_train", f"some steps\n#### {4 if n % 2 else n}", answer="4" if n % 2 else str(n)) for n in range(20)]
    exam = [row(n, "gsm8k_test", f"#### {n}", "exam", answer=str(n)) for n in (3, 4, 5, 6)]
    assert constant_answer(train) == "#### 4"
    assert constant_scores(Rows(train=train), Exam({"d": exam}, {"d": exam})) == {"d/gsm8k_test": 0.25}


def test_free_text_and_programs_are_left_out():
    free = [row(n, "somebody's letters", "Dear all") for n in range(4)]
    code = [row(n, "mbpp", "def f(): pass", test_list=["assert True"]) for n in range(4)]
    assert constant_answer(free) is None
    assert constant_scores(Rows(train=[*free, *code]), Exam({"d": [*free, *code]}, {"d": free})) == {}
