"""Examples as token documents, documents as shards on disk, and documents into rows without padding.

A document is prompt + answer + end token; the loss counts from its answer start. Rows hold whole documents; the trainer lays
them side by side and keeps them apart. Does not train, and knows no optimizer's batch.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.records import Example
from experts.durable import sha256_of
from experts.tokenizer import Tokenizer, end_id, frame, text_ids_batch

BATCH_EXAMPLES = 2000  # examples tokenized at once: enough for all cores, little memory
WINDOW_DOCUMENTS = 8192  # documents packed together: wide enough to fill rows, narrow enough that rows mix long and short
MIN_PROMPT_SHARE = 0.25  # what a prompt keeps of a row when the response alone would fill it
_PARTS = ("tokens", "starts", "answer_starts")


class DamagedShard(ValueError):
    """A shard that isn't what was written. The message names the file and the difference."""


@dataclass(frozen=True, slots=True)
class Document:
    """One example as tokens. answer_start: place of the first token of the answer. cut: of what tokens were cut off, and how many."""

    tokens: Sequence[int]
    answer_start: int
    cut: Literal["", "prompt", "response"] = ""
    cut_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """What was written: documents, tokens, tokens that count in the loss; documents cut in prompt or response, and tokens cut off."""

    documents: int
    tokens: int
    answer_tokens: int
    cut_prompts: int
    cut_responses: int
    cut_tokens: int


@dataclass(frozen=True, slots=True)
class Shard:
    """Documents of one domain and split. Document i is tokens[starts[i]:starts[i + 1]]; its answer begins at answer_starts[i].

    tokens: uint16 (uint32 for vocabularies above 65,536), memory-mapped; starts: int64, one more than documents;
    answer_starts: int64, counted from the start of tokens.
    """

    tokens: NDArray[Any]
    starts: NDArray[np.int64]
    answer_starts: NDArray[np.int64]

    @classmethod
    def open(cls, folder: Path, name: str) -> Shard:
        """Map a shard. Raises DamagedShard when its parts are absent or don't fit together."""
        try:
            # An empty file can't be mapped.
            parts = [np.load(_file(folder, name, part), mmap_mode="r" if part == "tokens" and _tokens_in(folder, name) else None, allow_pickle=False)
                     for part in _PARTS]
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise DamagedShard(f"shard {name} in {folder} can't be opened: {error}") from error
        shard = cls(*parts)
        documents = len(shard.answer_starts)
        if len(shard.starts) != documents + 1 or int(shard.starts[-1]) != len(shard.tokens):
            raise DamagedShard(f"shard {name} in {folder}: {len(shard.tokens)} tokens, {len(shard.starts)} starts and {documents} answers don't fit together")
        return shard

    def __len__(self) -> int:
        return len(self.answer_starts)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""
        return np.diff(self.starts)


def _file(folder: Path, name: str, part: str) -> Path:
    return folder / f"{name}.{part}.npy"


def _tokens_in(folder: Path, name: str) -> int:
    facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return int(facts["tokens"])


def write_shard(folder: Path, name: str, documents: Iterable[Document], *, vocab_size: int) -> ShardFacts:
    """Write the parts and <name>.json with their sha256 into an existing folder that the caller makes whole (durable.new_folder)."""
    tokens = array("H" if vocab_size <= 2**16 else "I")
    starts, answers, cuts = array("q", [0]), array("q"), {"": 0, "prompt": 0, "response": 0}
    answer_tokens = cut_tokens = 0
    for document in documents:
        answers.append(len(tokens) + document.answer_start)
        tokens.extend(document.tokens)
        starts.append(len(tokens))
        answer_tokens += len(document.tokens) - document.answer_start
        cut_tokens += document.cut_tokens
        cuts[document.cut] += 1
    for part, values in zip(_PARTS, (tokens, starts, answers), strict=True):
        np.save(_file(folder, name, part), np.array(values, dtype=values.typecode), allow_pickle=False)
    facts = ShardFacts(len(answers), len(tokens), answer_tokens, cuts["prompt"], cuts["response"], cut_tokens)
    hashes = {part: sha256_of(_file(folder, name, part)) for part in _PARTS}
    (folder / f"{name}.json").write_text(json.dumps({"documents": facts.documents, "tokens": facts.tokens, "sha256": hashes}) + "\n", encoding="utf-8")
    return facts


