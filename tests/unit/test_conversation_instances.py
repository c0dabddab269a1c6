"""Conversation: what is examined doesn't stand anywhere in training, read from the prompts, and replies are graded as people would."""

from __future__ import annotations

import re
from random import Random

import pytest

from data_prep import curriculum
from data_prep.curriculum import conversation
from data_prep.curriculum.conversation_wording import INTRODUCTIONS, OCCASIONS, REMARKS, REPLIES, SLOTS, UNTOLD
from data_prep.records import Record, split_turns

EVERY_LEVEL = (1, 2, 3, 4, 5)
ASKS = tuple(question for slot in SLOTS.values() for question in slot.ask)
TELLS = [(slot, re.compile(re.escape(form).replace(r"\{v\}", r"(\w+)"))) for slot in SLOTS for form in SLOTS[slot].tell]


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def user_turns(record: Record) -> list[str]:
    return [message["content"] for message in split_turns(record.prompt) if message["role"] == "user"]


def told_and_asked(record: Record) -> tuple[frozenset[tuple[str, str]], str, str]:
    """What a user told of themselves, found by the sentences that tell it, what they ask, and what is to be recalled."""
    text = " ".join(user_turns(record))
    question = next(ask for ask in ASKS if text.endswith(ask))
    told = frozenset((slot, value) for slot, form in TELLS for value in form.findall(text) if value in SLOTS[slot].values)
    assert told
    return told, question, "".join(record.meta.get("any_of", ()))


def told_facts(records: list[Record]) -> set[tuple[frozenset[tuple[str, str]], str, str]]:
    return {told_and_asked(record) for record in records if record.meta["task"] in ("recall", "not_told")}


@pytest.fixture(scope="module")
def training() -> list[Record]:
    return list(curriculum.make_records("conversation", count=16_000, levels=EVERY_LEVEL, seed=7))


@pytest.fixture(scope="module")
def held_out() -> list[Record]:
    return [*curriculum.make_exam("conversation"), *curriculum.make_validation("conversation", count=500, levels=(1, 2, 3), seed=7)]


def test_what_is_asked_in_an_exam_is_no_turn_of_a_dialogue_in_training(training: list[Record], held_out: list[Record]) -> None:
    asked = {plain(user_turns(record)[-1]) for record in held_out if user_turns(record)[-1] not in ASKS}
    assert len(asked) > 300
    assert not asked & {plain(turn) for record in training for turn in user_turns(record)}


def test_nobody_tells_their_name_in_the_words_of_an_introduction() -> None:
    introductions = {plain(form.format(hello=hello, name="Anna")) for form in INTRODUCTIONS for hello in REMARKS["greeting"][0]}
    assert not introductions & {plain(form.format(v="Anna")) for form in SLOTS["name"].tell}


def test_dialogues_of_an_exam_may_hold_what_is_trained_on(training: list[Record]) -> None:
    trained = {plain(record.prompt) for record in training if record.meta["task"] in ("thanks", "mood", "ability")}
    earlier = {plain(turn) for record in curriculum.make_exam("conversation") for turn in user_turns(record)[:-1]}
    assert earlier & trained


def test_no_question_is_asked_of_the_same_told_facts_in_exam_and_training(training: list[Record], held_out: list[Record]) -> None:
    assert len(told_facts(held_out)) > 150
    assert not told_facts(held_out) & told_facts(training)


def test_instance_of_told_facts_is_the_same_in_every_order() -> None:
    make = next(task.make for task in conversation.CURRICULUM.tasks if task.name == "not_told")
    drawn = Random("not_told")
    keys = [make(drawn, 3).instance for _ in range(500)]
    assert all(re.findall(r"\w+ \w+(?=')", key) == sorted(re.findall(r"\w+ \w+(?=')", key)) != [] for key in keys)


def test_own_replies_to_what_was_never_told_are_right_for_every_slot() -> None:
    for slot in SLOTS:
        for reply in (*(text.format(slot=SLOTS[slot].noun) for text in UNTOLD), "I will remember it. May I ask for it? I don't know it yet."):
            assert curriculum.grade("conversation", {"kind": "unknown", "slot": slot}, reply), (slot, reply)


