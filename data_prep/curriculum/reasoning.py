"""Small puzzles with one right answer: rules, ordering, membership, family, boolean logic, calendar; the chain of used facts first.

Graded by exact match of what follows "####". The rule sets, orders and stories of the exam never occur in training; what
somebody of a kind is may end a longer chain there ("singer > friend").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from random import Random
from typing import Any

from data_prep.curriculum import reasoning_wording as say
from data_prep.curriculum.answer_match import LEAD_IN
from data_prep.curriculum.names import NAMES
from data_prep.curriculum.tasks import Curriculum, Item, Task
from data_prep.curriculum.wording import an, as_typed, capital, fill, pick, sample

_EDGES = " \t\n.!?,;:\"'*_`()"
_LEAD = re.compile(rf"{LEAD_IN}\W*")


def grade(facts: Mapping[str, Any], text: str) -> bool:
    """Whether what follows the last "####" is facts["answer"], case, outer marks and "The answer is" aside."""
    _, mark, final = text.rpartition("####")
    said = final.strip(_EDGES)
    lead = _LEAD.match(said)
    return bool(mark) and said[lead.end() if lead else 0:].lower() == str(facts["answer"]).lower()


def _item(prompt: str, steps: str, result: str, *, key: str, shown: Iterable[str] = ()) -> Item:
    return Item(prompt, f"{steps}\n#### {result}", key, {"answer": result}, shown=tuple(shown))


def _rules(rng: Random, level: int) -> Item:
    """A fact and a chain of rules; the question's property follows (yes), is denied (no) or is never reached (unknown).

    A chain has as many rules as the level says; from level 3 on a rule that doesn't apply stands among them. The rules are the instance, whatever is asked.
    """
    hops = min(level, 4)
    kinds = sample(rng, say.KINDS, hops + 1)
    while any(_within(kind, kinds[-1]) for kind in kinds[:-1]):
        kinds = sample(rng, say.KINDS, hops + 1)
    wanted, other = _compatible(rng)
    outcome = pick(rng, ("yes", "no", "unknown"))
    name = pick(rng, NAMES)
    chain = kinds[:hops]
    rules = [fill(rng, say.RULES, a=a, b=b, an_a=an(a), an_b=an(b)) for a, b in pairwise(chain)]
    reached = other if outcome == "unknown" else wanted
    rules.append(fill(rng, say.NOT_PROPERTY_RULES if outcome == "no" else say.PROPERTY_RULES, a=chain[-1], an_a=an(chain[-1]), p=reached))
    stray = ""
    if level >= 3:
        stray = f" {kinds[-1]}>{wanted}"
        rules.append(fill(rng, say.PROPERTY_RULES, a=kinds[-1], an_a=an(kinds[-1]), p=wanted))
    if level >= 2:
        rng.shuffle(rules)
    fact = fill(rng, say.IS_A, name=name, an_a=an(chain[0]))
    sentences = [fact, *map(capital, rules)] if rng.random() < 0.7 else [*map(capital, rules), fact]
    question = fill(rng, say.IS_IT, name=name, p=wanted)
    end = f"not {reached}" if outcome == "no" else reached
    return _item(as_typed(rng, f"{' '.join(sentences)} {question}"), " > ".join([name, *chain, end]), outcome, key=_rules_key(chain, end, stray),
                 shown=[*_on_the_way(chain), *(_rules_key(chain[start:], end) for start in range(1, hops))])


def _rules_key(chain: Sequence[str], end: str, stray: str = "") -> str:
    return f"rules {'>'.join(chain)}>{end}{stray} ask {end.removeprefix('not ')}"


def _on_the_way(chain: Sequence[str]) -> list[str]:
    """Keys of the shorter puzzles about somebody of a kind that a chain of kinds passes."""
    return [_individual_key(chain[:end], "yes", chain[end - 1]) for end in range(2, len(chain) + 1)]


def _individual_key(chain: Sequence[str], outcome: str, asked: str) -> str:
    return f"individual {'>'.join(chain)} {outcome} ask {asked}"


def _compatible(rng: Random) -> list[str]:
    """Two properties that may both be true of one."""
    found = sample(rng, say.PROPERTIES, 2)
    while any(set(found) <= set(group) for group in say.OPPOSED):
        found = sample(rng, say.PROPERTIES, 2)
    return found


def _within(kind: str, wider: str) -> bool:
    """Whether all of a kind are of the wider one by what the words mean, so that it needn't be told."""
    return kind in say.WITHIN.get(wider, ())


