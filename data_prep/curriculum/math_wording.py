"""How the arithmetic tasks are asked: bare, in words, as stories. Places: a, b (numbers), name, other, things.

Text only; the numbers and the steps come from math.py.
"""

from __future__ import annotations

_BARE = ("{a} {s} {b}", "{a} {s} {b} =", "{a}{s}{b}", "{a}{s}{b}=?", "What is {a} {s} {b}?", "what's {a} {s} {b}", "Calculate {a} {s} {b}.",
         "Compute {a} {s} {b}.",
         "Work out {a} {s} {b}.", "{a} {s} {b} = ?", "How much is {a} {s} {b}?", "Can you tell me what {a} {s} {b} is?", "Please solve {a} {s} {b}.",
         "Find {a} {s} {b}.", "Evaluate {a} {s} {b}.", "I need {a} {s} {b}.", "Tell me {a} {s} {b}.", "what does {a} {s} {b} come to?", "Solve: {a} {s} {b}",
         "Give me the result of {a} {s} {b}.")


def _bare(sign: str) -> tuple[str, ...]:
    """A word stands apart from its numbers, which a sign needn't."""
    return tuple((text if len(sign) == 1 else text.replace("{a}{s}{b}", "{a} {s} {b}")).replace("{s}", sign) for text in _BARE)


ASK = {
    "+": (*_bare("+"), *_bare("plus"), "Add {a} and {b}.", "What is the sum of {a} and {b}?", "Sum {a} and {b}", "What do you get if you add {a} and {b}?",
          "{a} and {b} together make how much?", "Find the total of {a} and {b}.", "Add {a} to {b}.", "Put {a} and {b} together.",
          "What is the total of {a} and {b}?"),
    "-": (*_bare("-"), *_bare("minus"), "Subtract {b} from {a}.", "What is the difference between {a} and {b}?", "Take {b} away from {a}.",
          "What is left if you take {b} from {a}?", "How much more is {a} than {b}?", "{a} take away {b}", "What do you get when you subtract {b} from {a}?",
          "How far is it from {b} to {a}?", "Find the difference of {a} and {b}."),
    "*": (*_bare("*"), *_bare("times"), *_bare("x"), "Multiply {a} by {b}.", "What is the product of {a} and {b}?", "Multiply {a} and {b}.",
          "What is {b} times {a}?",
          "Find the product of {a} and {b}.", "What do you get if you multiply {a} by {b}?"),
    "/": (*_bare("/"), *_bare("divided by"), "Divide {a} by {b}.", "How many times does {b} go into {a}?", "What is the quotient of {a} and {b}?",
          "Split {a} into {b} equal parts.",
          "What do you get if you divide {a} by {b}?", "Share {a} equally among {b}."),
}

COMPARE = {
    "larger": ("Which is larger, {a} or {b}?", "Which number is bigger: {a} or {b}?", "What is the larger of {a} and {b}?", "{a} or {b}: which is greater?",
               "Pick the bigger number: {a}, {b}",
               "Which one is more, {a} or {b}?", "Is {a} or {b} the larger number?", "Give the greater of {a} and {b}.",
               "What is the maximum of {a} and {b}?",
               "Of {a} and {b}, which is higher?", "max of {a} and {b}", "Tell me which is bigger, {a} or {b}."),
    "smaller": ("Which is smaller, {a} or {b}?", "Which number is less: {a} or {b}?", "What is the smaller of {a} and {b}?", "{a} or {b}: which is lower?",
                "Pick the smaller number: {a}, {b}",
                "Which one is less, {a} or {b}?", "Is {a} or {b} the smaller number?", "Give the lesser of {a} and {b}.",
                "What is the minimum of {a} and {b}?",
                "Of {a} and {b}, which is lower?", "min of {a} and {b}", "Tell me which is smaller, {a} or {b}."),
}

