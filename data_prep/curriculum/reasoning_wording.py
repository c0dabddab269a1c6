"""Words and sentences of the reasoning puzzles.

Text only; which of them form a puzzle, and its answer, comes from reasoning.py.
"""

from __future__ import annotations

KINDS = ("cat", "dog", "bird", "poet", "horse", "robot", "baker", "singer", "farmer", "pilot", "artist", "doctor", "dancer", "sailor", "writer", "nurse",
         "painter", "teacher", "lion", "lizard", "bear", "owl", "tiger", "frog")
CLASSES = ("animal", "student", "mammal", "player", "parent", "friend", "creature", "worker", "person", "pet", "plant", "rose", "car", "machine",
           "insect", "ant")
PROPERTIES = ("red", "kind", "happy", "loud", "quiet", "brave", "tall", "small", "smart", "green", "cold", "warm", "fast", "slow", "funny", "shy", "rich",
              "strong", "calm", "proud", "old", "young", "blue", "polite")
# words of which at most one is true of somebody, and kinds that lie in another by what the words mean: what isn't told of them isn't unknown
OPPOSED = (("loud", "quiet"), ("fast", "slow"), ("old", "young"), ("cold", "warm"), ("tall", "small"), ("red", "green", "blue"))
_BEASTS = ("cat", "dog", "bird", "horse", "lion", "lizard", "bear", "owl", "tiger", "frog", "mammal", "pet", "insect", "ant")
ROLES = ("poet", "baker", "singer", "farmer", "pilot", "artist", "doctor", "dancer", "sailor", "writer", "nurse", "painter", "teacher", "student", "player",
         "parent", "friend", "worker")
WITHIN = {"animal": _BEASTS, "creature": (*_BEASTS, "animal"), "mammal": ("cat", "dog", "horse", "lion", "bear", "tiger"), "bird": ("owl",),
          "insect": ("ant",), "pet": ("cat", "dog"), "plant": ("rose",), "machine": ("car", "robot"), "person": ROLES, "worker": ROLES[:13],
          "writer": ("poet",), "artist": ("poet", "singer", "dancer", "writer", "painter"), "cat": ("lion", "tiger")}
RULES = ("Every {a} is {an_b}.", "All {a}s are {b}s.", "If something is {an_a}, it is {an_b}.", "Each {a} is {an_b}.", "{a}s are {b}s.", "Any {a} is {an_b}.",
         "Whoever is {an_a} is {an_b}.", "If someone is {an_a} then they are {an_b}.")
PROPERTY_RULES = ("Every {a} is {p}.", "All {a}s are {p}.", "If something is {an_a}, it is {p}.", "Each {a} is {p}.", "{a}s are {p}.", "Any {a} is {p}.",
                  "Whoever is {an_a} is {p}.",
                  "If someone is {an_a} then they are {p}.")
NOT_PROPERTY_RULES = ("No {a} is {p}.", "No {a}s are {p}.", "If something is {an_a}, it is not {p}.", "{a}s are not {p}.", "{a}s are never {p}.",
                      "Whoever is {an_a} is not {p}.",
                      "Each {a} is not {p}.", "If someone is {an_a} then they are not {p}.")
IS_A = ("{name} is {an_a}.", "{name} is {an_a}.", "We know that {name} is {an_a}.", "Suppose {name} is {an_a}.", "Take {name}: {an_a}.")
IS_IT = ("Is {name} {p}?", "Is {name} {p}? Answer yes, no or unknown.", "Is {name} {p} or not?", "From this, is {name} {p}?",
         "Would you say {name} is {p}?",
         "{name} is {p}, right?", "Is it true that {name} is {p}?", "So is {name} {p}?", "Tell me: is {name} {p}?", "Tell me if {name} is {p}.")

QUANTIFIED = {"all": ("All {a}s are {b}s.", "Every {a} is {an_b}.", "Each {a} is {an_b}."),
              "no": ("No {a}s are {b}s.", "No {a} is {an_b}.", "There is no {a} that is {an_b}."),
              "some": ("Some {a}s are {b}s.", "At least one {a} is {an_b}.", "There are {a}s that are {b}s.")}