def _individual(rng: Random, level: int) -> Item:
    """Somebody is of a kind; all of a kind are of another, as many steps as the level says. Is that one of the last kind, or of one never reached?

    One never reached is asked for among people's roles alone, of which somebody may have any: no dog is a car, nor a cat.
    """
    hops = min(level, 3)
    outcome = pick(rng, ("yes", "yes", "no", "unknown"))
    kinds = say.ROLES if outcome == "unknown" or rng.random() < 0.5 else (*say.KINDS, *say.CLASSES)
    *chain, stray = sample(rng, kinds, hops + 2)
    while any(_within(kind, stray) for kind in chain):
        *chain, stray = sample(rng, kinds, hops + 2)
    name = pick(rng, NAMES)
    rules = [fill(rng, say.RULES, a=a, b=b, an_a=an(a), an_b=an(b)) for a, b in pairwise(chain)]
    asked = chain[-1]
    if outcome == "no":
        rules[-1] = fill(rng, say.QUANTIFIED["no"], a=chain[-2], b=chain[-1], an_b=an(chain[-1]))
    elif outcome == "unknown":
        asked = stray
    if level >= 2:
        rng.shuffle(rules)
    fact = fill(rng, say.IS_A, name=name, an_a=an(chain[0]))
    sentences = [fact, *map(capital, rules)] if rng.random() < 0.4 else [*map(capital, rules), fact]
    steps = " > ".join([name, *chain[:-1], f"not {chain[-1]}" if outcome == "no" else chain[-1]])
    prompt = as_typed(rng, f"{' '.join(sentences)} {fill(rng, say.IS_IT, name=name, p=an(asked))}")
    return _item(prompt, steps, outcome, key=_individual_key(chain, outcome, asked),
                 shown=_on_the_way(chain[:-1] if outcome == "no" else chain))


def _syllogism(rng: Random, level: int) -> Item:
    """Two sentences about all, no or some of three kinds; what follows for the first and the last of them."""
    first, middle, last = sample(rng, say.KINDS, 3)
    while _within(first, last) or _within(last, first):
        first, middle, last = sample(rng, say.KINDS, 3)
    quantities, result = pick(rng, tuple(say.SYLLOGISMS.items()))
    pairs = ((first, middle), (middle, last))
    premises = [fill(rng, say.QUANTIFIED[quantity], a=a, b=b, an_b=an(b)) for quantity, (a, b) in zip(quantities, pairs, strict=True)]
    if level >= 3 and rng.random() < 0.5:
        premises.reverse()
    asked = "some" if quantities[0] == "some" else "all"
    prompt = as_typed(rng, f"{' '.join(premises)} {fill(rng, say.SYLLOGISM_QUESTIONS[asked], a=first, b=last, an_a=an(first), an_b=an(last))}")
    return _item(prompt, f"{quantities[0]} {first} {middle}, {quantities[1]} {middle} {last}", result, key=f"syllogism {quantities} {first} {middle} {last}")


def _shared(rng: Random, level: int) -> Item:
    """The one thing that two lists have in common."""
    things = sample(rng, say.OBJECTS, min(level + 2, 7))
    both, rest = things[0], things[1:]
    first, second = [both, *rest[::2]], [both, *rest[1::2]]
    rng.shuffle(first)
    rng.shuffle(second)
    name, other = sample(rng, NAMES, 2)
    sentences = [fill(rng, say.OWNS, name=name, things=_list(first)), fill(rng, say.OWNS, name=other, things=_list(second))]
    prompt = as_typed(rng, f"{' '.join(sentences)} {fill(rng, say.WHAT_BOTH, name=name, other=other)}")
    return _item(prompt, f"{', '.join(first)}\n{', '.join(second)}", both, key=f"shared {both} {sorted((sorted(first), sorted(second)))}")


