"""Short passages put together from slots, and questions whose answer is a word of the passage.

draw() gives passage, question, answer and the key of the instance (the values in it and what is asked).
"""

from __future__ import annotations

from random import Random

from data_prep.curriculum.names import NAMES
from data_prep.curriculum.wording import fill, pick, sample

# slot: its values, sentences that tell it ({p} person, {v} value), questions for it
SLOTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "city": (("Paris", "London", "Rome", "Berlin", "Oslo", "Vienna", "Tokyo", "Cairo", "Lima", "Dublin", "Athens", "Madrid"),
             ("{p} lives in {v}.", "{p} moved to {v} last year.", "The home of {p} is in {v}.", "{p} calls {v} home."),
             ("Where does {p} live?", "In which city does {p} live?", "What city is {p}'s home?", "Which city did the text give for {p}?")),
    "job": (("teacher", "doctor", "nurse", "farmer", "pilot", "baker", "painter", "singer", "driver", "writer", "cook", "lawyer"),
            ("{p} works as a {v}.", "{p} is a {v}.", "By trade {p} is a {v}.", "{p} became a {v}."),
            ("What is {p}'s job?", "What does {p} work as?", "What is the job of {p}?", "Which job does {p} have?")),
    "pet": (("cat", "dog", "rabbit", "parrot", "hamster", "turtle", "horse", "snake", "mouse", "goat"),
            ("{p} has a {v}.", "{p} owns a {v}.", "At home {p} keeps a {v}.", "{p} bought a {v}."),
            ("What animal does {p} have?", "Which pet does {p} own?", "What is {p}'s pet?", "What animal is kept by {p}?")),
    "color": (("red", "blue", "green", "yellow", "purple", "orange", "pink", "black", "white", "brown"),
              ("{p} likes the color {v}.", "{p} always wears {v}.", "The car of {p} is {v}.", "{p} painted the door {v}."),
              ("Which color goes with {p}?", "What color is named for {p}?", "Which color is {p}'s?", "Which color does the text give for {p}?")),
    "food": (("pizza", "pasta", "rice", "soup", "salad", "bread", "cheese", "cake", "curry", "noodles"),
             ("{p} loves to eat {v}.", "For dinner {p} had {v}.", "{p} cooks {v} on Sundays.", "{p} ordered {v}."),
             ("What does {p} eat?", "Which food is {p}'s?", "What food goes with {p}?", "Which dish does the text give for {p}?")),
    "sport": (("chess", "tennis", "football", "golf", "hockey", "darts", "rugby", "snooker", "polo", "cricket"),
              ("{p} plays {v}.", "In the evening {p} practices {v}.", "{p} won a cup in {v}.", "{p} is good at {v}."),
              ("What does {p} play?", "Which sport is {p}'s?", "What sport goes with {p}?", "In which sport is {p} good?")),
    "day": (("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
            ("{p} travels on {v}.", "{p} has time on {v}.", "On {v} {p} sees the dentist.", "{p} will come on {v}."),
            ("Which day is said of {p}?", "Which day goes with {p}?", "What day does the text give for {p}?", "Which day is {p}'s?")),
}


def draw(rng: Random, level: int) -> tuple[str, str, str, str]:
    """A passage of level + 1 sentences: at level 1 one person, later two, so that the right one must be found."""
    people = sample(rng, NAMES, 1 if level == 1 else 2)
    slots = sample(rng, tuple(SLOTS), 2 if level <= 2 else 3)
    told = [(people[0], slot, pick(rng, SLOTS[slot][0])) for slot in slots]
    if level >= 2:
        asked_slot = slots[0]
        others = [value for value in SLOTS[asked_slot][0] if value != told[0][2]]
        told.append((people[1], asked_slot, pick(rng, others)))
    for extra in slots[1:level - 2] if level > 3 else ():
        told.append((people[1], extra, pick(rng, [value for value in SLOTS[extra][0] if value not in {told_value for _, _, told_value in told}])))
    rng.shuffle(told)
    person, slot, value = pick(rng, [fact for fact in told if level == 1 or fact[1] == slots[0]])
    passage = " ".join(fill(rng, SLOTS[of][1], p=who, v=what) for who, of, what in told)
    key = f"passage {sorted(told)} ask {person} {slot}"
    return passage, fill(rng, SLOTS[slot][2], p=person), value, key