STORIES = {
    "+": ("{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
          "{name} has {a} {things}. {other} has {b} {things}. How many {things} do they have together?",
          "There are {a} {things} in a box. {name} puts in {b} more. How many {things} are in the box?",
          "{name} found {a} {things} on Monday and {b} on Tuesday. How many {things} in all?",
          "{name} bought {a} {things} and then {b} more. How many is that in total?",
          "A shop sold {a} {things} in the morning and {b} in the afternoon. How many {things} did it sell?",
          "{name} had {a} {things}. {other} gave {name} {b} {things}. How many {things} does {name} have?",
          "If I have {a} {things} and buy {b}, how many {things} do I own?",
          "{name} counted {a} {things} at home and {b} at school. What is the total?",
          "One shelf holds {a} {things}, another holds {b}. How many {things} are there altogether?",
          "{name} won {a} {things} and {other} won {b}. How many did they win together?",
          "My sister has {a} {things} and my brother has {b}. How many {things} do they have?"),
    "-": ("{name} has {a} {things} and gives away {b}. How many {things} are left?",
          "{name} had {a} {things}. {name} lost {b} of them. How many {things} does {name} have now?",
          "There were {a} {things} in a box. {name} took {b}. How many {things} remain?",
          "{name} has {a} {things}. {other} has {b} fewer. How many {things} does {other} have?",
          "A shop had {a} {things} and sold {b}. How many {things} are left in the shop?",
          "{name} needs {a} {things} and has {b}. How many more does {name} need?",
          "If I have {a} {things} and give {b} to {other}, how many do I keep?",
          "{name} has {a} {things} and {other} has {b}. How many more does {name} have?",
          "{a} {things} were on the table. {b} fell off. How many stayed on the table?",
          "{name} baked for {a} guests but {b} did not come. How many guests came?",
          "Out of {a} {things}, {b} are broken. How many are fine?",
          "{name} read {b} of {a} pages. How many pages are left?"),
    "*": ("{name} has {b} boxes with {a} {things} each. How many {things} are there?",
          "There are {a} {things} in each bag. How many {things} are in {b} bags?",
          "{name} buys {a} {things} for {b} dollars each. How much does {name} pay?",
          "A train has {b} cars with {a} seats each. How many seats is that?",
          "{name} reads {a} pages a day. How many pages in {b} days?",
          "Each of {b} children has {a} {things}. How many {things} in total?",
          "{name} runs {a} minutes every day. How many minutes in {b} days?",
          "One ticket costs {a} dollars. What do {b} tickets cost?",
          "{b} rows of {a} {things}: how many {things}?",
          "{name} saves {a} coins a week. How many coins after {b} weeks?"),
    "/": ("{name} shares {a} {things} equally among {b} friends. How many does each friend get?",
          "{a} {things} are packed into {b} equal boxes. How many {things} are in each box?",
          "{name} has {a} {things} and puts {b} in each bag. How many bags are full?",
          "{b} children split {a} {things} evenly. How many does each one get?",
          "A ribbon of {a} cm is cut into {b} equal pieces. How long is each piece?",
          "{name} has {a} pages to read in {b} days. How many pages a day?",
          "{b} tickets cost {a} dollars. What does one ticket cost?",
          "There are {a} {things} in {b} equal rows. How many are in a row?",
          "If {a} {things} are divided among {b} people, how many does each person get?",
          "{name} pays {a} dollars for {b} {things}. What is the price of one?"),
}

STEP_STORIES = {
    "++": ("{name} has {a} {things}, buys {b} and gets {c} from {other}. How many {things} does {name} have now?",
           "{name} picked {a} {things}, then {b}, then {c}. How many in all?",
           "There are {a} red, {b} blue and {c} green {things}. How many {things} are there?",
           "A bus has {a} people. At one stop {b} get on, at the next {c} more. How many people are on the bus?"),
    "+-": ("{name} has {a} {things}, gets {b} more and gives {c} to {other}. How many {things} are left?",
           "{name} had {a} {things}. {name} bought {b} and lost {c}. How many now?",
           "A bus has {a} people. {b} get on and {c} get off. How many people are on the bus?",
           "There were {a} {things} in a box. {name} put in {b} and took out {c}. How many are in the box?"),
    "-+": ("{name} has {a} {things}, gives {b} to {other} and then finds {c}. How many {things} does {name} have?",
           "A bus has {a} people. {b} get off and {c} get on. How many people are on the bus?",
           "{name} had {a} {things}, lost {b} and bought {c}. How many now?",
           "There were {a} {things} in a box. {name} took out {b} and put in {c}. How many are in the box?"),
    "--": ("{name} has {a} {things}, gives {b} to {other} and loses {c}. How many {things} are left?",
           "A shop has {a} {things}. It sells {b} in the morning and {c} at noon. How many are left?",
           "{name} had {a} coins and spent {b}, then {c}. How many coins remain?",
           "There were {a} {things}. {name} took {b} and {other} took {c}. How many remain?"),
    "+*": ("{name} adds {b} {things} to the {a} in a box. How many {things} are in {c} such boxes?",
           "A box holds {a} red and {b} blue {things}. How many {things} are in {c} boxes?",
           "Every day {name} earns {a} dollars and a tip of {b} dollars. How much in {c} days?",
           "A ticket costs {a} dollars plus {b} dollars for a snack. What do {c} friends pay?"),
    "-*": ("{name} takes {b} {things} out of a box of {a}. How many are in {c} such boxes?",
           "A ticket of {a} dollars is {b} dollars cheaper today. What do {c} tickets cost?",
           "Every day {name} earns {a} dollars and spends {b}. How much is saved in {c} days?",
           "Each of {c} bags had {a} {things}, and {b} fell out of each. How many {things} are left?"),
    "+-+": ("{name} has {a} {things}, gets {b}, gives {c} to {other} and finds {d}. How many {things} does {name} have?",
            "A bus has {a} people. {b} get on, {c} get off, then {d} get on. How many people are on the bus?",
            "There were {a} {things} in a box. {name} put in {b}, took out {c} and put in {d}. How many are in the box?"),
    "--+": ("{name} had {a} {things}, lost {b}, gave {c} to {other} and bought {d}. How many {things} does {name} have?",
            "A shop has {a} {things}. It sells {b}, then {c}, and gets {d} new ones. How many {things} are in the shop?"),
    "+-*": ("{name} packs {a} red and {b} blue {things} in a box and takes {c} out. How many {things} are in {d} such boxes?",
            "Every day {name} earns {a} dollars and a tip of {b} dollars, and spends {c}. How much is left after {d} days?"),
}

