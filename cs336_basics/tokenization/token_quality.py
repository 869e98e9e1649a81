"""What a vocabulary costs a model: tokens too rare to be learned, parameters, and time.

An embedding is trained only when its token occurs. By Zipf's law most of a large vocabulary is rare, so a count of
each token in a sample tells which embeddings will stay near where they started ("undertrained"). Every token has a row
in the embedding and, unless they are tied, one in the head:

    share = (V d + V d) / all parameters            V d once when tied

Left out: tokens that occur but are learned badly (they need the model's weights). Read next: `report.py`.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass

import numpy as np

from cs336_basics.accounting import parameter_counts
from cs336_basics.model_config import ModelConfig
from cs336_basics.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class RareToken:
    """A token and how often it occurs in the sample."""

    token_id: int
    token: bytes
    count: int


@dataclass(frozen=True)
class VocabularyShare:
    """Parameters that a vocabulary of `vocab_size` brings into a model."""

    vocab_size: int
    embedding: int
    head: int
    total: int

    @property
    def share(self) -> float:
        """Part of all parameters, in [0, 1]."""
        return (self.embedding + self.head) / self.total


def token_counts(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """How often each id occurs in the encoded text; int64 of shape (vocab_size,)."""
    return np.bincount(np.array(tokenizer.encode(text), dtype=np.int64), minlength=tokenizer.vocab_size)


def undertrained_tokens(tokenizer: Tokenizer, counts: np.ndarray, *, threshold: int) -> list[RareToken]:
    """Ordinary tokens that occur fewer than `threshold` times, the rarest first, then by id.

    Args:
        tokenizer: special tokens are left out, since text does not hold them.
        counts: of each id, as `token_counts` gives them.
        threshold: at least 1; 1 gives the tokens that never occur.

    Raises:
        ValueError: a threshold below 1, or counts of another vocabulary.
    """
    if threshold < 1:
        raise ValueError(f"threshold must be at least 1; got {threshold}")
    _check_counts(tokenizer, counts)
    rare = [
        RareToken(token_id, tokenizer.vocab[token_id], int(counts[token_id]))
        for token_id in _ordinary_ids(tokenizer)
        if counts[token_id] < threshold
    ]
    return sorted(rare, key=lambda token: (token.count, token.token_id))


def length_histogram(tokenizer: Tokenizer, counts: np.ndarray) -> dict[int, tuple[int, int]]:
    """Length in bytes -> (ordinary tokens of this length in the vocabulary, their occurrences in the sample).

    Raises:
        ValueError: counts of another vocabulary.
    """
    _check_counts(tokenizer, counts)
    histogram: dict[int, tuple[int, int]] = {}
    for token_id in _ordinary_ids(tokenizer):
        length = len(tokenizer.vocab[token_id])
        kinds, occurrences = histogram.get(length, (0, 0))
        histogram[length] = (kinds + 1, occurrences + int(counts[token_id]))
    return dict(sorted(histogram.items()))


def vocabulary_share(model: ModelConfig, vocab_size: int) -> VocabularyShare:
    """Parameters of embedding and head in a model of this shape, whatever vocabulary its config names."""
    counts = parameter_counts(dataclasses.replace(model, vocab_size=vocab_size))
    return VocabularyShare(vocab_size, counts["token embeddings"], counts["head"], sum(counts.values()))


def encode_throughput(tokenizer: Tokenizer, text: str, *, repeats: int = 3) -> float:
    """Bytes of text encoded per second: the median of some runs, each with a tokenizer that has seen no text yet."""
    seconds = []
    for _ in range(repeats):
        fresh = Tokenizer(tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens, pattern=tokenizer.pattern)
        started = time.perf_counter()
        fresh.encode(text)
        seconds.append(time.perf_counter() - started)
    return len(text.encode("utf-8")) / max(statistics.median(seconds), 1e-9)


def _ordinary_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids in use that are not of special tokens."""
    special_ids = {tokenizer.special_id(token) for token in tokenizer.special_tokens}
    return sorted(token_id for token_id in tokenizer.vocab if token_id not in special_ids)


def _check_counts(tokenizer: Tokenizer, counts: np.ndarray) -> None:
    if len(counts) != tokenizer.vocab_size:
        raise ValueError(f"counts must have one entry per id: {tokenizer.vocab_size}; got {len(counts)}")