@pytest.mark.parametrize("slot", SLOTS)
def test_recall_is_right_with_the_value_alone_and_wrong_with_others_or_denied(slot: str) -> None:
    values, reply = SLOTS[slot].values, SLOTS[slot].reply
    for value in values[:12]:
        facts = {"kind": "any", "slot": slot, "any_of": [value]}
        assert curriculum.grade("conversation", facts, reply.format(v=value))
        assert curriculum.grade("conversation", facts, f"Of course, I haven't forgotten: {value}!")
        other = values[values.index(value) - 1]
        for wrong in (reply.format(v=other), f"{value} or {other}", f"It is {other}, not {value}.", f"It is not {value}.", f"It isn't {value}.",
                      f"You never told me of {value}.", ", ".join(values[:15])):
            assert not curriculum.grade("conversation", facts, wrong), wrong


def test_listing_values_of_what_is_asked_for_is_right_for_no_recall_of_the_exam() -> None:
    recalls = [record for record in curriculum.make_exam("conversation") if record.meta["task"] == "recall"]
    assert len(recalls) > 40
    for record in recalls:
        value = record.meta["any_of"][0]
        slot = next(name for name in SLOTS if value in SLOTS[name].values)
        assert not curriculum.grade("conversation", record.meta, ", ".join(dict.fromkeys((value, *SLOTS[slot].values[:12]))))


@pytest.mark.parametrize(("kind", "reply"), [
    ("mood", "Hi! I'm fine, thank you. How are you?"), ("mood", "I\u2019m doing great, thanks!"), ("mood", "Fine, thank you."),
    ("thanks", "You're welcome, bye!"), ("thanks", "No problem!"), ("farewell", "You're welcome! Goodbye."), ("farewell", "Talk to you later!"),
    ("unknown", "I don\u2019t know your name."), ("unknown", "I have no way to know that."), ("unknown", "Sorry, I can't tell."),
    ("unknown", "You didn't tell me that."), ("sympathy", "Oh no, I'm sorry!"), ("sympathy", "I'm sorry."), ("joy", "That's great!"),
    ("apology", "That\u2019s okay."), ("ability", "Hello! I am an AI, here to help."), ("joke", "Why don't eggs tell jokes? They crack up."),
    ("well", "Get well wishes, Ben!"), ("luck", "Good luck wishes, Ben!"),
])
def test_natural_replies_are_of_their_kind(kind: str, reply: str) -> None:
    assert curriculum.grade("conversation", {"kind": kind}, reply)


@pytest.mark.parametrize(("kind", "reply"), [
    ("sympathy", REPLIES["unknown"][0]), ("sympathy", REPLIES["unknown"][1]), ("unknown", "I know that."), ("unknown", "I'm sorry to hear that."),
    ("mood", "I am a robot."), ("thanks", "Hello! Goodbye."), ("farewell", "You're welcome! Goodbye. I'm fine."), ("thank", "Ben, you're welcome."),
    ("birthday", "Happy birthday, Ben! Good luck and get well soon."), ("joke", "Why don't you tell me?"), ("joke", "Why do you ask?"),
])
def test_replies_of_another_kind_or_of_many_are_wrong(kind: str, reply: str) -> None:
    assert not curriculum.grade("conversation", {"kind": kind}, reply)


@pytest.mark.parametrize(("occasion", "line", "kind"), OCCASIONS)
def test_line_for_somebody_is_right_and_what_was_ordered_is_none(occasion: str, line: str, kind: str) -> None:
    facts = {"kind": kind, "any_of": ["Ben"]}
    assert curriculum.grade("conversation", facts, f"Here is {occasion} for Ben: {line.format(name='Ben')}")
    assert not curriculum.grade("conversation", facts, f"{occasion} for Ben")


@pytest.mark.parametrize(("slot", "reply"), [
    ("city", "I don't know, but you live in Paris."), ("name", "I don't know. Is it Anna?"), ("name", "You haven't told me, Will."),
    ("month", "I don't know. It is in May."),
])
def test_unknown_beside_a_value_of_what_is_asked_for_is_wrong(slot: str, reply: str) -> None:
    assert not curriculum.grade("conversation", {"kind": "unknown", "slot": slot}, reply)
