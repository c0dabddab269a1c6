"""Documents, shards and rows: equal to the tokenizer's own words, whole on disk, and packed without gaps."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest

from data_prep import pack
from data_prep.pack import DamagedShard, Document, Shard, documents, efficiency, fit, pack_rows, verify_shard, write_shard
from data_prep.records import Example, content_key
from experts import tokenizer as tokenizers
from settings import TokenizerSettings


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    return tokenizers.train(["some words to learn from, and a few more"], settings=TokenizerSettings(kind="byte"))


def example(prompt: str, response: str) -> Example:
    return Example("math", prompt, response, "s", content_key("math", prompt, response))


def test_documents_equal_prompt_ids_and_answer_ids(tokenizer: tokenizers.Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "BATCH_EXAMPLES", 2)
    rows = [example("What is <|end|> 2 + 2?", "4 <|user|>"), example("User: hi\nAssistant: hello\nUser: bye", "see you"), example("caf\u00e9", "\u4e2d\u6587")]
    made = list(documents(rows, tokenizer=tokenizer, max_tokens=1000))
    for row, document in zip(rows, made, strict=True):
        prompt, answer = tokenizers.prompt_ids(tokenizer, row.messages), tokenizers.answer_ids(tokenizer, row.response)
        assert list(document.tokens) == prompt + answer
        assert document.answer_start == len(prompt)
        assert document.cut == ""


def test_fit_keeps_what_fits() -> None:
    assert fit([1, 2, 3], [4, 5], max_tokens=5) == Document([1, 2, 3, 4, 5], 3)


def test_fit_cuts_the_oldest_part_of_the_prompt_but_its_role_mark() -> None:
    assert fit([1, 2, 3, 4, 5, 6], [7, 8, 9], max_tokens=6) == Document([1, 5, 6, 7, 8, 9], 3, "prompt", 3)


def test_fit_cuts_the_tail_of_an_answer_that_leaves_the_prompt_no_quarter() -> None:
    assert fit([1, 2, 3, 4, 5, 6], list(range(10, 20)), max_tokens=8) == Document([1, 6, 10, 11, 12, 13, 14, 15], 2, "response", 8)


def test_fit_leaves_a_short_prompt_whole_when_the_answer_is_cut() -> None:
    assert fit([1, 2], list(range(10, 20)), max_tokens=8) == Document([1, 2, 10, 11, 12, 13, 14, 15], 2, "response", 4)


def test_fit_never_exceeds_the_bound_and_always_keeps_an_answer_token() -> None:
    for prompt, answer, most in itertools.product(range(1, 30), range(1, 30), range(4, 24)):
        document = fit(list(range(prompt)), list(range(100, 100 + answer)), max_tokens=most)
        assert len(document.tokens) == min(most, prompt + answer)
        assert document.tokens[0] == 0
        assert document.tokens[document.answer_start] == 100
        assert (document.tokens[-1] == 100 + answer - 1) == (document.cut != "response")


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_shard_gives_back_what_was_written(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    facts = write_shard(tmp_path, "train", [Document([1, 2, 3], 2), Document([vocab_size - 1, 5], 1, "prompt", 4)], vocab_size=vocab_size)
    shard = Shard.open(tmp_path, "train")
    assert shard.tokens.dtype == dtype
    assert isinstance(shard.tokens, np.memmap)
    assert shard.tokens.tolist() == [1, 2, 3, vocab_size - 1, 5]
    assert (shard.starts.tolist(), shard.answer_starts.tolist(), shard.lengths.tolist(), len(shard)) == ([0, 3, 5], [2, 4], [3, 2], 2)
    assert (facts.documents, facts.tokens, facts.answer_tokens, facts.cut_prompts, facts.cut_responses, facts.cut_tokens) == (2, 5, 2, 1, 0, 4)


def test_empty_shard_opens_empty(tmp_path: Path) -> None:
    write_shard(tmp_path, "exam", [], vocab_size=300)
    verify_shard(tmp_path, "exam")
    assert len(Shard.open(tmp_path, "exam")) == 0


@pytest.mark.parametrize("part", ["tokens", "starts", "answer_starts"])
def test_changed_byte_of_a_shard_is_found(tmp_path: Path, part: str) -> None:
    write_shard(tmp_path, "train", [Document([1, 2, 3], 2)], vocab_size=300)
    file = tmp_path / f"train.{part}.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedShard, match=f"{part} differ from what was written"):
        verify_shard(tmp_path, "train")


def test_shard_cut_short_or_absent_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path, "train", [Document([1, 2, 3], 2)], vocab_size=300)
    np.save(tmp_path / "train.starts.npy", np.array([0, 2]), allow_pickle=False)
    with pytest.raises(DamagedShard, match="3 tokens, 2 starts and 1 answers don't fit together"):
        Shard.open(tmp_path, "train")
    with pytest.raises(DamagedShard, match="shard gone"):
        Shard.open(tmp_path, "gone")


def test_shard_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path, "train", [Document([1, 2, 3], 2)], vocab_size=300)
    np.save(tmp_path / "train.starts.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DamagedShard, match="allow_pickle"):
        Shard.open(tmp_path, "train")


def lengths(kind: str, count: int = 50_000) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.clip(random.lognormal(4.5, 0.8, count).astype(int), 5, 384) if kind == "natural" else random.integers(20, 385, count)


@pytest.mark.parametrize("kind", ["natural", "uniform"])
def test_rows_hold_every_document_once_and_fill_98_percent(kind: str) -> None:
    sizes = lengths(kind)
    rows = pack_rows(sizes, row_tokens=384, seed=3)
    assert sorted(itertools.chain.from_iterable(rows)) == list(range(len(sizes)))
    assert max(int(sizes[row].sum()) for row in rows) <= 384
    assert int(sizes.sum()) / (len(rows) * 384) >= 0.98
    assert efficiency(sizes, row_tokens=384, seed=3) == int(sizes.sum()) / (len(rows) * 384)


def test_pack_rows_finds_the_perfect_fit() -> None:
    # By hand: 6+4 and 5+3+2 fill two rows of ten; with each put where most room is, 5+4 and 6+3 leave the 2 alone.
    rows = pack_rows([2, 6, 3, 5, 4], row_tokens=10, seed=0)
    assert {frozenset(row) for row in rows} == {frozenset({1, 4}), frozenset({3, 2, 0})}


def test_pack_rows_with_a_seed_is_the_same_and_with_another_differs() -> None:
    sizes = lengths("natural", 2000)
    assert pack_rows(sizes, row_tokens=384, seed=1) == pack_rows(sizes, row_tokens=384, seed=1)
    assert pack_rows(sizes, row_tokens=384, seed=1) != pack_rows(sizes, row_tokens=384, seed=2)


def test_pack_rows_mixes_long_and_short_over_the_epoch() -> None:
    sizes = lengths("natural")
    documents_in_row = np.array([len(row) for row in pack_rows(sizes, row_tokens=384, seed=0)])
    half = len(documents_in_row) // 2
    assert documents_in_row[:half].mean() == pytest.approx(documents_in_row[half:].mean(), rel=0.05)


def test_pack_rows_of_documents_that_share_no_row_takes_one_each() -> None:
    assert len(pack_rows([300] * 30_000, row_tokens=384, seed=0)) == 30_000


def test_packing_50_000_documents_takes_under_two_seconds() -> None:
    sizes = lengths("natural")
    started = time.process_time()
    pack_rows(sizes, row_tokens=384, seed=0)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("sizes", [[385], [0]])
def test_document_that_no_row_takes_is_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"can't be packed into rows of 384 tokens; cut them to at most 384"):
        pack_rows(sizes, row_tokens=384, seed=0)


def test_nothing_packs_into_no_rows() -> None:
    assert pack_rows([], row_tokens=384, seed=0) == []
