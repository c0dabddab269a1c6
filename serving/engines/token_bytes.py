"""The bytes of every token of a byte-level tokenizer, read once from its own description. Does not decode streams."""

from __future__ import annotations

import json

from tokenizers.pre_tokenizers import ByteLevel

from experts.tokenizer import Tokenizer


def token_bytes(tokenizer: Tokenizer) -> tuple[bytes, ...] | None:
    """Bytes of every id, special tokens empty; None where a token's text depends on its neighbours."""
    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    if (facts["decoder"] or {}).get("type") != "ByteLevel" or facts["model"]["type"] != "BPE" or facts["model"].get("byte_fallback"):
        return None
    letters = _letters()
    vocab: dict[str, int] = facts["model"]["vocab"]
    added = {token["id"]: token for token in facts["added_tokens"]}
    table = [b""] * (max((*vocab.values(), *added)) + 1)
    for text, number in vocab.items():
        if number not in added:
            if any(letter not in letters for letter in text):
                return None
            table[number] = bytes(letters[letter] for letter in text)
    plain = any(not token["special"] for token in added.values())  # whether such a one stands for itself or for bytes differs between versions
    return None if plain else tuple(table)


def _letters() -> dict[str, int]:
    """The byte that each letter of the byte-level alphabet stands for (GPT-2's bytes_to_unicode)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}
    assert set(letters) == set(ByteLevel.alphabet())
    return letters