SYLLOGISMS = {("all", "all"): "yes", ("all", "no"): "no", ("all", "some"): "unknown", ("some", "all"): "yes", ("no", "all"): "unknown",
              ("some", "some"): "unknown"}
SYLLOGISM_QUESTIONS = {
    "all": ("Are all {a}s {b}s?", "Is every {a} {an_b}?", "From this, are all {a}s {b}s?", "Is each {a} {an_b}?",
            "So is every {a} {an_b}?",
            "Is {an_a} always {an_b}?"),
    "some": ("Are some {a}s {b}s?", "Is at least one {a} {an_b}?", "From this, are some {a}s {b}s?", "Are there {a}s that are {b}s?",
             "So is there {an_a} that is {an_b}?", "Are any {a}s {b}s?"),
}

SCALES = (("taller", "shorter", "tallest", "shortest"), ("older", "younger", "oldest", "youngest"), ("faster", "slower", "fastest", "slowest"),
          ("richer", "poorer", "richest", "poorest"), ("stronger", "weaker", "strongest", "weakest"), ("louder", "quieter", "loudest", "quietest"))
WHO_IS = ("Who is {most}?", "Who is the {most}?", "So who is the {most}?", "Which of them is {most}?", "Which one is the {most}?",
          "Tell me who is the {most}.", "Name the {most} one.",
          "Who would be the {most}?", "Find the {most}.", "Can you say who is {most}?")

OBJECTS = ("cup", "pen", "key", "book", "ball", "coin", "ring", "card", "hat", "shoe", "spoon", "lamp", "phone", "apple", "knife", "clock", "toy", "map",
           "bell", "rope",
           "stone", "brush", "plate", "scarf", "watch", "candle", "ticket", "bottle", "glove", "pencil")
PLACES = ("box", "bag", "drawer", "basket", "cupboard", "car", "kitchen", "garden", "desk", "shed", "trunk", "closet")
HOLDS = ("The {place} holds {things}.", "In the {place} there are {things}.", "{name} put {things} in the {place}.", "The {place} contains {things}.",
         "There is {things} in the {place}.",
         "Inside the {place}: {things}.", "{name} keeps {things} in the {place}.", "My {place} has {things}.")
IS_THERE = ("Is there {an_a} in the {place}?", "Does the {place} hold {an_a}?", "Is {an_a} in the {place}?", "Would I find {an_a} in the {place}?",
            "Does the {place} contain {an_a}?",
            "Can you find {an_a} there?", "Is {an_a} among them?", "Do we have {an_a} in the {place}?")
OWNS = ("{name} has {things}.", "{name} owns {things}.", "{name} bought {things}.", "{name} brings {things}.", "{name} has got {things}.",
        "In {name}'s bag: {things}.")
WHAT_BOTH = ("What do both have?", "Which thing do {name} and {other} share?", "What do {name} and {other} have in common?", "Which one is in both lists?",
             "Name the thing that both have.",
             "Which thing belongs to {name} and to {other}?", "Which thing do they both have?", "Tell me what both of them have.")
PUTS = ("{name} puts the {thing} in the {place}.", "The {thing} is in the {place}.", "{name} left the {thing} in the {place}.",
        "{name} keeps the {thing} in the {place}.",
        "You will find the {thing} in the {place}.", "I saw the {thing} in the {place}.")
MOVES = ("Then {name} moves the {thing} to the {place}.", "Later {name} takes the {thing} to the {place}.",
         "After that {name} puts the {thing} in the {place}.",
         "Now {name} brings the {thing} to the {place}.", "{name} then carries the {thing} to the {place}.")
WHERE = ("Where is the {thing}?", "Where is the {thing} now?", "In which place is the {thing}?", "Where can I find the {thing}?",
         "Where should I look for the {thing}?", "Tell me where the {thing} is.",
         "Do you know where the {thing} is?", "What place has the {thing}?")

