"""Near-duplicates: the pairs that MinHash proposes are those that comparing everything with everything finds."""

from __future__ import annotations

from random import Random

import pytest
from datasketch import MinHash

from data_prep.overlap import Pair, near_duplicates, shingles

WORDS = [f"word{number}" for number in range(400)]


def jaccard(one: str, other: str) -> float:
    """By definition, over word triples."""
    sets = [{tuple(words[place:place + 3]) for place in range(len(words) - 2)} for words in (one.split(), other.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_shingles_are_word_triples_without_case_and_marks() -> None:
    assert shingles("What is it, then?") == {b"what is it", b"is it then"}
    assert shingles("Hello!") == {b"hello"}


def triples(*parts: str) -> set[bytes]:
    return {part.encode() for part in parts}


@pytest.mark.parametrize(("prompt", "expected"), [
    ("\u5929\u7a7a\u662f\u84dd\u3002", triples("\u5929 \u7a7a \u662f", "\u7a7a \u662f \u84dd")),  # Chinese, with a full stop
    ("\u300c\u7a7a\u306f\u30a2\u300d\uff1f", triples("\u7a7a \u306f \u30a2")),  # Han, Hiragana, Katakana, in brackets
    ("\u0e17\u0e49\u0e2d\u0e07", triples("\u0e17 \u0e49 \u0e2d", "\u0e49 \u0e2d \u0e07")),  # Thai
    ("\u5b66Python 3.5\u597d!", triples("\u5b66 python 3.5", "python 3.5 \u597d")),  # Latin words inside stay whole
    ("\ud558\ub298\uc740 \uc65c \ud30c\ub797\ub2c8?", triples("\ud558\ub298\uc740 \uc65c \ud30c\ub797\ub2c8")),  # Hangul has spaces
    ("Wo ist die Stra\u00dfe na\u00eff?", triples("wo ist die", "ist die strasse", "die strasse na\u00eff")),  # accents part no word
], ids=["chinese", "japanese", "thai", "mixed", "korean", "german"])
def test_shingles_of_scripts_without_spaces_are_character_triples(prompt: str, expected: set[bytes]) -> None:
    assert shingles(prompt) == expected


def han(first: int, count: int) -> str:
    return "".join(chr(0x4E00 + place) for place in range(first, first + count))


def test_questions_on_one_chinese_passage_are_near_duplicates() -> None:
    passage = han(0, 80)  # 78 triples, and six more in each prompt
    asked = [passage + han(100, 6), passage + han(200, 6), passage + han(100, 7), han(300, 86)]
    assert [len(shingles(prompt)) for prompt in asked] == [84, 84, 85, 84]
    found = {pair.training: pair.similarity for pair in near_duplicates(asked[:1], asked[1:], similarity=0.8)}
    assert found == {0: pytest.approx(78 / 90), 1: pytest.approx(84 / 85)}
    signatures = MinHash.bulk([shingles(prompt) for prompt in asked], num_perm=1024, seed=3)
    for place, similarity in found.items():
        assert signatures[0].jaccard(signatures[place + 1]) == pytest.approx(similarity, abs=0.05)


def test_pairs_equal_those_of_comparing_all_with_all() -> None:
    random = Random(7)
    held_out = [" ".join(random.choices(WORDS, k=40)) for _ in range(60)]
    training = []
    for prompt in held_out * 4:
        words = prompt.split()
        for _ in range(random.randrange(5)):
            words[random.randrange(len(words))] = "changed"
        training.append(" ".join(words))
    training += [" ".join(random.choices(WORDS, k=40)) for _ in range(300)]
    expected = {(place, other) for other, trained in enumerate(training) for place, prompt in enumerate(held_out) if jaccard(prompt, trained) >= 0.8}
    found = near_duplicates(held_out, training, similarity=0.8)
    assert 60 < len(expected) < 240
    assert {(pair.held_out, pair.training) for pair in found} == expected
    assert all(pair.similarity == pytest.approx(jaccard(held_out[pair.held_out], training[pair.training])) for pair in found)


def test_prompt_that_differs_in_case_and_marks_is_equal() -> None:
    assert near_duplicates(["Where is the old red bridge now?"], ["other", "where is the OLD red bridge now"], similarity=1.0) == [Pair(0, 1, 1.0)]


@pytest.mark.parametrize(("held_out", "training"), [([], ["a b c"]), (["a b c"], []), (["a b c"], ["d e f"])])
def test_nothing_alike_gives_no_pairs(held_out: list[str], training: list[str]) -> None:
    assert near_duplicates(held_out, training, similarity=0.5) == []


def test_pairs_are_the_same_every_time() -> None:
    prompts = [f"tell me about the {word} in the old house by the sea" for word in WORDS[:50]]
    assert near_duplicates(prompts, prompts, similarity=0.6) == near_duplicates(prompts, prompts, similarity=0.6) != []
