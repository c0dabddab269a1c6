"""Near-duplicates: the pairs that MinHash proposes are those that comparing everything with everything finds."""

from __future__ import annotations

from random import Random

import pytest

from data_prep.overlap import Pair, near_duplicates, shingles

WORDS = [f"word{number}" for number in range(400)]


def jaccard(one: str, other: str) -> float:
    """By definition, over word triples."""
    sets = [{tuple(words[place:place + 3]) for place in range(len(words) - 2)} for words in (one.split(), other.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_shingles_are_word_triples_without_case_and_marks() -> None:
    assert shingles("What is it, then?") == {b"what is it", b"is it then"}
    assert shingles("Hello!") == {b"hello"}


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