CONVERSE = {"mother": "child", "father": "child", "parent": "child", "teacher": "student", "boss": "worker", "coach": "player"}
COMPOSED = (("mother", "mother", "grandmother"), ("mother", "father", "grandmother"), ("father", "mother", "grandfather"),
            ("father", "father", "grandfather"),
            ("sister", "mother", "aunt"), ("sister", "father", "aunt"), ("brother", "mother", "uncle"), ("brother", "father", "uncle"),
            ("son", "son", "grandson"), ("son", "daughter", "grandson"), ("daughter", "son", "granddaughter"), ("daughter", "daughter", "granddaughter"),
            ("mother", "brother", "mother"), ("father", "sister", "father"), ("son", "brother", "nephew"), ("daughter", "sister", "niece"))
RELATION = ("{x} is the {r} of {y}.", "{x} is {y}'s {r}.", "{y} has a {r} called {x}.", "{y}'s {r} is {x}.", "The {r} of {y} is {x}.")
WHO_RELATED = ("Who is the {r} of {y}?", "Who is {y}'s {r}?", "Name {y}'s {r}.", "What is the name of {y}'s {r}?", "Tell me who {y}'s {r} is.",
               "Who could be the {r} of {y}?")
HOW_RELATED = ("How is {x} related to {y}?", "What is {x} to {y}?", "What relation is {x} to {y}?", "{x} is {y}'s what?", "So what is {x} to {y}?",
               "What does {y} call {x} in the family?",
               "In the family, what is {x} to {y}?", "Which relative of {y} is {x}?")

STATES = {
    "lamp": ("on", "off"), "radio": ("on", "off"), "fan": ("on", "off"), "screen": ("on", "off"), "door": ("open", "closed"), "window": ("open", "closed"),
    "shop": ("open", "closed"), "gate": ("open", "closed"), "cup": ("full", "empty"), "box": ("full", "empty"), "bag": ("new", "old"), "soup": ("hot", "cold"),
    "oven": ("hot", "cold"), "floor": ("wet", "dry"), "street": ("wet", "dry"), "light": ("red", "green"), "shirt": ("clean", "dirty"),
    "car": ("clean", "dirty"), "baby": ("awake", "asleep"), "cat": ("awake", "asleep"),
}
IS_TRUE = ("Is it true that {claim}?", "Is it so that {claim}?", "Can I say that {claim}?", "Is this right: {claim}?", "Does it hold that {claim}?",
           "Would it be right to say {claim}?", "Is it right that {claim}?",
           "Is the claim true that {claim}?", "So {claim}, right?", "Somebody says that {claim}. Is that so?", "Tell me whether {claim}.",
           "Would you agree that {claim}?", "Yes or no: {claim}?", "Am I right that {claim}?", "Is it the case that {claim}?",
           "Do these facts say that {claim}?")
STATED = ("The {thing} is {state}.", "The {thing} is {state} now.", "I see that the {thing} is {state}.", "We know the {thing} is {state}.")

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")
TODAY = ("Today is {start}.", "It is {start} today.", "It's {start}.", "If today is {start}:", "Say today is {start}.", "Suppose it is {start}.")
THIS_MONTH = ("It is {start}.", "We are in {start}.", "This month is {start}.", "If it is {start} now:", "Say it is {start}.", "The month is {start}.")
AFTER = {"day": ("What day is it in {n} {units}?", "What day will it be {n} {units} from now?", "Which day comes {n} {units} later?",
                 "What day of the week is it after {n} {units}?", "{n} {units} later, what day is it?",
                 "Which weekday is it in {n} {units}?"),
         "month": ("What month is it in {n} {units}?", "Which month comes {n} {units} later?", "What month will it be after {n} {units}?",
                   "{n} {units} later, what month is it?", "Which month will it be {n} {units} from now?")}
BEFORE = {"day": ("What day was it {n} {units} ago?", "Which day was {n} {units} before?", "What day of the week was it {n} {units} earlier?",
                  "{n} {units} ago, what day was it?"),
          "month": ("What month was it {n} {units} ago?", "Which month was {n} {units} before?", "{n} {units} ago, what month was it?",
                    "What month was it {n} {units} earlier?")}
