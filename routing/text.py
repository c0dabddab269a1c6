"""What the router reads of a prompt: the user's turns, and a text as plain tokens that survive how people type.

Case, quotes, sentence marks, option letters, labels such as "Question:" and the word "please" are dropped, so that they
can't decide a route; numbers become one token, signs of code stay. Knows no vocabulary and no label.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.records import Message, split_turns

NUMBER = "0"
# Template marks of data sets at the start of a line: the router must not learn the template (a held-out source has another).
# Some are dropped before a capital letter too, so that a prompt whose colons got lost reads the same.
_LABEL = re.compile(r"^[ \t]*(?:(?:q|a|input|output|problem|task|user|assistant|human|example)[ \t]*:|"
                    r"(?:question|answer|context|options?|choices?|passage|paragraph|premises?|facts?|rules?|statement|hypothesis|conclusion|"
                    r"instruction)[ \t]*(?::|$|(?=[ \t](?-i:[A-Z]))))[ \t]*", re.MULTILINE | re.IGNORECASE)
_OPTION = re.compile(r"(?:^|(?<=\s))(?:\(?[a-h1-9]\)|[a-h]\.|[-*\u2022])[ \t]+(?=\S)", re.MULTILINE)
# A greeting or a plea before the request itself; what is asked after it decides.
_OPENING = re.compile(r"^\s*(?:(?:hi|hello|hey)(?: there)?[,!.]\s+(?=\S+\s+\S+\s+\S)|(?:please|kindly)\b[,:]?\s+|"
                      r"(?:could|can|would) you (?:please |kindly )?help(?: me)?(?: with this)?:\s*)+", re.IGNORECASE)
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])['\u2019](?=[^\W\d_])")
_TOKEN = re.compile(r"[^\W\d_]+|\d+(?:[.,:]\d+)*|[{}()\[\]<>=;|\\/#$&*+^~%_@`]+")
_SENTENCE_END = re.compile(r"([.?!]+(?=\s|$)|\n+)")
FORM_TOKENS = 14
# Words that say how something is asked rather than what about.
FORM_WORDS = frozenset(re.findall(r"\w+", (
    "the a an of to in is are was were be been being am and or but not no if then that this these those it its he she they we you i my your his her "
    "their our me him them us what which who whom whose when where why how do does did done can could would should will shall may might must has have had "
    "for from with by on at as about than so there here all any some each every more most many much less fewer few one two other another into out up down "
    "over after before between during because while only also just like both either neither none nothing someone something anyone everyone ever never "
    "always same different true false yes hypothetically likely possible able get make give find write tell explain describe imagine pretend act play "
    "suppose given choose select pick show create return list name define calculate compute solve convert implement print count remove delete add "
    "statement option options answer question following best based information context above below whats im ive id youre dont doesnt didnt cant wont isnt "
    "arent thats hi hello hey yeah oh wow well really think feel want need know love hope wish did anybody people person left total cost percent times")))
_POINTING = frozenset(("it", "its", "that", "this", "they", "them", "their", "those", "these", "there", "he", "she", "him", "her", "his", "one", "ones",
                       "another", "instead", "else", "same", "too"))
_JOINING = frozenset(("and", "but", "or", "so", "then", "ok", "okay", "yes", "yeah", "no", "nope", "sure", "actually"))
_POLITE = frozenset(("please", "pls", "plz", "kindly", "thanks"))


def user_turns(prompt: str | Sequence[Message]) -> tuple[str, ...]:
    """What the user said, newest first; a role-tagged text counts as its turns. Empty when no turn is the user's."""
    messages = split_turns(prompt) if isinstance(prompt, str) else prompt
    return tuple(message["content"] for message in reversed(messages) if message["role"] == "user")


def shorten(text: str, *, limit: int) -> str:
    """Text of at most about limit characters: its first and its last half, because a question stands at either end."""
    return text if len(text) <= limit else f"{text[:limit // 2]} {text[-(limit // 2):]}"


@dataclass(frozen=True, slots=True)
class Reading:
    """tokens: words in lower case, numbers as "0", runs of code signs. asked: which of them are the question: the last sentence with a
    question mark, else the last one."""

    tokens: list[str]
    asked: slice

    @property
    def form(self) -> list[str]:
        """How it is asked, with the subject left out: "^" and the opening, then "$" and the question, each at most FORM_TOKENS long,
        with every run of words that carry the subject as one "x". Empty without tokens."""
        return ["^", *_skeleton(self.tokens), "$", *_skeleton(self.tokens[self.asked])] if self.tokens else []

    def with_tokens(self, tokens: list[str]) -> Reading:
        """The same text with other words in their places."""
        return Reading(tokens, self.asked)


def read(text: str) -> Reading:
    """Tokens of a text and which of them ask; marks and politeness dropped."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = _APOSTROPHE.sub("", _LABEL.sub(" ", _OPENING.sub("", text)).lower())
    text = _OPTION.sub(" ", text)
    parts = _SENTENCE_END.split(text)
    found: list[str] = []
    question = slice(0, 0)
    asked = False
    for place in range(0, len(parts), 2):
        sentence = _tokens(parts[place])
        if not sentence:
            continue
        marked = place + 1 < len(parts) and "?" in parts[place + 1]
        if marked or not asked:
            question, asked = slice(len(found), len(found) + len(sentence)), asked or marked
        found += sentence
    return Reading(found, question)


def tokens(text: str) -> list[str]:
    """Words in lower case, numbers as "0", runs of code signs; marks and politeness dropped."""
    return read(text).tokens


def is_follow_up(text: str, *, few_words: int) -> bool:
    """Whether a turn leans on the ones before it: very short, or short and pointing back ("who directed it", "and Boston")."""
    found = tokens(text)
    return len(found) < few_words or (len(found) <= 3 * few_words and (found[0] in _JOINING or not _POINTING.isdisjoint(found)))


def _tokens(text: str) -> list[str]:
    return [NUMBER if token[0].isdigit() else token for token in _TOKEN.findall(text) if token not in _POLITE]


def _skeleton(found: Sequence[str]) -> list[str]:
    form: list[str] = []
    for token in found[:FORM_TOKENS]:
        part = token if token in FORM_WORDS or token == NUMBER else "x" if token[0].isalpha() else "#"
        if part != "x" or not form or form[-1] != "x":
            form.append(part)
    return form
