"""Given names: common ones of many countries, and made-up ones, so that a model learns to copy a name instead of knowing forty by heart.

Made once from fixed syllables; no randomness.
"""

from __future__ import annotations

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

_STARTS = ("B", "D", "F", "G", "H", "J", "K", "L", "M", "N", "P", "R", "S", "T", "V", "Z", "Br", "Dr", "Kr", "Tr")
_MIDDLES = ("al", "er", "il", "om", "un", "av", "el")
_ENDS = ("a", "o", "en", "is", "ick", "ina")


def _invented() -> tuple[str, ...]:
    """Every fifth of the names that two syllables make."""
    made = [start + middle + end for start in _STARTS for middle in _MIDDLES for end in _ENDS]
    return tuple(made[::5])


NAMES = tuple(dict.fromkeys((*_COMMON.split(), *_invented())))
