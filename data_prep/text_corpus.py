"""A plain text as two long rows of tokens: read, cut in a training and a held-out part, tokenized.

For language models of running text, without records, roles and end tokens. The held-out part is the end of the file, as nanoGPT
cuts it. Windows of fixed length are cut by training/windows.py; records and prose passages are other files' work.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.sources import DataError
from experts import tokenizer as tokenizers
from experts.tokenizer import Tokenizer
from settings import Settings

logger = logging.getLogger(__name__)

DOMAIN = "text"  # name of the one domain of such a corpus, and of the node that learns it
_PIECE_CHARS = 65_536  # tokenized at once; cut at line ends, so that hardly a word is cut


@dataclass(frozen=True, slots=True)
class TextCorpus:
    """Tokens of both parts (uint16, uint32 above 65,536 entries). token_bytes: UTF-8 bytes that each entry of the vocabulary stands for."""

    tokenizer: Tokenizer
    fingerprint: str
    train_tokens: NDArray[Any] = field(repr=False)
    validation_tokens: NDArray[Any] = field(repr=False)
    token_bytes: NDArray[np.int64] = field(repr=False)


def prepare_text(settings: Settings) -> TextCorpus:
    """The corpus of settings.data.path; the same file and settings give the same one.

    Raises DataError when the file is absent, no UTF-8, or too short for one window of train.row_tokens in each part.
    """
    text = read_text(settings.data.path)
    cut = int(len(text) * (1 - settings.text.validation_share))
    parts = text[:cut], text[cut:]
    tokenizer = tokenizers.train(pieces(parts[0]), settings=settings.tokenizer)
    sizes = _token_bytes(tokenizer, kind=settings.tokenizer.kind)
    train, held_out = (_tokens(tokenizer, part) for part in parts)
    least = settings.train.row_tokens + 1
    for name, tokens in (("training", train), ("held-out", held_out)):
        if len(tokens) < least:
            raise DataError(f"{settings.data.path}: the {name} part has {len(tokens)} tokens, and one window takes train.row_tokens + 1 = {least}; "
                            "give a longer text, lower train.row_tokens or change text.validation_share")
    digest = hashlib.sha256(text.encode()).hexdigest()
    fingerprint = hashlib.sha256(f"{digest} {cut} {tokenizers.fingerprint(tokenizer)}".encode()).hexdigest()
    logger.info("%s: %d characters, %d + %d tokens, vocabulary %d", settings.data.path, len(text), len(train), len(held_out), len(tokenizer))
    return TextCorpus(tokenizer, fingerprint, train, held_out, sizes)


def read_text(path: str | None) -> str:
    """The text of a UTF-8 file, line ends as they are."""
    if path is None:
        raise DataError("this recipe learns plain text and data.path is unset; name any UTF-8 text file with --data FILE, "
                        "as in --data tinyshakespeare.txt")
    file = Path(path)
    if file.is_dir():
        raise DataError(f"{file} is a folder, and this recipe learns one text file; name it with --data FILE")
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"no text at {file.absolute()}; put a UTF-8 text file there (RESULTS.md uses Tiny Shakespeare, 1.1 MB), "
                        "or name another with --data FILE") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}; convert it to UTF-8") from None
    except OSError as error:
        raise DataError(f"{file} can't be read: {error}") from None


def pieces(text: str) -> list[str]:
    """The text in pieces, each cut after the last line end that fits; joined they are the text."""
    found, first = [], 0
    while first < len(text):
        last = min(first + _PIECE_CHARS, len(text))
        line_end = text.rfind("\n", first, last) + 1
        last = line_end if last < len(text) and line_end > first else last
        found.append(text[first:last])
        first = last
    return found


def _tokens(tokenizer: Tokenizer, text: str) -> NDArray[Any]:
    ids: list[Sequence[int]] = list(tokenizers.text_ids_batch(tokenizer, pieces(text)))
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    return np.concatenate([np.array(each, dtype=dtype) for each in ids]) if ids else np.zeros(0, dtype=dtype)


def _token_bytes(tokenizer: Tokenizer, *, kind: str) -> NDArray[np.int64]:
    sizes = np.zeros(len(tokenizer), dtype=np.int64)
    for entry, number in tokenizer.get_vocab().items():
        if entry in tokenizers.SPECIAL_TOKENS:
            continue
        byte = entry.startswith("<0x") and len(entry) == 6
        # Byte-level vocabularies spell a byte as one character; a character vocabulary has characters, and bytes as <0x41>.
        sizes[number] = (1 if byte else len(entry.encode())) if kind == "char" else len(entry)
    return sizes
