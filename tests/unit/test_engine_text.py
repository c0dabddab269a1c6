"""Ids to text: whole characters, stop strings over token borders, loops."""

import random

import pytest

from experts import tokenizer as tokens
from serving.engines.text_stream import ByteSpeller, ContextSpeller, LoopGuard, TextStream, held_back
from serving.engines.token_bytes import token_bytes
from settings import TokenizerSettings

TEXT = "na\u00efve \u4f60\u597d \U0001f600 caf\u00e9 = 3 + 4; done"


@pytest.fixture(scope="module")
def bytewise():
    return tokens.train(["plain text of few words"], settings=TokenizerSettings(kind="byte"))


@pytest.fixture(params=["by context", "by bytes"])
def speller(request):
    """A function tokenizer -> a speller of one kind."""
    if request.param == "by context":
        return lambda tokenizer: ContextSpeller(lambda ids: tokens.decode(tokenizer, ids))
    return lambda tokenizer: ByteSpeller(token_bytes(tokenizer))


def _run(tokenizer, text, speller, stop=()):
    stream, parts = TextStream(speller(tokenizer), stop=stop), []
    for token in tokens.text_ids(tokenizer, text):
        parts.append(stream.push(token))
        if stream.stopped:
            break
    return [*parts, stream.finish()], stream


def test_text_stream_multibyte_characters_never_come_in_halves(bytewise, speller):
    parts, _ = _run(bytewise, TEXT, speller)
    assert "".join(parts) == TEXT
    assert not any("\ufffd" in part for part in parts)
    assert parts[2:5] == ["", "\u00ef", "v"]  # the two bytes of one character arrive as one text


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_text_stream_random_ids_give_the_same_text_as_decoding_them_at_once(kind, speller):
    tokenizer = tokens.train(["plain text of few words, na\u00efve \u4f60\u597d"] * 9, settings=TokenizerSettings(kind=kind, vocab_size=310))
    numbers = random.Random(0)
    for _ in range(400):
        ids = [numbers.randrange(len(tokenizer)) for _ in range(numbers.randrange(1, 30))]
        stream = TextStream(speller(tokenizer))
        assert "".join([*(stream.push(token) for token in ids), stream.finish()]) == tokens.decode(tokenizer, ids)


def test_token_bytes_of_a_tokenizer_whose_tokens_are_no_bytes_are_unknown():
    assert token_bytes(tokens.train(["abc"], settings=TokenizerSettings(kind="char"))) is None


def test_text_stream_stop_string_over_token_borders_ends_before_it(bytewise, speller):
    parts, stream = _run(bytewise, "one two STOP three", speller, stop=("nothing", " STOP"))
    assert "".join(parts) == "one two"
    assert stream.stopped


def test_text_stream_beginning_of_a_stop_string_is_given_back_when_it_goes_on_otherwise(bytewise, speller):
    parts, stream = _run(bytewise, "a STx b ST", speller, stop=("STOP",))
    assert "".join(parts) == "a STx b ST"
    assert parts[:5] == ["a", " ", "", "", "STx"]
    assert not stream.stopped


@pytest.mark.parametrize(("text", "stops", "length"), [
    ("abc", ("cd",), 1), ("abc", ("bcx", "c1"), 2), ("abc", ("abc",), 0), ("", ("a",), 0), ("aa", ("aaa",), 2)])
def test_held_back_longest_beginning_of_a_stop_counts(text, stops, length):
    assert held_back(text, stops) == length


def test_loop_guard_one_piece_repeated_eight_times_is_a_loop():
    guard = LoopGuard(repeats=8, min_tokens=32)
    seen = [guard.push(token) for token in [9, 9, 1, 2, 3, 4, 5] * 1 + [1, 2, 3, 4, 5] * 7]
    assert seen.index(True) == len(seen) - 1  # the 8th repetition of five ids ends at the last one


def test_loop_guard_short_runs_of_one_digit_are_no_loop():
    guard = LoopGuard(repeats=8, min_tokens=32)
    assert not any(guard.push(7) for _ in range(31))
    assert guard.push(7)


def test_loop_guard_random_ids_are_no_loop():
    guard, numbers = LoopGuard(repeats=8), random.Random(1)
    assert not any(guard.push(numbers.randrange(5)) for _ in range(5000))
