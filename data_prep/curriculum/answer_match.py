"""Exact match and F1 of short answers after SQuAD's normalisation (Rajpurkar et al. 2016, the official evaluation script), and what leads an answer in.

Text in, numbers out. Knows neither sources nor domains.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

LEAD_IN = r"(?i:(?:(?:so|therefore|thus|hence),?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?answer\b[*_]*\s*(?:is\b:?|[:=]))"  # before the answer itself
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, ASCII punctuation and articles dropped, blanks joined: in the order of the official script."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_MARKS)).split())


def exact_match(text: str, answers: Sequence[str]) -> bool:
    """Whether text equals one of the answers after normalisation."""
    return normalise(text) in {normalise(answer) for answer in answers}


def best_f1(text: str, answers: Sequence[str]) -> float:
    """The highest F1 over words against any of the answers; two empty ones agree."""
    return max((_f1(normalise(text).split(), normalise(answer).split()) for answer in answers), default=0.0)


def _f1(got: list[str], wanted: list[str]) -> float:
    if not got or not wanted:
        return float(got == wanted)
    shared = sum((Counter(got) & Counter(wanted)).values())
    return 2 * shared / (len(got) + len(wanted))