EQUATIONS = ("Solve for {x}: {equation}", "{equation}. What is {x}?", "Find {x} if {equation}.", "If {equation}, what is {x}?", "Solve {equation}.",
             "What is {x} when {equation}?",
             "{equation}, {x} = ?", "Find the value of {x}: {equation}", "Given {equation}, find {x}.", "Which number is {x} if {equation}?",
             "For which {x} is {equation}?",
             "Please solve {equation} for {x}.", "solve {equation}", "What value of {x} makes {equation} true?")

FRACTIONS = ("What is {part} of {whole}?", "Find {part} of {whole}.", "{part} of {whole}", "Calculate {part} of {whole}.", "How much is {part} of {whole}?",
             "what's {part} of {whole}",
             "{name} has {whole} {things} and gives away {part} of them. How many is that?", "{name} sold {part} of {whole} {things}. How many is that?",
             "Work out {part} of {whole}.", "Take {part} of {whole}.", "Tell me {part} of {whole}.", "{part} of {whole} {things} is how many {things}?")

PERCENTS = (*FRACTIONS, "{part} of {whole} people said yes. How many people?", "How many is {part} of {whole}?",
            "A shop has {whole} {things} and sells {part}. How many does it sell?",
            "Compute {part} of {whole}.")

# large unit, small unit, and the factor as a digit with so many zeros
UNITS = (
    ("meters", "centimeters", 1, 2), ("kilometers", "meters", 1, 3), ("kilograms", "grams", 1, 3), ("hours", "minutes", 6, 1), ("minutes", "seconds", 6, 1),
    ("weeks", "days", 7, 0), ("centimeters", "millimeters", 1, 1), ("liters", "milliliters", 1, 3), ("dollars", "cents", 1, 2), ("yards", "feet", 3, 0),
    ("gallons", "quarts", 4, 0), ("years", "quarters", 4, 0), ("euros", "cents", 1, 2), ("tonnes", "kilograms", 1, 3), ("decades", "years", 1, 1),
    ("centuries", "years", 1, 2),
)
UNIT_QUESTIONS = (
    "How many {small} are in {n} {large}?", "Convert {n} {large} to {small}.", "{n} {large} in {small}?", "What is {n} {large} in {small}?",
    "Change {n} {large} into {small}.", "{n} {large} is how many {small}?", "Express {n} {large} in {small}.", "How many {small} make {n} {large}?",
    "How many {small} are there in {n} {large}?", "{n} {large} are how many {small}?", "Turn {n} {large} into {small}.", "Give {n} {large} in {small}.",
    "I have {n} {large}. How many {small} is that?", "How many {small} do {n} {large} have?", "Write {n} {large} in {small}.", "{n} {large} to {small}?",
    "What do {n} {large} come to in {small}?", "Please convert {n} {large} into {small}.",
    "Tell me how many {small} {n} {large} are.", "How much is {n} {large} in {small}?", "In {small}, what are {n} {large}?",
    "We need {n} {large}. What is that in {small}?", "Can you change {n} {large} to {small}?", "{n} {large} equal how many {small}?",
    "Work out {n} {large} in {small}.",
)