def verify_shard(folder: Path, name: str) -> None:
    """Raises DamagedShard when a file isn't the one that was written."""
    try:
        hashes = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["sha256"]
        wrong = [part for part in _PARTS if sha256_of(_file(folder, name, part), cached=True) != hashes[part]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedShard(f"shard {name} in {folder} can't be read: {error}") from error
    if wrong:
        raise DamagedShard(f"shard {name} in {folder}: {', '.join(wrong)} differ from what was written")


def documents(examples: Sequence[Example], *, tokenizer: Tokenizer, max_tokens: int) -> Iterator[Document]:
    """Documents of examples, in order: prompt_ids + answer_ids of experts.tokenizer, tokenized in batches, cut to max_tokens."""
    end = end_id(tokenizer)
    for first in range(0, len(examples), BATCH_EXAMPLES):
        batch = examples[first:first + BATCH_EXAMPLES]
        conversations = [example.messages for example in batch]
        texts = [message["content"] for messages in conversations for message in messages] + [example.response for example in batch]
        ids = iter(text_ids_batch(tokenizer, texts))
        prompts = [_prompt(frame(tokenizer, [message["role"] for message in messages]), ids) for messages in conversations]
        for prompt, answer in zip(prompts, ids, strict=True):
            yield fit(prompt, [*answer, end], max_tokens=max_tokens)


def _prompt(pieces: Sequence[Sequence[int]], contents: Iterator[list[int]]) -> list[int]:
    """The pieces of a frame with the next contents between them."""
    tokens = list(pieces[0])
    for piece in pieces[1:]:
        tokens += [*next(contents), *piece]
    return tokens


def fit(prompt: Sequence[int], answer: Sequence[int], *, max_tokens: int) -> Document:
    """A document of at most max_tokens. The answer stays whole where it leaves the prompt a quarter of the row: the prompt then
    loses its oldest part (its first token, a role mark, stays). Else the answer loses its tail, end token included: a model
    must not learn to stop there."""
    if len(prompt) + len(answer) <= max_tokens:
        return Document([*prompt, *answer], len(prompt))
    least = min(len(prompt), max(2, int(max_tokens * MIN_PROMPT_SHARE)))
    room = max(least, max_tokens - len(answer))
    kept = prompt if room >= len(prompt) else [prompt[0], *prompt[len(prompt) - room + 1:]]
    whole = len(kept) + len(answer) <= max_tokens
    tokens = [*kept, *answer[:max_tokens - len(kept)]]
    return Document(tokens, len(kept), "prompt" if whole else "response", len(prompt) + len(answer) - len(tokens))


def pack_rows(lengths: Sequence[int] | NDArray[np.int64], *, row_tokens: int, seed: int) -> list[list[int]]:
    """Rows of document numbers, each row at most row_tokens long, every document once; the same seed gives the same rows.

    Best fit decreasing (Johnson 1974) within windows of shuffled documents, rows shuffled after; a row that a window leaves
    with room is packed again with the next one. Raises ValueError for a document longer than a row.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(sizes) and (int(sizes.max()) > row_tokens or int(sizes.min()) < 1):
        raise ValueError(f"documents of {int(sizes.min())} to {int(sizes.max())} tokens can't be packed into rows of {row_tokens} tokens; "
                         f"cut them to at most {row_tokens} (fit does) and leave empty ones out")
    random = np.random.default_rng(seed)
    order = random.permutation(len(sizes))
    rows: list[list[int]] = []
    carried: list[int] = []
    for first in range(0, len(order), WINDOW_DOCUMENTS):
        last = first + WINDOW_DOCUMENTS >= len(order)
        full, open_rows = _best_fit(np.concatenate([np.asarray(carried, dtype=np.int64), order[first:first + WINDOW_DOCUMENTS]]), sizes, row_tokens=row_tokens)
        # The emptiest rows, and at most half a window of them: documents that fill no row whatever comes mustn't pile up.
        kept_open = 0 if last else bisect_right(list(accumulate(map(len, reversed(open_rows)))), WINDOW_DOCUMENTS // 2)
        again = len(open_rows) - kept_open
        rows += full + open_rows[:again]
        carried = [document for row in open_rows[again:] for document in row]
    return [rows[index] for index in random.permutation(len(rows))]


def _best_fit(window: NDArray[np.int64], sizes: NDArray[np.int64], *, row_tokens: int) -> tuple[list[list[int]], list[list[int]]]:
    """Rows filled to 98 % or more, and the others. Longest first, each into the fullest row with room for it.

    Rows stand in lists by free space; the bits of an integer say which lists aren't empty, so the tightest one is found by a
    shift and a mask.
    """
    by_space: list[list[list[int]]] = [[] for _ in range(row_tokens + 1)]
    filled = 0
    in_order = window[np.argsort(-sizes[window], kind="stable")]
    for document, size in zip(in_order.tolist(), sizes[in_order].tolist(), strict=True):
        fitting = filled >> size
        if fitting:
            space = size + (fitting & -fitting).bit_length() - 1
            row = by_space[space].pop()
            if not by_space[space]:
                filled ^= 1 << space
            row.append(document)
        else:
            space, row = row_tokens, [document]
        by_space[space - size].append(row)
        filled |= 1 << (space - size)
    slack = row_tokens // 50
    return [row for rows in by_space[:slack + 1] for row in rows], [row for rows in by_space[slack + 1:] for row in rows]


def efficiency(lengths: Sequence[int] | NDArray[np.int64], *, row_tokens: int, seed: int = 0) -> float:
    """Share of the places of packed rows that hold a token; 1.0 when there is nothing to pack."""
    rows = pack_rows(lengths, row_tokens=row_tokens, seed=seed)
    return float(np.sum(lengths)) / (len(rows) * row_tokens) if rows else 1.0
