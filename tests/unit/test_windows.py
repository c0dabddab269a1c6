"""Windows of a plain text: each token's successor is its target, epochs differ in phase and order, the cursor can be sought."""

import numpy as np
import pytest
import torch
from toy_corpus import counting_corpus, counting_text

from training.batches import Batches
from training.plan import Mix
from training.windows import WindowBatches, held_out_batches, training_batches, window_batch


def numbered(count):
    return np.arange(count, dtype=np.uint16)


def firsts(batches, count):
    return [int(row[0]) for _ in range(count) for row in batches.next().tokens_BT]


def test_window_batch_targets_are_the_next_tokens():
    batch = window_batch(numbered(50), np.array([3, 20]), row_tokens=4)
    assert batch.tokens_BT.tolist() == [[3, 4, 5, 6], [20, 21, 22, 23]]
    assert batch.targets_N.tolist() == [4, 5, 6, 7, 21, 22, 23, 24]
    assert batch.places_N.tolist() == list(range(8))
    assert (batch.tokens, batch.whole_rows) == (8, True)


def test_packed_rows_of_several_documents_are_no_whole_rows():
    corpus = counting_corpus()
    assert not Batches(corpus, mix=Mix({"up": 1.0}), row_tokens=48, batch_rows=2, seed=0).next().whole_rows


def test_windows_of_one_epoch_are_apart_and_all_there():
    batches = WindowBatches(numbered(83), row_tokens=8, batch_rows=2, seed=5)
    starts = firsts(batches, 5)[:9]
    phase = min(starts)
    assert phase < 8
    assert sorted(starts) == list(range(phase, phase + 72, 8))


def test_windows_of_the_next_epoch_have_another_phase_and_order():
    batches = WindowBatches(numbered(2 ** 12), row_tokens=64, batch_rows=1, seed=1)
    epochs = [firsts(batches, 63) for _ in range(3)]
    assert len({min(epoch) % 64 for epoch in epochs}) == 3
    assert sorted(epochs[0]) != epochs[0]


def test_windows_a_batch_at_the_end_of_an_epoch_is_filled_from_the_next():
    batches = WindowBatches(numbered(41), row_tokens=8, batch_rows=3, seed=2)
    assert [batches.next().tokens_BT.shape for _ in range(6)] == [(3, 8)] * 6


def test_windows_of_the_shortest_text_repeat_its_one_window():
    batches = WindowBatches(numbered(9), row_tokens=8, batch_rows=2, seed=2)
    assert firsts(batches, 2) == [0, 0, 0, 0]
    with pytest.raises(ValueError, match=r"8 tokens hold no window of 8 \+ 1"):
        WindowBatches(numbered(8), row_tokens=8, batch_rows=2, seed=2)


def test_windows_sought_go_on_with_the_same_batches():
    batches, other = (WindowBatches(numbered(200), row_tokens=8, batch_rows=3, seed=4) for _ in range(2))
    for _ in range(11):
        batches.next()
    other.seek(batches.position())
    assert all(torch.equal(batches.next().tokens_BT, other.next().tokens_BT) for _ in range(20))


def test_windows_of_another_seed_differ():
    one, two = (firsts(WindowBatches(numbered(500), row_tokens=8, batch_rows=3, seed=seed), 3) for seed in (1, 2))
    assert one != two


def test_held_out_windows_are_all_there_once_without_the_rest_at_the_end():
    batches = held_out_batches(counting_text(held_out=100), domain="text", row_tokens=8, batch_rows=5, rows=1000)
    assert [len(batch.tokens_BT) for batch in batches] == [5, 5, 2]
    expected = [(place + 1) % 38 + 2 for place in range(96)]
    assert torch.cat([batch.targets_N for batch in batches]).tolist() == expected


def test_held_out_windows_fewer_are_spread_over_the_text():
    batches = held_out_batches(counting_text(held_out=1001), domain="text", row_tokens=10, batch_rows=8, rows=4)
    assert [int(row[0]) for row in batches[0].tokens_BT] == [2, 2 + 330 % 38, 2 + 660 % 38, 2 + 990 % 38]


def test_training_batches_follow_the_kind_of_corpus():
    assert isinstance(training_batches(counting_text(), mix=Mix({"text": 1.0}), row_tokens=8, batch_rows=2, seed=0), WindowBatches)
    assert isinstance(training_batches(counting_corpus(), mix=Mix({"up": 1.0}), row_tokens=48, batch_rows=2, seed=0), Batches)
