"""Plain text: read, cut in two, tokenized by every kind of tokenizer, and refused with a reason where it can't be used."""

import numpy as np
import pytest

from data_prep.sources import DataError
from data_prep.text_corpus import pieces, prepare_text
from experts import tokenizer as tokenizers
from settings import load

TEXT = "".join(f"Line {number}: to be, or not to be; caf\u00e9.\n" for number in range(100))


def text_settings(path, *overrides):
    return load(overrides=["data.format=text", "tokenizer.kind=char", "train.row_tokens=16", *overrides], data_path=str(path))


@pytest.fixture
def text_file(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(TEXT.encode())
    return file


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_prepare_text_holds_out_the_end_and_loses_no_character(text_file, kind):
    corpus = prepare_text(text_settings(text_file, f"tokenizer.kind={kind}", "tokenizer.vocab_size=300", "text.validation_share=0.25"))
    cut = int(len(TEXT) * 0.75)
    assert tokenizers.decode(corpus.tokenizer, corpus.train_tokens.tolist()) == TEXT[:cut]
    assert tokenizers.decode(corpus.tokenizer, corpus.validation_tokens.tolist()) == TEXT[cut:]


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_prepare_text_counts_the_bytes_of_its_tokens(text_file, kind):
    corpus = prepare_text(text_settings(text_file, f"tokenizer.kind={kind}", "tokenizer.vocab_size=300"))
    cut = int(len(TEXT) * 0.9)
    assert int(corpus.token_bytes[corpus.validation_tokens].sum()) == len(TEXT[cut:].encode())
    assert (corpus.token_bytes[corpus.train_tokens] > 0).all()


def test_prepare_text_numbers_of_tokens_by_kind(text_file):
    counts = {kind: len(prepare_text(text_settings(text_file, f"tokenizer.kind={kind}", "tokenizer.vocab_size=300")).validation_tokens)
              for kind in ("char", "byte", "bpe")}
    held_out = TEXT[int(len(TEXT) * 0.9):]
    assert counts["char"] == len(held_out)
    assert counts["byte"] == len(held_out.encode())
    assert counts["bpe"] < len(held_out)


def test_prepare_text_tokenizer_knows_the_training_part_alone(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("ab" * 180 + "\u00df" * 40, encoding="utf-8")
    corpus = prepare_text(text_settings(file, "text.validation_share=0.1"))
    assert "\u00df" not in corpus.tokenizer.get_vocab()
    assert tokenizers.decode(corpus.tokenizer, corpus.validation_tokens.tolist()) == "\u00df" * 40


def test_prepare_text_same_file_same_fingerprint_other_text_or_cut_another(text_file, tmp_path):
    first = prepare_text(text_settings(text_file)).fingerprint
    assert prepare_text(text_settings(text_file)).fingerprint == first
    assert prepare_text(text_settings(text_file, "text.validation_share=0.2")).fingerprint != first
    assert prepare_text(text_settings(text_file, "tokenizer.kind=byte")).fingerprint != first
    other = tmp_path / "other.txt"
    other.write_text(TEXT.replace("Line 3:", "Line X:"), encoding="utf-8")
    assert prepare_text(text_settings(other)).fingerprint != first


def test_prepare_text_line_ends_of_windows_and_a_byte_order_mark_are_read_as_they_are(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xef\xbb\xbf" + b"one two\r\n" * 60)
    corpus = prepare_text(text_settings(file))
    assert tokenizers.decode(corpus.tokenizer, corpus.train_tokens[:9].tolist()) == "one two\r\n"


def test_pieces_end_at_line_ends_and_join_to_the_text():
    text = ("x" * 999 + "\n") * 200
    found = pieces(text)
    assert "".join(found) == text
    assert len(found) == 4
    assert all(piece.endswith("\n") for piece in found)


def test_pieces_of_one_endless_line_are_cut_anyway():
    found = pieces("\n" + "y" * 150_000)
    assert [len(piece) for piece in found] == [1, 65_536, 65_536, 18_928]


def test_prepare_text_absent_file_says_where_to_put_it(tmp_path):
    with pytest.raises(DataError, match=r"no text at .*missing\.txt; put a UTF-8 text file there .*or name another with --data FILE"):
        prepare_text(text_settings(tmp_path / "missing.txt"))


def test_prepare_text_without_a_path_says_how_to_name_one():
    with pytest.raises(DataError, match=r"data\.path is unset; name any UTF-8 text file with --data FILE"):
        prepare_text(load(overrides=["data.format=text"]))


def test_prepare_text_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="is a folder, and this recipe learns one text file"):
        prepare_text(text_settings(tmp_path))


def test_prepare_text_other_encoding_is_refused_with_the_byte(tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes(b"caf\xe9 " * 100)
    with pytest.raises(DataError, match=r"latin\.txt is no UTF-8 text: byte 3 is 0xe9"):
        prepare_text(text_settings(file))


def test_prepare_text_too_short_for_one_window_is_refused_with_the_numbers(tmp_path):
    file = tmp_path / "short.txt"
    file.write_text("a" * 100, encoding="utf-8")
    with pytest.raises(DataError, match=r"the held-out part has 10 tokens, and one window takes train\.row_tokens \+ 1 = 17"):
        prepare_text(text_settings(file))
    file.write_bytes(b"")
    with pytest.raises(DataError, match=r"the training part has 0 tokens"):
        prepare_text(text_settings(file))


def test_prepare_text_tokens_are_small_integers(text_file):
    assert prepare_text(text_settings(text_file)).train_tokens.dtype == np.uint16
