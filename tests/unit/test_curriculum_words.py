"""What curriculum questions say: an answer follows from what is told and from nothing else, and words mean what is graded."""

import re
from random import Random

import pytest

from data_prep.curriculum import conversation, knowledge, math, reasoning
from data_prep.curriculum import reasoning_wording as say
from data_prep.curriculum.code_meanings import MEANINGS
from data_prep.curriculum.code_operations import KINDS
from data_prep.curriculum.knowledge_wording import WORDINGS
from data_prep.curriculum.math_wording import ASK

DRAWS = 3000


def drawn(curriculum, task, level, count=DRAWS):
    make = next(found.make for found in curriculum.tasks if found.name == task)
    rng = Random(f"{task} {level}")
    return [make(rng, level) for _ in range(count)]


@pytest.mark.parametrize("level", [1, 2, 3])
def test_unknown_property_isnt_the_opposite_of_one_that_is_told(level):
    unknown = [item for item in drawn(reasoning.CURRICULUM, "rules", level) if item.facts["answer"] == "unknown"]
    assert len(unknown) > DRAWS / 5
    for item in unknown:
        reached = item.response.splitlines()[0].rpartition(" > ")[2]
        asked = set(re.findall(r"[a-z]+", re.split(r"[.] ", re.sub(r"[?.]? Answer yes, no or unknown[.]?", "", item.prompt))[-1]))
        assert not any(reached in group and asked & set(group) for group in say.OPPOSED), item.prompt


@pytest.mark.parametrize("level", [1, 2, 3])
def test_unknown_kind_isnt_one_that_the_words_imply(level):
    unknown = [item for item in drawn(reasoning.CURRICULUM, "individual", level) if item.facts["answer"] == "unknown"]
    assert len(unknown) > DRAWS / 8
    for item in unknown:
        chain, _, asked = item.instance.removeprefix("individual ").partition(" unknown ask ")
        assert ("dog", "animal") not in {(kind, asked) for kind in chain.split(">")}, item.prompt
        assert not set(chain.split(">")) & set(say.WITHIN.get(asked, ())), item.prompt


@pytest.mark.parametrize("level", [1, 2, 3])
def test_unknown_kind_is_one_that_somebody_of_the_others_may_be(level):
    """A worker is no car and a cat is no dog, told or not; a worker may be a singer."""
    roles = {"poet", "baker", "singer", "farmer", "pilot", "artist", "doctor", "dancer", "sailor", "writer", "nurse", "painter", "teacher", "student", "player",
             "parent", "friend", "worker"}
    items = drawn(reasoning.CURRICULUM, "individual", level)
    about = {answer: [set(re.split(r"[> ]", item.instance)) - {"individual", answer, "ask"} for item in items if item.facts["answer"] == answer]
             for answer in ("yes", "no", "unknown")}
    assert not [kinds for kinds in about["unknown"] if kinds - roles]
    assert all(sum(kinds <= roles for kinds in about[answer]) > len(about[answer]) / 3 for answer in ("yes", "no"))  # roles don't give "unknown" away


def test_claims_are_asked_for_a_yes_or_no():
    assert not [text for text in say.IS_TRUE if re.search(r"true or|right or|^check|correct or|false", text, re.IGNORECASE)]


def test_stray_rule_is_not_of_a_kind_that_the_words_imply():
    for item in drawn(reasoning.CURRICULUM, "rules", 3):
        chain, _, stray = item.instance.removeprefix("rules ").partition(" ask ")[0].partition(" ")
        kind = item.instance.partition(" ask ")[0].rpartition(" ")[2].partition(">")[0]
        assert not set(chain.split(">")) & set(say.WITHIN.get(kind, ())), (item.prompt, stray)


def test_no_syllogism_is_about_kinds_of_which_one_lies_in_the_other():
    for item in drawn(reasoning.CURRICULUM, "syllogism", 3):
        first, last = item.instance.split()[-3], item.instance.split()[-1]
        assert first not in say.WITHIN.get(last, ()), item.prompt
        assert last not in say.WITHIN.get(first, ()), item.prompt


@pytest.mark.parametrize("wordings", [say.IS_IT, *say.SYLLOGISM_QUESTIONS.values()], ids=["property", "all", "some"])
def test_questions_with_the_answer_unknown_dont_ask_whether_something_follows(wordings):
    """Of what isn't told it doesn't follow, it can't be said and it needn't be: there "no" would be right."""
    assert not [text for text in wordings if re.search("follow|can we say|must|do we know", text, re.IGNORECASE)]


