"""Everyday talk: greetings, thanks, feelings, requests, facts to remember over turns, and polite refusal of the unknowable.

A reply is graded by its kind and by the fact it recalls, not word by word. Turns before the last question are role-tagged lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from data_prep.curriculum import conversation_wording as say
from data_prep.curriculum.names import NAMES
from data_prep.curriculum.tasks import Curriculum, Item, Task
from data_prep.curriculum.wording import as_typed, fill, pick, sample
from data_prep.records import Message, join_turns

MAX_REPLY_CHARS = 240
SHORT_REMARK_WORDS = 3  # "Good night!" may be said back, a longer remark is no answer to itself
_OWN = rf"my (?:\w+ )?(?:{'|'.join(sorted({slot.noun.split()[-1] for slot in say.SLOTS.values()} | {'home', 'work', 'animal', 'dish'}))})"
_OF_THE_SPEAKER = re.compile(rf"\b{_OWN} is (?!not |un)")  # a reply to a question about the user
# How a reply names a wanted value and answers wrong all the same: denied, with another beside it, of the speaker.
_OTHERWISE = (
    r"(\bnot|\bnever|n't)(?! forg[eo]t)( \w+){0,3} VALUE\b",
    r"\bVALUE (?:and|or) (?:(?:an?|in|the) )?(?!(?:that|you|me|more|so|yes|no|it|nothing|only|all|always)\b)\w+[.!?]*$",
    r"\bVALUE, (?:and|or) an? \w+[.!?]*$",
    r"\b(?:an? \w+|(?:is|in|as|are) \w+) (?:and|or) (?:an? |in )?VALUE\b",
    rf"\b{_OWN} (?:is|was) (?:an? |in )?VALUE\b", rf"\bVALUE is {_OWN}\b",
    r"^(?!.*\byou)(?:.*\b)?(?:i am|i'm|i live in|i have|i own|i work as|i like|i love|i enjoy|i was born in)(?: an?)? VALUE\b",
)
_STAMMER = re.compile(r"(\b\w+\b)(?:\W+\1\b){3}")


def grade(facts: Mapping[str, Any], text: str) -> bool:
    """Whether a reply is of the wanted kind, holds one of the wanted facts and none of the wrong ones, is short and doesn't stammer.

    Facts: kind; exactly: what it must be, case and marks aside; one_of: it holds one of these and no other; any_of, none_of; slot: what is
    asked for, of which it names no value but those of any_of, and them as the user's own and without "I don't know"; said: what the user said, which is
    no answer word for word.
    """
    typed = " ".join(text.replace("\u2019", "'").split())
    reply = typed.lower()
    if not reply or len(reply) > MAX_REPLY_CHARS or _STAMMER.search(reply):
        return False
    wanted, wrong = facts.get("any_of", ()), (*facts.get("none_of", ()), *facts.get("said", ()))
    return (_is_kind(reply, facts["kind"])
            and ("exactly" not in facts or _plain(reply) == _plain(facts["exactly"]))
            and ("one_of" not in facts or sum(_says(reply, fact) for fact in facts["one_of"]) == 1)
            and (not wanted or any(_says(reply, fact) for fact in wanted))
            and (facts.get("slot") is None or (_keeps_to(typed, facts["slot"], wanted) and not (wanted and _is_unsure(reply))))
            and not (facts["kind"] == "unknown" and _OF_THE_SPEAKER.search(reply))
            and not any(_says(reply, fact) for fact in wrong))


def _is_kind(reply: str, kind: str) -> bool:
    """Whether a reply is of a kind, and of at most one more that contradicts: one that says something of everything answers nothing.

    A greeting contradicts nothing; what a line for somebody says ("thank you", "welcome") stands in other replies too.
    """
    if kind == "any":
        return True
    known = say.KIND_PATTERNS if kind in say.KIND_PATTERNS else {**say.KIND_PATTERNS, **say.LINE_PATTERNS}
    kinds = {name for name, pattern in known.items() if re.search(pattern, reply)}
    return (kind in kinds or re.search(say.MORE_FORMS.get(kind, "(?!)"), reply) is not None) and len(kinds - {kind, "greeting"}) <= 1


def _is_unsure(reply: str) -> bool:
    return any(re.search(patterns["unknown"], reply) for patterns in (say.KIND_PATTERNS, say.MORE_FORMS))


def _keeps_to(typed: str, slot: str, wanted: Sequence[str]) -> bool:
    """Whether a reply names no value of a slot but the wanted ones, nor something else beside them ("a cat and a lizard"), doesn't deny those and doesn't
    call them the speaker's ("My name is Anna")."""
    named = set(_plain(re.sub(say.NO_VALUES, " ", typed)).split())
    if any(value.lower() in named for value in say.SLOTS[slot].values if value not in wanted):
        return False
    reply = typed.lower()
    return not any(re.search(pattern.replace("VALUE", re.escape(value.lower())), reply) for value in wanted for pattern in _OTHERWISE)


