"""Ids to text: whole characters, stop strings over token borders, loops."""

import random

import pytest

from experts import tokenizer as tokens
from serving.engines.text_stream import LoopGuard, TextStream, held_back
from settings import TokenizerSettings

TEXT = "na\u00efve \u4f60\u597d \U0001f600 caf\u00e9 = 3 + 4; done"


@pytest.fixture(scope="module")
def bytewise():
    return tokens.train(["plain text of few words"], settings=TokenizerSettings(kind="byte"))


def _decode(tokenizer):
    return lambda ids: tokens.decode(tokenizer, ids)


def _run(tokenizer, text, stop=()):
    stream, parts = TextStream(_decode(tokenizer), stop=stop), []
    for token in tokens.text_ids(tokenizer, text):
        parts.append(stream.push(token))
        if stream.stopped:
            break
    return [*parts, stream.finish()], stream


def test_text_stream_multibyte_characters_never_come_in_halves(bytewise):
    parts, _ = _run(bytewise, TEXT)
    assert "".join(parts) == TEXT
    assert not any("\ufffd" in part for part in parts)
    assert parts[2:5] == ["", "\u00ef", "v"]  # the two bytes of one character arrive as one text


def test_text_stream_random_ids_give_the_same_text_as_decoding_them_at_once(bytewise):
    numbers = random.Random(0)
    for _ in range(200):
        ids = [numbers.randrange(len(bytewise)) for _ in range(numbers.randrange(1, 30))]
        stream = TextStream(_decode(bytewise))
        assert "".join([*(stream.push(token) for token in ids), stream.finish()]) == tokens.decode(bytewise, ids)


def test_text_stream_stop_string_over_token_borders_ends_before_it(bytewise):
    parts, stream = _run(bytewise, "one two STOP three", stop=("nothing", " STOP"))
    assert "".join(parts) == "one two"
    assert stream.stopped


def test_text_stream_beginning_of_a_stop_string_is_given_back_when_it_goes_on_otherwise(bytewise):
    parts, stream = _run(bytewise, "a STx b ST", stop=("STOP",))
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
