"""training/examiner.py: what a verdict is made of; models and exams are stand-ins here."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from data_prep import curriculum
from data_prep.records import Example
from experts.expert import Answer, LogLikelihood
from experts.journal import Journal
from experts.tree import Tree
from settings import Settings
from training import examiner as examiner_module
from training.exam import Exam, examine
from training.examiner import Examiner, Verdict, sit
from training.promote import Decision
from training.scorecard import Outcome, Scorecard


def _card(**right):
    """right: how many of 40 tasks a level; levels are written as one=1, two=2."""
    outcomes = tuple(Outcome(f"{name}{i}", "code", "t", {"one": 1, "two": 2}[name], float(i < some), False) for name, some in right.items() for i in range(40))
    return Scorecard("e", outcomes, {"code": 1.0}, {"code": 0.5}, 0.1)


def _judged(folder, monkeypatch, *, settings, candidate, served, card=None, served_node="code"):
    """The verdict on a candidate that replaces a version with that card, its scorecard alone where none is given."""
    registry = SimpleNamespace(card=lambda *version: {"scorecard": served.to_json()} if card is None else card)
    tree, journal = Tree.from_settings(settings.tree), Journal(folder / "journal.sqlite")
    run = SimpleNamespace(settings=settings, folder=folder, tree=tree, registry=registry, journal=journal)
    examiner = Examiner(run, device=None)
    monkeypatch.setattr(examiner_module, "goes_in_circles", lambda *args, **more: False)
    monkeypatch.setattr(examiner_module, "examine", lambda *args, **more: candidate)
    for name, found in (("_exam", None), ("incumbent", (served_node, "v000001")), ("_is_early", False), ("_examine_served", served)):
        monkeypatch.setattr(examiner, name, lambda *args, found=found: found)
    return examiner.judge("code", None, SimpleNamespace(of_records=set()))


@pytest.mark.parametrize(("floor", "promote"), [(0.8, False), (0.4, True)])
def test_examiner_holds_the_floor_of_levels_that_is_set(tmp_path, monkeypatch, floor, promote):
    settings = Settings().model_copy(update={"loop": Settings().loop.model_copy(update={"level_floor": floor})})
    verdict = _judged(tmp_path, monkeypatch, settings=settings, candidate=_card(one=20, two=40), served=_card(one=38, two=5))
    assert verdict.decision.promote is promote
    assert ("level 1 of code falls 95.0% -> 50.0%, below loop.level_floor = 80.0%" in verdict.decision.reason) is not promote


def test_examiner_keeps_a_level_mastered_that_versions_before_mastered(tmp_path, monkeypatch):
    """Level one falls within noise from 83 to 78 %, and then to 63 %; only the card of 78 % knows that it was mastered once."""
    settings, low = Settings(), _card(one=31, two=20)
    first = _judged(tmp_path, monkeypatch, settings=settings, candidate=low, served=_card(one=33, two=5))
    assert (first.decision.promote, first.mastered, first.card["mastered"]) == (True, ("code/1",), ["code/1"])
    then = _judged(tmp_path, monkeypatch, settings=settings, candidate=_card(one=25, two=40), served=low, card=first.card)
    assert (then.decision.promote, then.mastered) == (False, ("code/1", "code/2"))
    assert "level 1 of code falls 77.5% -> 62.5%" in then.decision.reason


def test_examiner_takes_of_an_older_card_what_its_own_exam_mastered_and_nothing_of_a_parent(tmp_path, monkeypatch):
    settings, low = Settings(), _card(one=31, two=20)
    older = {"scorecard": _card(one=33, two=5).to_json()}  # of another exam than the one that is asked now
    assert not _judged(tmp_path, monkeypatch, settings=settings, candidate=_card(one=25, two=40), served=low, card=older).decision.promote
    parent = {"scorecard": low.to_json(), "mastered": ["code/1", "math/1"]}
    assert _judged(tmp_path, monkeypatch, settings=settings, candidate=low, served=low, card=parent, served_node="technical").mastered == ()


@pytest.mark.parametrize(("raised_to", "served", "right", "of_records", "promote"), [
    (5, "code", 20, set(), False), (5, "code", 36, set(), True), (4, "code", 20, set(), True), (None, "code", 20, set(), True),
    (5, "code", 31, set(), True), (5, "technical", 20, set(), True), (5, "code", 20, {"code"}, True)])
def test_examiner_holds_levels_that_exams_leave_out_once_the_next_is_trained(tmp_path, monkeypatch, raised_to, served, right, of_records, promote):
    """Level 4 was passed by the expert's served version, which has 32 of 40 (38 where the candidate has 20); the candidate is better in the exam, which
    asks levels 1 to 3. From 32 to 31 is a fall within noise."""
    settings, asked = Settings(), []
    better, worse = (dict.fromkeys((1, 2, 3), share) for share in (1.0, 0.5))

    def sat(levels, tasks=60):
        outcomes = tuple(Outcome(f"{level}-{i}", "code", "t", level, float(i < tasks * share), False) for level, share in levels.items() for i in range(tasks))
        return Scorecard("e", outcomes, {"code": 1.0}, {"code": 0.5}, 0.1)

    def examined(who, exam, **more):
        if exam is None:
            return sat(better)
        asked.append((who, [row.meta["level"] for row in exam.tasks["code"]]))
        return sat({4: {"candidate": right, "v000001": 38 if right == 20 else 32}[who] / 40}, tasks=40)

    registry = SimpleNamespace(card=lambda *version: {"scorecard": sat(worse).to_json()})
    run = SimpleNamespace(settings=settings, tree=Tree.from_settings(settings.tree), registry=registry, folder=tmp_path, journal=Journal(tmp_path / "j.sqlite"))
    for level in range(4, (raised_to or 3) + 1):  # from level 3, which exams ask, to 4 and on
        run.journal.append("level_raised", node="code", level=level, cycle=level, tasks=40, accuracy=0.95)
    run.journal.append("level_raised", node="math", level=5, cycle=9, tasks=40, accuracy=0.95)
    examiner = Examiner(run, device=None)
    monkeypatch.setattr(examiner_module, "goes_in_circles", lambda *args, **more: False)
    monkeypatch.setattr(examiner_module, "examine", examined)
    monkeypatch.setattr(examiner, "_exam", lambda *args: None)
    monkeypatch.setattr(examiner, "incumbent", lambda node: (served, "v000001"))
    monkeypatch.setattr(examiner, "_is_early", lambda *args: False)
    monkeypatch.setattr(examiner, "_examine_served", lambda node, version, exam: sat(worse) if exam is None else examined(version, exam))
    decision = examiner.judge("code", "candidate", SimpleNamespace(of_records=of_records)).decision
    assert decision.promote is promote
    asks = raised_to == 5 and served == "code" and not of_records
    assert asked == ([("candidate", [4] * 40), ("v000001", [4] * 40)] if asks else [])
    if not promote:
        assert decision.reason.startswith("refused: accuracy 50.0% -> 100.0%, bits per byte 1.000 -> 1.000; better with 100.0% of the resamples; "
                                          "level 4 of code falls 95.0% -> 50.0%, below loop.level_floor = 80.0%")


def test_examiner_prefers_no_version_that_loses_a_level_which_was_mastered_once(tmp_path):
    examiner = Examiner(SimpleNamespace(settings=Settings(), folder=tmp_path), device=None)
    other = Verdict(Decision(True, ""), _card(one=31, two=20), False, None, mastered=("code/1",))
    one = Verdict(Decision(True, ""), _card(one=25, two=40), False, None)
    assert [examiner.prefers(one, than) for than in (other, replace(other, mastered=()))] == [False, True]


def test_examiner_examines_what_is_served_again_where_the_exam_grades_otherwise_than_its_card(tmp_path, monkeypatch):
    """An answer of meta that was mended; what was found is kept, and read where the same exam is asked again."""
    settings, loaded = Settings(), []
    rows = [Example("math", f"task {number}", "#### 4", "gsm8k", f"{number}" * 64, {"answer": "5"}) for number in range(4)]
    exam, mended = (Exam({"math": [replace(row, meta={"answer": answer}) for row in rows]}, {"math": rows}) for answer in "54")
    model = _Circling(plain=0, under_dry=0)
    card = {"scorecard": examine(model, exam, settings=settings.exam, decoding=settings.decoding, circles=False).to_json(), "circles": False}
    registry = SimpleNamespace(card=lambda *name: card, path=lambda *name: tmp_path)
    monkeypatch.setattr(examiner_module.Expert, "load", lambda folder, device: loaded.append(folder) or model)
    examiner = Examiner(SimpleNamespace(settings=settings, folder=tmp_path, registry=registry), device=None)
    found = [examiner._examine_served("math", "v000001", asked).accuracy for asked in (exam, mended, mended)]
    assert (found, loaded) == ([0.0, 1.0, 1.0], [tmp_path])


class _Circling:
    """Answers held-out prompts well, and so many of 20 tasks in a loop: plainly, and under DRY."""

    def __init__(self, *, plain, under_dry):
        self.loops, self.sittings = {False: plain, True: under_dry}, []

    def generate(self, conversations, *, max_new_tokens, batch_rows, repetition):
        dry, held_out = repetition is not None, conversations[0][0]["content"].startswith("held out")
        if not held_out:
            self.sittings.append(dry)
        looping = 0 if held_out else self.loops[dry]
        return [Answer(text="#### 4", token_ids=(7,) * 16 if place < looping else (1, 2), finish_reason="stop", prompt_tokens=1)
                for place in range(len(conversations))]

    def log_likelihood(self, pairs, *, batch_rows):
        return [LogLikelihood(nats=8.0, tokens=3, bytes=len(response.encode())) for _, response in pairs]


@pytest.mark.parametrize(("plain", "under_dry", "dry", "sittings", "loop_rate", "circles"), [
    (4, 1, "auto", [False, True], 0.05, True),    # 20 % loop: sits it again
    (1, 0, "auto", [False], 0.05, False),         # 5 %, as many as may be promoted
    (4, 4, "auto", [False, True], 0.2, False),    # DRY doesn't help
    (4, 0, "never", [False], 0.2, False),
    (4, 1, "always", [True], 0.05, False),
])
def test_sit_again_under_dry_where_the_exam_loops_and_held_out_answers_did_not(plain, under_dry, dry, sittings, loop_rate, circles):
    settings = Settings().model_copy(update={"decoding": Settings().decoding.model_copy(update={"dry": dry})})
    rows = [Example("math", f"{name} {number}", "#### 4", "gsm8k", f"{name}{number}", {"answer": "4"}) for name in ("held out", "task") for number in range(20)]
    candidate = _Circling(plain=plain, under_dry=under_dry)
    scorecard, found = sit(candidate, Exam({"math": rows[20:]}, {"math": rows[:20]}), settings=settings)
    assert candidate.sittings == sittings
    assert scorecard.loop_rate == loop_rate
    assert found is circles


@pytest.mark.parametrize(("plain", "sittings"), [(1, [False]), (2, [False, True])])
def test_sit_takes_one_loop_for_chance_however_few_the_tasks(plain, sittings):
    rows = [Example("math", f"{name} {number}", "#### 4", "gsm8k", f"{name}{number}", {"answer": "4"}) for name in ("held out", "task") for number in range(10)]
    candidate = _Circling(plain=plain, under_dry=0)
    _, circles = sit(candidate, Exam({"math": rows[10:]}, {"math": rows[:10]}), settings=Settings())
    assert (candidate.sittings, circles) == (sittings, plain > 1)


def test_examiner_asks_forty_held_out_tasks_of_one_level_once_as_the_gateway_would_write(tmp_path, monkeypatch):
    right = {record.prompt: record.response for record in curriculum.make_exam("math", count=40, levels=(4,))}
    loaded, rules = [], []

    class _Knowing(_Circling):
        def generate(self, conversations, *, max_new_tokens, batch_rows, repetition):
            rules.append(repetition)
            prompts = [messages[-1]["content"] for messages in conversations]
            return [Answer(right[prompt] if place % 4 else "", (1, 2), "stop", 1) for place, prompt in enumerate(prompts)]

    monkeypatch.setattr(examiner_module.Expert, "load", lambda folder, device: loaded.append(folder) or _Knowing(plain=0, under_dry=0))
    registry = SimpleNamespace(path=lambda domain, version: tmp_path / domain / version, card=lambda domain, version:
                               {"circles": (domain, version) == ("math", "v000007"), "scorecard": {"exam": "of levels 1 to 3"}})
    examiner = Examiner(SimpleNamespace(settings=Settings(), folder=tmp_path, registry=registry), device=None)
    for _ in range(2):
        assert examiner.level_scores("math", tmp_path / "v000007", level=4) == [0.0, 1.0, 1.0, 1.0] * 10
    assert (loaded, rules) == ([tmp_path / "math" / "v000007"], [Settings().decoding])