def _ordering(rng: Random, level: int) -> Item:
    """Who is tallest, oldest, ... of two (level 1), three, four: each sentence as a > b, then the whole order, then its end that is asked."""
    people = sample(rng, NAMES, min(level + 1, 5))
    more, less, most, least = pick(rng, say.SCALES)
    pairs = list(pairwise(people))
    rng.shuffle(pairs)
    sentences = [f"{high} is {more} than {low}." if rng.random() < 0.5 else f"{low} is {less} than {high}." for high, low in pairs]
    top = rng.random() < 0.5
    question = fill(rng, say.WHO_IS, most=(more if top else less) if len(people) == 2 else (most if top else least))
    prompt = as_typed(rng, f"{' '.join(sentences)} {question}")
    steps = [", ".join(f"{high} > {low}" for high, low in pairs), *([" > ".join(people)] if len(people) > 2 else [])]
    parts = (people[start:end] for start in range(len(people)) for end in range(start + 2, len(people) + 1))
    return _item(prompt, "\n".join(steps), people[0] if top else people[-1], key=_order_key(people), shown=map(_order_key, parts))


def _order_key(people: Sequence[str]) -> str:
    return f"order {'>'.join(people)}"


def _membership(rng: Random, level: int) -> Item:
    """Level 1: is a thing in a list. Level 2: which of two places has it. From level 3: after it was moved."""
    things = sample(rng, say.OBJECTS, 3 if level == 1 else 4)
    name, other = sample(rng, NAMES, 2)
    if level == 1:
        place = pick(rng, say.PLACES)
        asked = pick(rng, things) if rng.random() < 0.5 else pick(rng, [thing for thing in say.OBJECTS if thing not in things])
        prompt = f"{fill(rng, say.HOLDS, place=place, things=_list(things), name=name)} {fill(rng, say.IS_THERE, an_a=an(asked), place=place, name=name)}"
        return _item(as_typed(rng, prompt), f"{place}: {', '.join(things)}\n{asked}", "yes" if asked in things else "no",
                     key=f"member {','.join(sorted(things))} ask {asked}")
    places = sample(rng, say.PLACES, 3)
    where = {things[0]: places[0], things[1]: places[1]}
    sentences = [fill(rng, say.PUTS, name=name, thing=thing, place=place) for thing, place in where.items()]
    rng.shuffle(sentences)
    asked = pick(rng, list(where))
    steps = [f"{asked}: {where[asked]}"]
    if level >= 3:
        moved = pick(rng, list(where))
        sentences.append(fill(rng, say.MOVES, name=other, thing=moved, place=places[2]))
        where[moved] = places[2]
        if moved == asked:
            steps[0] += f" > {places[2]}"
    prompt = as_typed(rng, f"{' '.join(sentences)} {fill(rng, say.WHERE, thing=asked)}")
    return _item(prompt, steps[0], where[asked], key=f"where {' '.join(sorted(f'{thing}:{place}' for thing, place in where.items()))} {steps[0]}")


def _list(things: Sequence[str]) -> str:
    return f"{', '.join(an(thing) for thing in things[:-1])} and {an(things[-1])}"


def _family(rng: Random, level: int) -> Item:
    """Level 1: the other side of one relation. From level 2: two relations make a third."""
    people = sample(rng, NAMES, 3)
    if level == 1:
        parent = pick(rng, ("mother", "father", "parent", "teacher", "boss", "coach"))
        child = say.CONVERSE[parent]
        fact = fill(rng, say.RELATION, x=people[0], y=people[1], r=parent)
        up = rng.random() < 0.5
        question = fill(rng, say.WHO_RELATED, y=people[1] if up else people[0], r=parent if up else child)
        return _item(as_typed(rng, f"{fact} {question}"), f"{people[0]} {parent} {people[1]}", people[0] if up else people[1],
                     key=f"family {people[0]} {parent} {people[1]}")
    first, second, result = pick(rng, say.COMPOSED[:8] if level == 2 else say.COMPOSED)
    facts = [fill(rng, say.RELATION, x=people[0], y=people[1], r=first), fill(rng, say.RELATION, x=people[1], y=people[2], r=second)]
    if rng.random() < 0.3:
        facts.reverse()
    steps = f"{people[0]} {first} {people[1]} {second} {people[2]}"
    prompt = as_typed(rng, f"{' '.join(facts)} {fill(rng, say.HOW_RELATED, x=people[0], y=people[2])}")
    return _item(prompt, steps, result, key=f"family {steps}")


