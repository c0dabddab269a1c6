"""Packed batches: layout worked by hand, every answer token a target once an epoch, shares, cursor."""

from collections import Counter

import numpy as np
import pytest
from toy_corpus import MemoryCorpus, counting_corpus, shard_of

from training.batches import PADDING, Batches, validation_batches
from training.plan import Mix


def batches(corpus, shares=None, *, row_tokens=48, batch_rows=2, seed=0):
    return Batches(corpus, mix=Mix(shares or {"up": 1.0}), row_tokens=row_tokens, batch_rows=batch_rows, seed=seed)


def targets_of_an_epoch(corpus, *, row_tokens, documents):
    """Targets of as many one-row batches as it takes to see that many documents."""
    stream, seen, targets = batches(corpus, {"only": 1.0}, row_tokens=row_tokens, batch_rows=1), 0, Counter()
    while seen < documents:
        batch = stream.next()
        seen += len({number for number in batch.documents_BT[0].tolist() if number != PADDING})
        targets.update(batch.targets_N.tolist())
    assert seen == documents
    return targets


def test_batch_of_two_documents_lies_as_worked_by_hand():
    corpus = MemoryCorpus({("only", "train"): shard_of([([5, 6, 7, 8, 9], 2), ([11, 12, 13], 1)])})
    batch = batches(corpus, {"only": 1.0}, row_tokens=8, batch_rows=1).next()
    # The longer document stands first (best fit decreasing); a last token is a target but no input.
    assert batch.tokens_BT.tolist() == [[5, 6, 7, 8, 11, 12, 0, 0]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1]]
    assert batch.documents_BT.tolist() == [[0, 0, 0, 0, 1, 1, PADDING, PADDING]]
    assert batch.places_N.tolist() == [1, 2, 3, 4, 5]
    assert batch.targets_N.tolist() == [7, 8, 9, 12, 13]
    assert (batch.tokens, batch.starts.tolist(), batch.lengths.tolist()) == (6, [0, 4, 6], [4, 2, 2])


def test_batch_that_learns_prompts_has_every_token_but_a_documents_first_as_target():
    corpus = MemoryCorpus({("only", "train"): shard_of([([5, 6, 7, 8, 9], 2), ([11, 12, 13], 1)])})
    batch = Batches(corpus, mix=Mix({"only": 1.0}, prompts=frozenset({"only"})), row_tokens=8, batch_rows=1, seed=0).next()
    assert batch.tokens_BT.tolist() == [[5, 6, 7, 8, 11, 12, 0, 0]]
    assert batch.places_N.tolist() == [0, 1, 2, 3, 4, 5]
    assert batch.targets_N.tolist() == [6, 7, 8, 9, 12, 13]


def test_documents_longer_than_a_row_give_each_answer_token_once():
    tokens = list(range(2, 39))
    corpus = MemoryCorpus({("only", "train"): shard_of([(tokens, 9)])})
    # 37 tokens in rows of 16: pieces 2..18, 18..34, 34..38, all with targets.
    assert targets_of_an_epoch(corpus, row_tokens=16, documents=3) == Counter(tokens[9:])


def test_piece_without_an_answer_token_is_left_out():
    corpus = MemoryCorpus({("only", "train"): shard_of([(list(range(2, 39)), 20)])})
    assert targets_of_an_epoch(corpus, row_tokens=16, documents=2) == Counter(range(22, 39))


def test_epoch_has_every_answer_token_once():
    corpus = counting_corpus(("only",))
    shard = corpus.shard("only", "train")
    wanted = Counter(token for start, end, answer in zip(shard.starts[:-1], shard.starts[1:], shard.answer_starts, strict=True)
                     for token in shard.tokens[max(answer, start + 1):end].tolist())
    assert targets_of_an_epoch(corpus, row_tokens=48, documents=60) == wanted


def test_rows_of_short_documents_are_at_least_98_percent_full():
    random = np.random.default_rng(0)
    lengths = np.clip(random.gamma(2.0, 40.0, 6000).astype(int) + 10, 10, 380)
    corpus = MemoryCorpus({("only", "train"): shard_of([([3] * int(length), 5) for length in lengths])})
    stream = batches(corpus, {"only": 1.0}, row_tokens=384, batch_rows=8)
    used = sum(stream.next().tokens for _ in range(100))
    assert used / (100 * 8 * 384) >= 0.98


def test_mix_spreads_rows_evenly_by_share():
    corpus = counting_corpus()
    marks = {domain: {int(token) for token in np.unique(corpus.shard(domain, "train").tokens)} for domain in ("up", "down")}
    assert marks["up"] == marks["down"]  # so rows must be told apart by their steps
    stream = batches(corpus, {"up": 3.0, "down": 1.0}, batch_rows=4)
    for _ in range(10):
        rows = stream.next().tokens_BT.numpy()
        steps = [int((row[1] - row[0]) % 38) for row in rows]
        assert sorted(steps) == [1, 1, 1, 3]


def test_same_seed_gives_the_same_batches_and_another_seed_others():
    corpus = counting_corpus()
    first, again, other = (batches(corpus, seed=seed) for seed in (1, 1, 2))
    rows = [stream.next().tokens_BT.tolist() for stream in (first, again, other)]
    assert rows[0] == rows[1] != rows[2]


def test_second_epoch_packs_in_another_order():
    corpus = counting_corpus(("only",), count=12)
    stream = batches(corpus, {"only": 1.0}, batch_rows=1)
    per_epoch = len({tuple(stream.next().tokens_BT[0].tolist()) for _ in range(3)})
    rows = [tuple(stream.next().tokens_BT[0].tolist()) for _ in range(12)]
    assert len(set(rows)) > per_epoch


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_sought_cursor_goes_on_with_the_same_batches(steps):
    stream = batches(counting_corpus(), {"up": 0.7, "down": 0.3})
    for _ in range(steps):
        stream.next()
    position, wanted = stream.position(), [stream.next().tokens_BT.tolist() for _ in range(5)]
    later = batches(counting_corpus(), {"up": 0.7, "down": 0.3})
    later.seek(position)
    assert [later.next().tokens_BT.tolist() for _ in range(5)] == wanted


def test_domain_without_answer_tokens_is_refused_by_name():
    corpus = MemoryCorpus({("empty", "train"): shard_of([([3, 4], 2)])})
    with pytest.raises(ValueError, match="the train shard of 'empty' has no document with an answer token"):
        batches(corpus, {"empty": 1.0})


def test_validation_batches_are_the_same_every_time_and_at_most_the_rows_asked():
    corpus = counting_corpus()
    first, again = (validation_batches(corpus, domain="up", row_tokens=24, batch_rows=2, rows=3) for _ in range(2))
    assert [batch.tokens_BT.tolist() for batch in first] == [batch.tokens_BT.tolist() for batch in again]
    assert [len(batch.tokens_BT) for batch in first] == [2, 1]


def test_validation_without_documents_gives_no_batch():
    corpus = MemoryCorpus({("up", "validation"): shard_of([])})
    assert validation_batches(corpus, domain="up", row_tokens=24, batch_rows=2, rows=3) == []