def _says(reply: str, fact: str) -> bool:
    return f" {_plain(fact)} " in f" {_plain(reply)} "


def _small_talk(kind: str) -> Callable[[Random, int], Item]:
    """A remark of one kind put together from an opening and a tail; the pair is the instance."""
    def make(rng: Random, _level: int) -> Item:
        remark = _remark(rng, kind)
        prompt, said = as_typed(rng, remark), _plain(remark)
        facts = {"kind": kind} | ({"said": [said]} if len(said.split()) > SHORT_REMARK_WORDS else {})
        return Item(prompt, pick(rng, say.REPLIES[kind]), f"{kind} {said}", facts)
    return make


def _remark(rng: Random, kind: str) -> str:
    opening, tail = pick(rng, say.REMARKS[kind][0]), pick(rng, say.REMARKS[kind][1])
    return f"{opening}{tail}"


def _plain(text: str) -> str:
    """Text without case and marks, so that "Bye!" and "bye." are one instance."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _introduction(rng: Random, _level: int) -> Item:
    name, form = pick(rng, say.CALLED), int(rng.random() * len(say.INTRODUCTIONS))
    opening = pick(rng, say.REMARKS["greeting"][0])
    said = say.INTRODUCTIONS[form].format(hello=opening, name=name)
    return Item(as_typed(rng, said), fill(rng, say.MEETINGS, name=name), f"introduction {name} {form}",
                {"kind": "greeting", "any_of": [name], "said": [said]})


def _echo(rng: Random, level: int) -> Item:
    words = sample(rng, say.WORDS, min(level + 1, 5))
    phrase = " ".join(words)
    return Item(as_typed(rng, fill(rng, say.ECHOES, phrase=phrase)), phrase, f"echo {phrase}", {"kind": "any", "exactly": phrase})


def _counting(rng: Random, level: int) -> Item:
    start, length = rng.randint(1, 30 * level), rng.randint(2, 4 + level)
    counted = ", ".join(str(number) for number in range(start, start + length + 1))
    return Item(as_typed(rng, fill(rng, say.COUNTS, a=start, b=start + length)), counted, f"count {start} {start + length}",
                {"kind": "any", "exactly": counted})


def _choice(rng: Random, _level: int) -> Item:
    first, second = sample(rng, pick(rng, say.CHOICES), 2)
    chosen = pick(rng, (first, second))
    return Item(as_typed(rng, fill(rng, say.EITHER, a=first, b=second)), fill(rng, say.CHOSEN, a=chosen),
                f"choice {' '.join(sorted((first, second)))}", {"kind": "any", "one_of": [first, second]})


def _recall(rng: Random, level: int) -> Item:
    """A fact told earlier is asked for. Level 1: in the same turn; 2: one turn on, with a second fact; from 3 on more turns, and changed facts.

    The instance is what was told and, of a fact told alone, how it is asked for. More than that shows the fact alone, and the remarks between.
    """
    slot, other = sample(rng, tuple(say.SLOTS), 2)
    value, decoy = pick(rng, say.SLOTS[slot].values), pick(rng, say.SLOTS[other].values)
    told, question = fill(rng, say.SLOTS[slot].tell, v=value), fill(rng, say.SLOTS[slot].ask)
    reply = say.SLOTS[slot].reply.format(v=value)
    key = f"recall {slot} {value}"
    alone = f"{key} {say.SLOTS[slot].ask.index(question)}"
    facts: dict[str, Any] = {"kind": "any", "slot": slot, "any_of": [value], "said": [told, question]}
    shown: list[str] = []
    if level == 1:
        return Item(f"{told} {question}", reply, alone, facts)
    turns = [(told, _acknowledge(rng, slot, value)), (fill(rng, say.SLOTS[other].tell, v=decoy), _acknowledge(rng, other, decoy))]
    if rng.random() < 0.5:
        turns.reverse()
    if level == 2 and rng.random() < 0.4:
        turns, key = [turn for turn in turns if turn[0] == told], alone
    else:
        key += f" beside {other} {decoy}"
        facts["none_of"] = [decoy]
        shown.append(alone)
    if level >= 3:
        if rng.random() < 0.25:
            old = pick(rng, [old for old in say.SLOTS[slot].values if old != value])
            turns.insert(0, (fill(rng, say.SLOTS[slot].tell, v=old), _acknowledge(rng, slot, old)))
            turns = [(fill(rng, say.CHANGES) + text if text == told else text, answer) for text, answer in turns]
            facts["none_of"] = [*facts["none_of"], old]
            key += f" was {old}"
        for _ in range(rng.randint(1, level - 1)):
            kind = pick(rng, ("thanks", "mood", "ability"))
            remark = _remark(rng, kind)
            turns.insert(rng.randint(1, len(turns)), (remark, pick(rng, say.REPLIES[kind])))
            shown.append(f"{kind} {_plain(remark)}")
    return Item(_dialogue(turns, question), reply, key, facts, shown=tuple(shown))


def _not_told(rng: Random, level: int) -> Item:
    """A fact that was never told is asked for while others were told."""
    slot, *others = sample(rng, tuple(say.SLOTS), min(level, 4))
    turns, told = [], []
    for other in others:
        value = pick(rng, say.SLOTS[other].values)
        turns.append((fill(rng, say.SLOTS[other].tell, v=value), _acknowledge(rng, other, value)))
        told.append(f"{other} {value}")
    question = pick(rng, say.SLOTS[slot].ask)
    return Item(_dialogue(turns, question), fill(rng, say.UNTOLD, slot=say.SLOTS[slot].noun),
                f"untold {slot} {sorted(told)}", {"kind": "unknown", "slot": slot})


def _acknowledge(rng: Random, slot: str, value: str) -> str:
    return fill(rng, say.ACKNOWLEDGEMENTS, v=value, noun=say.SLOTS[slot].noun)


def _dialogue(turns: list[tuple[str, str]], question: str) -> str:
    messages: list[Message] = []
    for text, answer in turns:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return join_turns([*messages, {"role": "user", "content": question}])


def _unknowable(rng: Random, _level: int) -> Item:
    opening, topic = pick(rng, say.UNKNOWABLE[0]), pick(rng, say.UNKNOWABLE[1])
    while opening.startswith(("What is ", "Name ")) and topic.startswith(("what ", "who ", "where ", "how ")):  # "What is who called me?"
        topic = pick(rng, say.UNKNOWABLE[1])
    return Item(as_typed(rng, opening.format(topic=topic)), pick(rng, say.REPLIES["unknown"]), f"unknowable {opening}|{topic}", {"kind": "unknown"})


def _greet_person(rng: Random, _level: int) -> Item:
    """A request to write a line for somebody: the name and the kind must be there."""
    name, (occasion, line, pattern) = pick(rng, NAMES), pick(rng, say.OCCASIONS)
    said = fill(rng, say.LINE_REQUESTS, name=name, occasion=occasion)
    return Item(as_typed(rng, said), line.format(name=name), f"line {name} {occasion}", {"kind": pattern, "any_of": [name], "said": [said]})


CURRICULUM = Curriculum("conversation", (
    *(Task(kind, {1: 1.0, 2: 0.4, 3: 0.2, 4: 0.2, 5: 0.2}, _small_talk(kind)) for kind in ("greeting", "thanks", "farewell", "mood")),
    *(Task(kind, {2: 1.0, 3: 0.5, 4: 0.3, 5: 0.3}, _small_talk(kind)) for kind in ("sympathy", "joy", "ability", "apology", "joke")),
    Task("introduction", {1: 1.0, 2: 0.5}, _introduction),
    Task("echo", {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}, _echo),
    Task("counting", {2: 0.6, 3: 0.6, 4: 0.6}, _counting),
    Task("choice", {2: 1.0, 3: 0.6}, _choice),
    Task("recall", {1: 2.0, 2: 3.0, 3: 4.0, 4: 4.0, 5: 4.0}, _recall),
    Task("not_told", {2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}, _not_told),
    Task("unknowable", {1: 1.0, 2: 1.0, 3: 1.0}, _unknowable),
    Task("line_for", {2: 0.6, 3: 1.0, 4: 1.0}, _greet_person),
), grade)