def _boolean(rng: Random, level: int) -> Item:
    """States of things and a claim about them joined by and/or, from level 3 on with three parts."""
    things = sample(rng, tuple(say.STATES), min(level, 3))
    states = [pick(rng, (0, 1)) for _ in things]
    claims = [pick(rng, (0, 1)) for _ in things]
    joints = [pick(rng, ("and", "or")) for _ in things[1:]][:1] * (len(things) - 1)
    facts = " ".join(fill(rng, say.STATED, thing=thing, state=say.STATES[thing][state]) for thing, state in zip(things, states, strict=True))
    parts = [f"the {thing} is {say.STATES[thing][claim]}" for thing, claim in zip(things, claims, strict=True)]
    claim = parts[0] + "".join(f" {joint} {part}" for joint, part in zip(joints, parts[1:], strict=True))
    truths = [state == claimed for state, claimed in zip(states, claims, strict=True)]
    value = all(truths) if not joints or joints[0] == "and" else any(truths)
    steps = "\n".join(f"{thing}: {say.STATES[thing][state]}, {say.STATES[thing][claimed]}, {'true' if state == claimed else 'false'}"
                      for thing, state, claimed in zip(things, states, claims, strict=True))
    if joints:
        steps += f"\n{f' {joints[0]} '.join('true' if truth else 'false' for truth in truths)}"
    prompt = as_typed(rng, f"{facts} {fill(rng, say.IS_TRUE, claim=claim)}")
    # Joined claims do hold held-out single ones: of 80 there are too few, "the shop is open" would be false in all of training.
    told = sorted(f"{thing}:{state}{claimed}" for thing, state, claimed in zip(things, states, claims, strict=True))
    return _item(prompt, steps, "yes" if value else "no", key=f"boolean {' '.join(told)} {joints[:1]}")


def _calendar(rng: Random, level: int) -> Item:
    """So many days (from level 2 on also months) before or after a given one, counted step by step."""
    names, unit, here = (say.DAYS, "day", say.TODAY) if level == 1 or rng.random() < 0.5 else (say.MONTHS, "month", say.THIS_MONTH)
    start, count = int(rng.random() * len(names)), rng.randint(1, 3 + 2 * level)
    forward = rng.random() < 0.7
    sign = 1 if forward else -1
    steps = [names[(start + sign * step) % len(names)] for step in range(1, count + 1)]
    units = unit if count == 1 else f"{unit}s"
    question = fill(rng, (say.AFTER if forward else say.BEFORE)[unit], n=count, units=units)
    prompt = as_typed(rng, f"{fill(rng, here, start=names[start])} {question}")
    counted = ", ".join(f"{number} {name}" for number, name in enumerate(steps, 1))
    # Longer counts show the held-out ones on their way: training would else stop before them, for most of 38 starts and directions after a few steps.
    return _item(prompt, f"{names[start]}: {counted}", steps[-1], key=f"calendar {names[start]} {sign * count}")


Maker = Callable[[Random, int], Item]
_ALL = {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}

CURRICULUM = Curriculum("reasoning", (
    Task("rules", dict.fromkeys(_ALL, 2.0), _rules),
    Task("individual", dict.fromkeys(_ALL, 1.0), _individual),
    Task("syllogism", {2: 0.7, 3: 0.7, 4: 1.0, 5: 1.0}, _syllogism),
    Task("shared", {2: 0.5, 3: 0.7, 4: 1.0, 5: 1.0}, _shared),
    Task("ordering", _ALL, _ordering),
    Task("membership", _ALL, _membership),
    Task("family", _ALL, _family),
    Task("boolean", _ALL, _boolean),
    Task("calendar", _ALL, _calendar),
), grade)
