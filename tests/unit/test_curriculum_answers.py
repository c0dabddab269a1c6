"""The answers of the curriculum are right: worked by hand, or found again from the prompt alone by another way."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from fractions import Fraction

import pytest

from data_prep import curriculum
from data_prep.curriculum import arithmetic
from data_prep.curriculum.code_everyday import EVERYDAY, Everyday, third_person
from data_prep.curriculum.knowledge import facts_of
from data_prep.curriculum.knowledge_wording import WORDINGS
from data_prep.curriculum.math import final_number
from data_prep.curriculum.reasoning_wording import CLASSES, KINDS, PROPERTIES
from data_prep.records import Record, split_turns

EVERY_LEVEL = (1, 2, 3, 4, 5)


def records(domain: str, task: str, *, count: int = 4000) -> list[Record]:
    made = [record for record in curriculum.make_records(domain, count=count, levels=EVERY_LEVEL, seed=11) if record.meta["task"] == task]
    assert len(made) > 20
    return made


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


# Arithmetic: steps by hand.

def test_add_steps_carry_as_a_third_term() -> None:
    assert arithmetic.add_steps(958, 67) == ["8+7=15", "5+6+1=12", "9+0+1=10"]


def test_subtract_steps_borrow_through_a_zero() -> None:
    # 303 - 234 = 69
    assert arithmetic.subtract_steps(303, 234) == ["13-4=9", "10-3-1=6", "3-2-1=0"]


def test_multiply_steps_add_the_carry_in_a_step_of_its_own() -> None:
    # 346 * 7 = 2422
    assert arithmetic.multiply_steps(346, 7) == ["6*7=42", "4*7=28", "28+4=32", "3*7=21", "21+3=24"]


def test_divide_steps_begin_at_the_first_part_that_the_divisor_fits_into() -> None:
    # 312 / 4 = 78
    assert arithmetic.divide_steps(312, 4) == ["31/4=7 r 3", "32/4=8 r 0"]


def test_instance_of_a_sum_is_the_same_in_both_orders_but_not_of_a_difference() -> None:
    assert arithmetic.instance(3, "+", 12) == arithmetic.instance(12, "+", 3) == "12+3"
    assert arithmetic.instance(12, "-", 3) != arithmetic.instance(3, "-", 12)


def test_every_step_of_every_solution_is_true() -> None:
    equations = 0
    for record in curriculum.make_records("math", count=5000, levels=EVERY_LEVEL, seed=3):
        for left, right in re.findall(r"^([\d+*/-]+)=(-?\d+)(?: r \d+)?$", record.response, re.MULTILINE):
            equations += 1
            assert eval(left.replace("/", "//")) == int(right), record
    assert equations > 10_000


def test_first_line_of_every_solution_has_the_value_of_the_answer() -> None:
    checked = 0
    for record in [*curriculum.make_exam("math"), *curriculum.make_records("math", count=5000, levels=EVERY_LEVEL, seed=3)]:
        expression = record.response.split("\n")[0]
        if record.meta["task"] != "compare":
            checked += 1
            made_of_fractions = re.sub(r"\d+", r"Fraction(\g<0>)", re.sub(r"^[a-z]=|=\d+$", "", expression))
            assert eval(made_of_fractions, {"Fraction": Fraction}) == int(record.meta["answer"]), record
    assert checked > 4000


def test_every_operation_of_a_longer_solution_has_the_result_under_its_columns() -> None:
    for record in records("math", "steps"):
        lines = record.response.split("\n")[1:-1]
        operations = [line for line in lines if "=" not in line]
        results = [line[1:] for line in lines if line.startswith("=")]
        assert len(operations) == len(results) >= 2
        assert [Fraction(eval(operation)) for operation in operations] == [int(result) for result in results], record


@pytest.mark.parametrize(("text", "expected"), [
    ("#### 1/2", 0.5), ("#### -3 / 4", -0.75), ("#### 1e3", 1000.0), ("#### -$5", -5.0), ("#### $-5.50", -5.5), ("#### \u20ac1,250 in all", 1250.0),
    ("#### 12 m2", 12.0), ("#### 5 ####\r\n", 5.0), ("5 ####", None), ("#### 3to4", None), ("#### 5 x2", None),
    ("#### 50%", 50.0), ("#### 12 apples.", 12.0), ("####\n.5\nThat is one of 2.", 0.5), ("#### 1\nNo:\n#### 2", 2.0),
    ("#### 3 or 4", None), ("#### 50-60", None), ("#### 3, 4", None), ("#### 3,4", None), ("#### 1,2345", None), ("#### 1 1/2", None), ("#### 1/2/3", None),
    ("#### 1/0", None), ("#### 7 days, 3 hours", None), ("#### 5.6.7", None), ("#### none", None), ("5", None), ("#### ", None),
])
def test_final_number_is_the_one_that_stands_after_the_mark(text: str, expected: float | None) -> None:
    assert final_number(text) == expected


@pytest.mark.parametrize(("said", "expected"), [
    ("x = 42", 42.0), ("= 42", 42.0), ("**42**", 42.0), ("(42)", 42.0), ("\\$42", 42.0), ("\\(x = 42\\)", 42.0), ("The answer is 42", 42.0),
    ("The answer is: **42**.", 42.0), ("**Answer:** -42", -42.0), ("So the answer is x = 42", 42.0), ("x=-4", -4.0), ("(-4)", -4.0),
    ("42 cm^2", 42.0), ("42 ft^2", 42.0), ("42 m^3", 42.0), ("42m", 42.0), ("42 N", 42.0), ("42 years", 42.0),
    ("42x", None), ("42 x", None), ("42k", None), ("x^2 = 42", None), ("3x = 42", None), ("x != 42", None), ("The answer is not 42", None),
    ("x = 3 or 4", None), ("The answer is 50-60", None), ("* " * 3000, None)])
def test_final_number_stands_in_marks_after_its_lead_and_before_a_unit_but_not_before_an_unknown(said: str, expected: float | None) -> None:
    assert final_number(f"#### {said}") == expected


@pytest.mark.parametrize(("domain", "answer", "text", "expected"), [
    ("math", "42", "#### 42%", False), ("math", "42", "#### 42 percent", False), ("math", "42", "#### **42**%", False), ("math", "42", "#### x = 42", True),
    ("reasoning", "Ann", "#### **Ann**", True), ("reasoning", "yes", "#### The answer is yes", True), ("reasoning", "yes", "#### Answer: **Yes**.", True),
    ("reasoning", "yes", "#### The answer is not yes", False), ("reasoning", "yes", "#### yes or no", False)])
def test_grade_after_the_mark_takes_lead_and_marks_but_no_percentage(domain: str, answer: str, text: str, expected: bool) -> None:
    assert curriculum.grade(domain, {"answer": answer}, text) is expected


@pytest.mark.parametrize(("task", "operation"), [("add", int.__add__), ("subtract", int.__sub__), ("multiply", int.__mul__), ("divide", int.__floordiv__)])
def test_operation_result_is_that_of_the_numbers_in_the_prompt(task: str, operation: object) -> None:
    assert callable(operation)
    for record in records("math", task):
        first, second = numbers(record.prompt)
        wanted = float(record.meta["answer"])
        assert wanted in (operation(first, second), operation(second, first))


def test_compare_answers_with_the_larger_or_smaller_number() -> None:
    for record in records("math", "compare"):
        larger = re.search(r"larger|bigger|greater|more|maximum|max|higher", record.prompt) is not None
        assert int(record.meta["answer"]) == (max if larger else min)(numbers(record.prompt))


def test_equation_answer_solves_it() -> None:
    for record in records("math", "equation"):
        found = re.search(r"(\d*)([xynmk]) = |(?:([xynmk]) ([+-]) (\d+)|(\d+) \+ ([xynmk])) = ", record.prompt)
        assert found is not None, record
        right, answer = int(re.findall(r"= (\d+)", record.prompt)[0]), int(record.meta["answer"])
        factor, _, _, sign, term, first, _ = found.groups()
        left = answer * int(factor) if factor else answer + int(first) if first else answer + int(term) * (1 if sign == "+" else -1)
        assert left == right, record


def test_unit_answer_is_the_factor_times_the_number() -> None:
    factors = {"meters in centimeters": 100, "hours in minutes": 60, "weeks in days": 7, "kilometers in meters": 1000, "decades in years": 10}
    checked = 0
    for record in records("math", "unit"):
        number, *more = re.findall(r"\d+", record.prompt)
        assert not more
        words = set(re.findall(r"[a-z]+", record.prompt.lower()))
        for pair in factors:
            if words.issuperset(pair.split(" in ")):
                checked += 1
                assert int(record.meta["answer"]) == int(number) * factors[pair], record
    assert checked > 20


# Reasoning: found again from the prompt.

def test_ordering_answer_is_found_by_sorting_the_sentences() -> None:
    down = "shorter|younger|slower|poorer|weaker|quieter"
    up = "taller|older|faster|richer|stronger|louder"
    for record in records("reasoning", "ordering"):
        text = record.prompt[:1].upper() + record.prompt[1:]
        pairs = [(first, second) if re.fullmatch(up, word) else (second, first)
                 for first, word, second in re.findall(rf"(\w+) is ({up}|{down}) than (\w+)", text)]
        people = {name for pair in pairs for name in pair}
        question = text.rsplit(". ", 1)[1] if text.count(". ") == len(pairs) else text
        top = re.search("tall|old|fast|rich|strong|loud", question.split("than")[-1]) is not None
        ends = people - {second if top else first for first, second in pairs}
        assert ends == {record.meta["answer"]}, record


def test_rules_answer_is_found_by_chaining_forward() -> None:
    kinds = r"cat|dog|bird|poet|horse|robot|baker|singer|farmer|pilot|artist|doctor|dancer|sailor|writer|nurse|painter|teacher|lion|lizard|bear|owl|tiger|frog"
    for record in records("reasoning", "rules"):
        *sentences, question = re.split(r"(?<=[.]) ", record.prompt.replace("? Answer yes, no or unknown.", "?").replace("? Answer yes, no or unknown", "?"))
        name = record.response.split(" > ")[0]
        rules, held = [], set[str]()
        for sentence in sentences:
            words = re.sub(r"[.:,]", "", sentence.lower()).split()
            found = [word.removesuffix("s") for word in words if re.fullmatch(rf"(?:{kinds})s?", word)]
            negative = any(word in ("no", "not", "never") for word in words)
            if name.lower() in words:
                held.add(found[0])
            else:
                rules.append((found[0], f"not {words[-1]}" if negative else found[1] if len(found) == 2 else words[-1]))
        for _ in rules:
            held |= {consequence for condition, consequence in rules if condition in held}
        (wanted,) = set(re.findall(rf"\b(?:{'|'.join(PROPERTIES)})\b", question.replace(name, "").lower()))
        assert record.meta["answer"] == ("yes" if wanted in held else "no" if f"not {wanted}" in held else "unknown"), record


def test_boolean_answer_is_the_value_of_the_claim() -> None:
    for record in records("reasoning", "boolean"):
        *told, claim = [part for part in re.split(r"(?<=[.:?]) ", record.prompt) if re.search(r"\bthe \w+ is ", part, re.IGNORECASE)]
        states = dict(re.findall(r"\bthe (\w+) is (\w+)", " ".join(told).lower()))
        claims = re.findall(r"\bthe (\w+) is (\w+)", claim.lower())
        truths = [states[thing] == state for thing, state in claims]
        assert len(truths) == len(states), record
        assert record.meta["answer"] == ("yes" if (any if " or the " in record.prompt else all)(truths) else "no"), record


def test_calendar_answer_is_that_of_the_standard_calendar() -> None:
    monday = datetime.date(2024, 1, 1)
    for record in records("reasoning", "calendar"):
        start, count = record.meta["instance"].split()[1:]
        assert str(abs(int(count))) in record.prompt
        assert start in record.prompt
        if start.endswith("day"):
            days = [(monday + datetime.timedelta(days=number)).strftime("%A") for number in range(7)]
            assert record.meta["answer"] == days[(days.index(start) + int(count)) % 7]
        else:
            months = [datetime.date(2024, number, 1).strftime("%B") for number in range(1, 13)]
            assert record.meta["answer"] == months[(months.index(start) + int(count)) % 12]


def test_membership_answer_is_the_last_place_named_with_the_thing() -> None:
    checked = 0
    for record in records("reasoning", "membership"):
        if record.meta["answer"] in ("yes", "no"):
            continue
        moves = re.findall(r"the (\w+)(?: is)? (?:in|to) the (\w+)", record.prompt.lower())
        places = [place for thing, place in moves if thing == record.response.split(":")[0]]
        assert places[-1] == record.meta["answer"], record
        checked += 1
    assert checked > 50


def test_shared_answer_is_in_both_lists() -> None:
    for record in records("reasoning", "shared"):
        lists = re.findall(r"(?:an? \w+, )*an? \w+ and an? \w+", record.prompt)
        first, second = ({thing.removeprefix("an ").removeprefix("a ") for thing in re.split(", | and ", text)} for text in lists[:2])
        assert first & second == {record.meta["answer"]}, record


@pytest.mark.parametrize(("premises", "answer"), [
    ("All cats are birds. All birds are poets. Are all cats poets?", "yes"), ("All cats are birds. No birds are poets. Are all cats poets?", "no"),
    ("All cats are birds. Some birds are poets. Are all cats poets?", "unknown"),
    ("Some cats are birds. All birds are poets. Are some cats poets?", "yes"),
])
def test_syllogism_answers_are_aristotles(premises: str, answer: str) -> None:
    quantities = tuple(re.findall("All|No|Some", premises))
    wanted = {record.meta["answer"] for record in records("reasoning", "syllogism", count=8000)
              if record.response.startswith(f"{quantities[0].lower()} ") and f", {quantities[1].lower()} " in record.response}
    assert wanted == {answer}


@pytest.mark.parametrize(("first", "second", "result"), [
    ("mother", "father", "grandmother"), ("brother", "mother", "uncle"), ("sister", "father", "aunt"), ("son", "daughter", "grandson"),
    ("daughter", "sister", "niece"), ("mother", "brother", "mother"),
])
def test_family_relations_compose(first: str, second: str, result: str) -> None:
    composed = {record.meta["answer"] for record in records("reasoning", "family", count=12_000)
                if re.fullmatch(rf"\w+ {first} \w+ {second} \w+", record.response.split("\n")[0])}
    assert composed == {result}


# Conversation.

def recalls() -> Iterator[tuple[Record, list[str]]]:
    for record in records("conversation", "recall"):
        yield record, [message["content"] for message in split_turns(record.prompt)]


def test_recall_answer_was_told_by_the_user_before_the_question() -> None:
    for record, turns in recalls():
        told = " ".join(turns[:-1] or turns)
        assert record.meta["any_of"][0] in told
        for other in record.meta.get("none_of", ()):
            assert other in told
        if " was " in record.meta["instance"]:
            assert told.index(record.meta["none_of"][-1]) < told.rindex(record.meta["any_of"][0])


def test_grade_conversation_refuses_what_the_user_said_for_an_answer() -> None:
    exam = curriculum.make_exam("conversation")
    said = [[message["content"] for message in split_turns(record.prompt) if message["role"] == "user"] for record in exam]
    whole = [" ".join(turns) for turns in said]
    parrots = [[turns[-1] for turns in said], [turns[0] for turns in said], [text[:240] for text in whole], [text[-240:] for text in whole]]
    right = [{record.prompt for record, reply in zip(exam, parrot, strict=True) if curriculum.grade("conversation", record.meta, reply)} for parrot in parrots]
    assert all(len(prompt.split()) <= 3 for prompts in right for prompt in prompts)  # "Good evening!" may be said back
    assert max(map(len, right)) <= 10


@pytest.mark.parametrize(("facts", "reply", "expected"), [
    ({"exactly": "red cat"}, "Red cat.", True), ({"exactly": "red cat"}, "Repeat after me: red cat", False),
    ({"one_of": ["tea", "milk"]}, "I would take tea.", True),
    ({"one_of": ["tea", "milk"]}, "Tea or milk?", False), ({"one_of": ["tea", "milk"]}, "Both.", False),
    ({"any_of": ["Anna"], "said": ["I'm Anna."]}, "i'm anna", False), ({"any_of": ["Anna"], "said": ["I'm Anna."]}, "You are Anna.", True),
])
def test_grade_reply_by_its_facts(facts: dict[str, object], reply: str, expected: bool) -> None:
    assert curriculum.grade("conversation", {"kind": "any", **facts}, reply) is expected


@pytest.mark.parametrize(("reply", "expected"), [
    ("Your name is Anna.", True), ("anna!", True), ("Your name is Annabel.", False), ("Your name is Ben.", False),
    ("Ben, now called Anna.", False), ("", False), ("Anna is, " + "well, " * 100, False), ("Anna Anna Anna Anna", False),
])
def test_grade_recall_needs_the_new_fact_and_not_the_old(reply: str, expected: bool) -> None:
    assert curriculum.grade("conversation", {"kind": "any", "any_of": ["Anna"], "none_of": ["Ben"]}, reply) is expected


@pytest.mark.parametrize(("kind", "reply", "expected"), [
    ("greeting", "Hi there!", True), ("greeting", "This is it.", False), ("thanks", "You're welcome!", True), ("thanks", "Goodbye!", False),
    ("unknown", "I don't know that, sorry.", True), ("unknown", "You live in Paris.", False), ("joy", "Congratulations!", True),
    ("farewell", "See you soon.", True),
    ("unknown", "I'm not sure.", True), ("unknown", "I can't answer that.", True), ("unknown", "I can't say", True), ("unknown", "How should I know?", True),
    ("unknown", "I am not really certain.", True), ("unknown", "My name is Bob; I can't tell a lie.", False), ("unknown", "I can't tell lies.", False),
    ("unknown", "My favorite color is red, I don't know.", False), ("mood", "Not bad, and you?", True), ("mood", "Bad.", False),
    ("farewell", "Have a nice day!", True), ("farewell", "See ya!", True), ("farewell", "Have a nice cat!", False), ("thanks", "Have a nice day!", False),
    ("thanks", "You're welcome, no problem. Have a nice day!", True), ("sympathy", "That must be hard.", True), ("sympathy", "This is fun.", False),
    ("joy", "Wow, fantastic!", True), ("joy", "Wow.", False), ("sympathy", "Wow, fantastic!", False), ("joy", "I'm not sure.", False),
])
def test_grade_kind_of_reply(kind: str, reply: str, expected: bool) -> None:
    assert curriculum.grade("conversation", {"kind": kind}, reply) is expected


@pytest.mark.parametrize(("slot", "value", "reply", "expected"), [
    ("color", "red", "You haven't told me. red", False), ("color", "red", "I don't know. Maybe red.", False), ("color", "red", "I'm not sure, red?", False),
    ("color", "red", "My favorite color is red.", False), ("color", "red", "I like red.", False), ("color", "red", "You like red.", True),
    ("color", "red", "Red, I remember that.", True), ("color", "red", "Your favorite color is red and turquoise.", False),
    ("color", "red", "It is turquoise and red.", False), ("color", "red", "Red is your favorite color, and I like it too.", True),
    ("name", "Anna", "My name is Anna.", False), ("name", "Anna", "Anna is my name.", False), ("name", "Anna", "I am Anna.", False),
    ("name", "Anna", "You are Anna.", True), ("name", "Anna", "Anna, my friend!", True), ("name", "Anna", "I am sure you are Anna.", True),
    ("name", "Anna", "Your name is Anna, and you live in Kiel.", True), ("name", "Anna", "I have not forgotten: Anna.", True),
    ("pet", "cat", "You have a cat and a lizard.", False), ("pet", "cat", "You have a lizard and a cat.", False), ("pet", "cat", "I have a cat.", False),
    ("pet", "cat", "You have a cat.", True), ("pet", "cat", "A cat, and you love it!", True), ("city", "Paris", "You live in Paris or Kiel.", False),
    ("city", "Paris", "My home is in Paris.", False), ("city", "Paris", "Your home is in Paris.", True), ("job", "nurse", "You work as a nurse.", True),
    ("job", "nurse", "I'm a nurse.", False)])
def test_grade_recall_refuses_a_reply_that_does_not_know_lists_or_speaks_of_itself(slot: str, value: str, reply: str, expected: bool) -> None:
    assert curriculum.grade("conversation", {"kind": "any", "slot": slot, "any_of": [value]}, reply) is expected


def test_grade_reply_of_every_kind_at_once_is_of_none() -> None:
    reply = "Hello! You're welcome, goodbye. I'm fine. I'm sorry to hear that, congratulations! I'm a language model, no problem, I don't know."
    exam = [record for record in curriculum.make_exam("conversation") if record.meta["kind"] != "any"]
    assert len(exam) > 80
    assert not any(curriculum.grade("conversation", record.meta, reply) for record in exam)


def test_individual_answer_follows_from_the_kinds_named_in_each_sentence() -> None:
    """Each rule names two kinds in the order in which they are reached; the fact and the question name one."""
    noun = re.compile(rf"\b({'|'.join((*KINDS, *CLASSES))})s?\b")
    for record in records("reasoning", "individual"):
        *sentences, question = [part for part in re.split(r"(?<=[.])\s+", record.prompt) if noun.search(part.lower())]
        name = record.response.split(" > ")[0]  # Rose is one, and a kind
        named = [noun.findall(re.sub(rf"\b{name}\b|^{name.lower()} is", "", sentence).lower()) for sentence in sentences]
        follows = {kinds[0]: (kinds[1], bool(re.search(r"\bno\b", sentence.lower())))
                   for kinds, sentence in zip(named, sentences, strict=True) if len(kinds) == 2}
        (place,), denied = next(kinds for kinds in named if len(kinds) == 1), False
        while place in follows and not denied:
            place, denied = follows[place]
        asked = noun.findall(question)[0]
        assert record.meta["answer"] == ("unknown" if asked != place else "no" if denied else "yes"), record.prompt


@pytest.mark.parametrize("wanted", EVERYDAY, ids=lambda wanted: wanted.ask[0])
def test_everyday_function_passes_its_check_and_an_empty_one_does_not(wanted: Everyday) -> None:
    meta = {"tests": [f"assert {wanted.check}"]}
    head = wanted.code.partition("\n")[0]
    assert curriculum.grade("code", meta, wanted.code)
    assert not curriculum.grade("code", meta, f"{head}\n    return 'x'")


@pytest.mark.parametrize(("ask", "asks"), [("reverse a string", "reverses a string"), ("multiply two numbers", "multiplies two numbers"),
                                           ("say hello", "says hello"), ("push an item", "pushes an item")])
def test_third_person_of_what_is_asked_for(ask: str, asks: str) -> None:
    assert third_person(ask) == asks


# Knowledge.

def test_every_fact_of_the_exam_is_trained_in_other_wordings() -> None:
    trained: dict[str, set[str]] = {}
    for record in curriculum.make_records("knowledge", count=32_000, levels=(1, 2, 3), seed=0):
        if record.meta["task"] != "passage":
            relation, subject, wording = record.meta["instance"].split("|")
            trained.setdefault(f"{relation}|{subject}", set()).add(wording)
    for record in curriculum.make_exam("knowledge"):
        if record.meta["task"] != "passage":
            relation, subject, wording = record.meta["instance"].split("|")
            assert len(trained[f"{relation}|{subject}"] - {wording}) >= 3, record.prompt


@pytest.mark.parametrize(("level", "subject", "relation", "answer"), [
    (1, "France", "capital_of", "Paris"), (1, "Egypt", "continent_of", "Africa"), (1, "days in a week", "how_many", "7"),
    (1, "frog", "animal_group", "amphibian"),
    (2, "Japan", "currency_of", "yen"), (2, "iron", "symbol_of", "Fe"), (2, "third", "planet_at", "Earth"), (2, "swan", "animal_young", "cygnet"),
    (3, "oxygen", "number_of", "8"), (3, "Hamlet", "author_of", "William Shakespeare"), (2, "penicillin", "inventor_of", "Alexander Fleming"),
])
def test_facts_of_level_hold_known_truths(level: int, subject: str, relation: str, answer: str) -> None:
    assert {found[0] for name, asked, found in facts_of(level) if (name, asked) == (subject, relation)} == {answer}


def test_facts_of_a_relation_and_subject_are_taught_once_and_every_relation_has_wordings() -> None:
    taught = [(subject, relation) for level in EVERY_LEVEL for subject, relation, _ in facts_of(level)]
    assert len(taught) == len(set(taught)) > 500
    assert {relation for _, relation in taught} == set(WORDINGS)
    assert min(len(set(wordings)) for wordings in WORDINGS.values()) >= 8


def test_passage_answer_stands_in_the_passage_with_the_person_asked_for() -> None:
    for record in records("knowledge", "passage"):
        answer = record.meta["answers"][0]
        *told, question = re.split(r"(?<=\.)\s", record.prompt)
        asked = {word.lower() for word in re.findall(r"\b[A-Z]\w+", question.replace("'s", ""))}
        sentences = [sentence for sentence in told if re.search(rf"\b{answer}\b", sentence)]
        assert any(asked & set(re.findall(r"\w+", sentence.lower())) for sentence in sentences), record.prompt
