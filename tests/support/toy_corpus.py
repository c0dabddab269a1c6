"""A corpus in memory and a model of a few thousand numbers, for tests of training."""

from dataclasses import dataclass

import numpy as np

from data_prep.text_corpus import TextCorpus
from experts.architectures import build
from settings import ModelSettings, TrainSettings

VOCABULARY = 40


@dataclass(frozen=True)
class MemoryShard:
    """The three arrays that data_prep.pack.Shard has."""

    tokens: np.ndarray
    starts: np.ndarray
    answer_starts: np.ndarray


@dataclass(frozen=True)
class MemoryCorpus:
    """What the trainer reads of a corpus. shards: {(domain, split): MemoryShard}."""

    shards: dict
    fingerprint: str = "in memory"

    def shard(self, domain, split):
        return self.shards[domain, split]


def shard_of(documents):
    """documents: pairs of (tokens, place of the first answer token)."""
    starts = np.cumsum([0, *(len(tokens) for tokens, _ in documents)]).astype(np.int64)
    tokens = np.array([token for document, _ in documents for token in document], dtype=np.uint16)
    return MemoryShard(tokens, starts, np.array([start + answer for start, (_, answer) in zip(starts, documents, strict=False)], dtype=np.int64))


def counting_documents(count, *, seed, step=1):
    """Documents that count upwards from a random number: learnable in a few steps; the first three tokens are the prompt."""
    random = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        first, length = int(random.integers(2, VOCABULARY)), int(random.integers(6, 20))
        documents.append(([2 + (first + step * place) % (VOCABULARY - 2) for place in range(length)], 3))
    return documents


def counting_corpus(domains=("up", "down"), *, count=60):
    """Each domain counts in steps of its own."""
    shards = {}
    for number, domain in enumerate(domains):
        shards[domain, "train"] = shard_of(counting_documents(count, seed=number, step=number * 2 + 1))
        shards[domain, "validation"] = shard_of(counting_documents(12, seed=100 + number, step=number * 2 + 1))
    return MemoryCorpus(shards)


def toy_model(*, seed=0, layers=2):
    """A Qwen3 of about 9,000 numbers."""
    settings = ModelSettings(layers=layers, width=16, heads=4, kv_heads=2, intermediate=32, context_tokens=64)
    return build(settings, vocab_size=VOCABULARY, end_id=0, pad_id=1, seed=seed)


def toy_training(**changes):
    """Settings for it: one thread's work, exact, no saving by the clock."""
    toy = {"row_tokens": 48, "batch_rows": 3, "precision": "fp32", "compile": "off", "checkpoint_every_s": 3600.0, "validate_every_steps": 1000}
    return TrainSettings(**{**toy, **changes})


def counting_text(*, tokens=2000, held_out=500, fingerprint="in memory"):
    """A plain text without a tokenizer that counts upwards over and over; every token stands for one byte."""
    def count(length):
        return (np.arange(length) % (VOCABULARY - 2) + 2).astype(np.uint16)

    return TextCorpus(None, fingerprint, count(tokens), count(held_out), np.ones(VOCABULARY, dtype=np.int64))