def test_rules_begin_with_a_capital():
    for item in drawn(reasoning.CURRICULUM, "rules", 3, count=300):
        assert not re.search(r"[.?] [a-z]", item.prompt), item.prompt


def test_vowels_are_those_of_both_cases():
    operation = next(change for change in KINDS["text"].changes if change.name == "no_vowels")
    assert eval(operation.expression, {"s": "An Ice tEa"}) == MEANINGS["text"]["no_vowels"]("An Ice tEa", 0) == "n c t"


def test_words_of_an_operation_stand_apart_from_its_numbers():
    assert not [text for texts in ASK.values() for text in texts if re.search(r"[}](plus|minus|times|divided)|(plus|minus|times|by)[{]", text)]
    assert "{a}+{b}" in ASK["+"]


@pytest.mark.parametrize("level", [1, 2, 3])
def test_stories_are_of_more_than_one_thing(level):
    assert not [item.prompt for item in drawn(math.CURRICULUM, "story", level) if re.search(r"\b1\b", item.prompt)]


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_questions_name_a_subject_once_and_take_each_of_its_answers(level):
    assert not [subject for subject, _, _ in knowledge.facts_of(level) if "/" in subject]


@pytest.mark.parametrize(("fact", "right"), [
    (("Canada", "language_of"), ("English", "French")), (("Bulgaria", "currency_of"), ("euro",)), (("Mars", "planet_kind"), ("rocky", "terrestrial planet")),
    (("S", "element_of_symbol"), ("sulfur", "sulphur")), (("dog", "animal_sound"), ("barks", "bark")), (("Russia", "continent_of"), ("Europe", "Asia")),
    (("Mars", "planet_place"), ("fourth", "4", "4th", "the fourth planet", "four")), (("the electron", "inventor_of"), ("J.J. Thomson", "J. J. Thomson")),
    (("letters in the English alphabet", "how_many"), ("26", "twenty-six", "twenty six")), (("iron", "number_of"), ("26", "twenty-six")),
    (("keys on a piano", "how_many"), ("88", "eighty-eight")), (("degrees in a circle", "how_many"), ("360", "three hundred and sixty")),
    (("meters in a kilometer", "how_many"), ("1,000", "a thousand", "one thousand")), (("France", "currency_of"), ("euro", "euros", "the euro")),
    (("Ukraine", "currency_of"), ("hryvnia", "Ukrainian hryvnia")), (("Romania", "currency_of"), ("Romanian leu", "lei")),
    (("Mexico", "currency_of"), ("pesos", "Mexican pesos")), (("eagle", "animal_home"), ("nest", "an eyrie", "aerie")),
    (("the World Wide Web", "year_of"), ("1989", "1991"))])
def test_every_right_answer_counts(fact, right):
    answers = next(answers for level in range(1, 6) for subject, relation, answers in knowledge.facts_of(level) if (subject, relation) == fact)
    assert all(knowledge.grade({"answers": list(answers)}, answer) for answer in right)
    assert not knowledge.grade({"answers": list(answers)}, "Klingon")


@pytest.mark.parametrize(("relation", "open_words"), [("continent_of", "part of the world"), ("opposite_of", "^Not ")])
def test_questions_leave_no_other_right_answer_open(relation, open_words):
    """Vietnam lies in Southeast Asia, a part of the world that is no continent; what isn't hot may be warm."""
    assert not [text for text in WORDINGS[relation] if re.search(open_words, text)]


def test_years_are_not_taken_in_words():
    answers = next(answers for subject, relation, answers in knowledge.facts_of(3) if (subject, relation) == ("the telephone", "year_of"))
    assert answers == ("1876",)


def test_question_goes_on_in_lower_case_after_a_comma_or_colon_but_for_a_name():
    prompts = [item.prompt for level in (1, 2, 3) for item in drawn(knowledge.CURRICULUM, f"fact_{level}", level)]
    assert any(": what is the capital of" in prompt for prompt in prompts)
    assert any(re.search(r": [A-Z][a-z]+'s capital", prompt) for prompt in prompts)
    assert not [prompt for prompt in prompts if re.match(r"[^.?!]*[,:] (What|Which|Who|Name|Tell|The (?!Divine|Odyssey|Raven|Trial)) ?", prompt)]


def test_unknowable_questions_are_sentences():
    prompts = [item.prompt for item in drawn(conversation.CURRICULUM, "unknowable", 1)]
    assert not [prompt for prompt in prompts if re.match(r"(what is|name) (what|who|where|how) ", prompt, re.IGNORECASE)]
    assert "What is my phone number?" in prompts
