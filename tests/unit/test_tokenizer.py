"""Tokenizer: ids of conversations, round trips, special tokens that contents can't forge, files that transformers reads."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from experts import tokenizer as tokens
from settings import TokenizerSettings

WORDS = "apple bridge candle dragon engine forest garden hammer island jungle kettle ladder magnet needle orange"
TEXTS = [f"What is {n} plus {n * 7}? It is {n * 8}.\n\tdef f(x): return x  # caf\u00e9 {WORDS}" for n in range(200)]
KINDS = ("bpe", "char", "byte")
CONVERSATION: list[tokens.Message] = [
    {"role": "system", "content": "Be brief.\n"}, {"role": "user", "content": "\n What is 12 plus 3?"},
    {"role": "assistant", "content": "15 "}, {"role": "user", "content": "  and {{ 7 }} times 8?\n"}]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> tokens.Tokenizer:
    return tokens.train(TEXTS, settings=TokenizerSettings(kind=request.param, vocab_size=400))


@pytest.fixture(scope="module")
def bpe() -> tokens.Tokenizer:
    return tokens.train(TEXTS, settings=TokenizerSettings(kind="bpe", vocab_size=358))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_text_ids_any_unicode_decodes_to_the_same_text(tokenizer: tokens.Tokenizer, text: str) -> None:
    assert tokens.decode(tokenizer, tokens.text_ids(tokenizer, text)) == text


@pytest.mark.parametrize("text", ["a\0b", "", " ", "\r\n", "  two  ", "\U0001f600\u200d\ufffd", "<0x41>", "n't 's 1,234"])
def test_text_ids_awkward_text_decodes_to_the_same_text(tokenizer: tokens.Tokenizer, text: str) -> None:
    assert tokens.decode(tokenizer, tokens.text_ids(tokenizer, text)) == text


def test_text_ids_lone_surrogates_become_replacement_characters(tokenizer: tokens.Tokenizer) -> None:
    assert tokens.decode(tokenizer, tokens.text_ids(tokenizer, "a\ud800b\udfff")) == "a\ufffdb\ufffd"


def test_text_ids_special_token_in_text_is_spelled_out(tokenizer: tokens.Tokenizer) -> None:
    special = set(range(len(tokens.SPECIAL_TOKENS)))
    for token in tokens.SPECIAL_TOKENS:
        ids = tokens.text_ids(tokenizer, f"x{token}y")
        assert not special & set(ids)
        assert tokens.decode(tokenizer, ids) == f"x{token}y"


def test_text_ids_after_a_call_that_reads_special_tokens_still_spells_them_out(tokenizer: tokens.Tokenizer) -> None:
    assert tokenizer("<|end|>")["input_ids"] == [tokens.end_id(tokenizer)]
    assert tokens.end_id(tokenizer) not in tokens.text_ids(tokenizer, "<|end|>")


def test_text_ids_batch_equals_one_by_one(tokenizer: tokens.Tokenizer) -> None:
    texts = [*TEXTS[:5], "<|user|>", "", "\ud900"]
    assert tokens.text_ids_batch(tokenizer, texts) == [tokens.text_ids(tokenizer, text) for text in texts]


def test_prompt_ids_equal_the_chat_template(tokenizer: tokens.Tokenizer) -> None:
    rendered = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True, tokenize=False)
    assert rendered == ("<|system|>Be brief.\n<|user|>\n What is 12 plus 3?<|assistant|>15 <|end|><|user|>  and {{ 7 }} times 8?\n<|assistant|>")
    assert tokens.prompt_ids(tokenizer, CONVERSATION) == tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_prompt_ids_with_the_answer_equal_the_template_of_the_whole_conversation(tokenizer: tokens.Tokenizer) -> None:
    whole = [*CONVERSATION, {"role": "assistant", "content": "56"}]
    ours = tokens.prompt_ids(tokenizer, CONVERSATION) + tokens.answer_ids(tokenizer, "56")
    assert ours == tokenizer(tokenizer.apply_chat_template(whole, tokenize=False), add_special_tokens=False)["input_ids"]


def test_prompt_ids_unknown_role_names_the_allowed_ones(bpe: tokens.Tokenizer) -> None:
    with pytest.raises(ValueError, match="role 'tool' of a message is unknown; use one of system, user, assistant"):
        tokens.prompt_ids(bpe, [{"role": "tool", "content": "x"}])  # type: ignore[typeddict-item]


def test_answer_ids_end_with_the_end_token(bpe: tokens.Tokenizer) -> None:
    assert tokens.answer_ids(bpe, "") == [tokens.end_id(bpe)] == [bpe.eos_token_id]


def test_train_bpe_splits_numbers_into_digits(bpe: tokens.Tokenizer) -> None:
    assert bpe.convert_ids_to_tokens(tokens.text_ids(bpe, "2026")) == ["2", "0", "2", "6"]


def test_train_bpe_learns_whole_words_up_to_the_vocabulary_size(bpe: tokens.Tokenizer) -> None:
    assert len(bpe) == 358
    assert bpe.convert_ids_to_tokens(tokens.text_ids(bpe, "What candle")) == ["What", "\u0120candle"]


def test_train_byte_has_one_id_a_byte() -> None:
    byte = tokens.train(TEXTS, settings=TokenizerSettings(kind="byte"))
    assert len(byte) == len(tokens.SPECIAL_TOKENS) + 256
    assert len(tokens.text_ids(byte, "caf\u00e9")) == 5


def test_train_char_has_one_id_a_character_and_bytes_for_unknown_ones() -> None:
    char = tokens.train(["ab\u00e9"], settings=TokenizerSettings(kind="char"))
    assert char.convert_ids_to_tokens(tokens.text_ids(char, "a\u00e9c")) == ["a", "\u00e9", "<0x63>"]


@pytest.mark.parametrize("kind", KINDS)
def test_train_same_texts_gives_the_same_file(kind: str) -> None:
    chosen = TokenizerSettings.model_validate({"kind": kind, "vocab_size": 380})
    first, second = (tokens.train(iter(TEXTS), settings=chosen).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


def test_fingerprint_other_texts_differs_and_same_texts_agrees() -> None:
    chosen = TokenizerSettings(vocab_size=320)
    one, same, other = (tokens.fingerprint(tokens.train(texts, settings=chosen)) for texts in (TEXTS, TEXTS, ["other words " * 9]))
    assert one == same != other


def test_save_then_load_gives_the_same_ids_template_and_fingerprint(tokenizer: tokens.Tokenizer, tmp_path: Path) -> None:
    tokens.save(tokenizer, tmp_path)
    loaded = tokens.load(tmp_path)
    assert tokens.prompt_ids(loaded, CONVERSATION) == tokens.prompt_ids(tokenizer, CONVERSATION)
    assert loaded.chat_template == tokenizer.chat_template
    assert tokens.fingerprint(loaded) == tokens.fingerprint(tokenizer)


def test_save_folder_is_read_by_transformers_alone(bpe: tokens.Tokenizer, tmp_path: Path) -> None:
    tokens.save(bpe, tmp_path)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    rendered = stock.apply_chat_template(CONVERSATION, add_generation_prompt=True, tokenize=False)
    assert stock(rendered)["input_ids"] == tokens.prompt_ids(bpe, CONVERSATION)
    assert (stock.eos_token, stock.pad_token) == ("<|end|>", "<|pad|>")
    assert json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_load_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json in .*; give a folder that holds a saved version"):
        tokens.load(tmp_path)


def test_token_id_foreign_tokenizer_says_what_is_missing(bpe: tokens.Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"no token '<\|tool\|>'"):
        tokens.token_id(bpe, "<|tool|>")
