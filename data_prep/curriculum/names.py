"""Given names: common ones of many countries, and made-up ones drawn anew each time, so that a model learns to copy a name it has
never seen instead of knowing hundreds by heart.

Draws only from the given random source. Knows no task.
"""

from __future__ import annotations

from random import Random

_COMMON = """
Anna Ben Carl Dora Emma Finn Grace Hugo Iris Jack Kate Leo Mia Nina Omar Paul Rosa Sam Tina Uma Vera Will Yara Zoe Adam Bella Clara David Ella Frank
Lucy Max Noah Olga Peter Ruth Sara Tom Victor Maya Ann Bob Cid Dan Eve Fay Gus Hal Ian Joe Kim Lea Meg Ned Ola Pat Ray Sue Ted Una Val Wes Amy Bill
Cody Dean Erin Fred Gina Hank Ivan Jane Karl Lena Mark Nora Otto Pam Rita Seth Tess Vic Wendy Alex Alice Andrew Angela Arthur Barbara Betty Brian Bruce
Carol Chris Cindy Claire Colin Daniel Daisy Diana Donald Doris Dylan Edith Edward Elena Emily Eric Ethan Felix Fiona George Gloria Gordon Hannah Harry
Heidi Helen Henry Holly Howard Irene Isaac Jacob James Janet Jason Jenny Jessica Joan John Jonas Joseph Judy Julia Julian Karen Keith Kevin Laura
Lauren Liam Linda Lisa Louis Luke Lydia Marco Maria Martin Mary Matthew Megan Michael Michelle Mike Molly Monica Nancy Nathan Nick Nicole Nigel Oliver
Olivia Oscar Owen Pamela Patrick Philip Rachel Ralph Rebecca Richard Robert Robin Roger Ronald Rose Roy Ryan Sally Samuel Sandra Sarah Scott Sean
Sharon Simon Sofia Sophie Stella Stephen Steve Susan Sylvia Teresa Thomas Tim Tony Tracy Vincent Violet Walter Wayne William
Ahmed Aisha Akira Ali Amina Amir Ananya Anika Arjun Bao Carlos Carmen Chen Chloe Deepa Diego Emre Fatima Farid Gabriel Hana Hassan Hiro Ibrahim Ines
Jamal Javier Jin Jorge Juan Karim Kenji Khalid Kofi Kwame Lars Layla Ling Lucia Luis Luca Mateo Mei Mohamed Nadia Naomi Nikolai Pablo Pedro Pierre
Priya Raj Rajesh Ravi Reza Ricardo Rohan Salma Sanjay Sergei Sven Tariq Vikram Wei Yasmin Yuki Yusuf Zara Zeynep Anders Astrid Bjorn Freya Giulia
Ingrid Jonas Katya Magnus Mikhail Natalia Pavel Sasha Tomas
"""
COMMON = tuple(dict.fromkeys(_COMMON.split()))

_INVENTED_SHARE = 0.4
_LONG_SHARE = 0.2  # of the invented ones: three syllables
_STARTS = ("B", "C", "D", "F", "G", "H", "J", "K", "L", "M", "N", "P", "R", "S", "T", "V", "W", "Y", "Z", "Br", "Ch", "Dr", "Fl", "Gr", "Kl", "Kr", "Pr", "Sh",
           "Sl", "St", "Th", "Tr", "A", "E", "I", "O", "U")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ie", "oo", "y")
_MIDDLES = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "ll", "nd", "rk", "sh", "ss", "tt", "wal", "mir", "bert")
_ENDS = ("a", "o", "e", "i", "en", "is", "ick", "ina", "an", "ski", "son", "us", "or", "el", "ez", "ya", "ett", "ard", "ov", "eau")


def draw(rng: Random) -> str:
    """One name."""
    if rng.random() >= _INVENTED_SHARE:
        return COMMON[int(rng.random() * len(COMMON))]
    start = rng.choice(_STARTS)
    inner = [*((rng.choice(_VOWELS),) if start not in "AEIOU" else ()), rng.choice(_MIDDLES)]
    if rng.random() < _LONG_SHARE:
        inner += [rng.choice(_VOWELS), rng.choice(_MIDDLES)]
    return start + "".join(inner) + rng.choice(_ENDS)


def several(rng: Random, count: int) -> list[str]:
    """So many different names."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw(rng)] = None
    return list(found)
