"""Byte-pair encoding by brute force, the oracle of the tokenizer tests: recount every pair before every merge.

Kept as simple as possible and far too slow for real corpora; it shares no code with any package.
"""

from __future__ import annotations

from collections import Counter

import regex

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
Pair = tuple[bytes, bytes]


def pretokens(text: str, special_tokens: list[str]) -> Counter[tuple[bytes, ...]]:
    """How often each pre-token occurs, as a tuple of single bytes; special tokens are boundaries and are dropped."""
    pieces = [text]
    for special in sorted(special_tokens, key=len, reverse=True):
        pieces = [part for piece in pieces for part in piece.split(special)]
    words = (match.encode() for piece in pieces for match in regex.findall(GPT2_PATTERN, piece))
    return Counter(tuple(bytes([byte]) for byte in word) for word in words)


def merge_word(word: tuple[bytes, ...], pair: Pair) -> tuple[bytes, ...]:
    """The word with `pair` joined from left to right, so that (a, a, a) becomes (aa, a)."""
    merged: list[bytes] = []
    i = 0
    while i < len(word):
        if word[i : i + 2] == pair:
            merged.append(word[i] + word[i + 1])
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return tuple(merged)


def naive_train_bpe(text: str, vocab_size: int, special_tokens: list[str]) -> tuple[set[bytes], list[Pair]]:
    """(set of vocabulary items, merges in order); ties go to the greater pair of raw bytes."""
    words = pretokens(text, special_tokens)
    merges: list[Pair] = []
    while len(merges) < vocab_size - 256 - len(special_tokens):
        counts: Counter[Pair] = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += count
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        merged_words: Counter[tuple[bytes, ...]] = Counter()
        for word, count in words.items():
            merged_words[merge_word(word, best)] += count
        words = merged_words
    vocab = {bytes([byte]) for byte in range(256)} | {a + b for a, b in merges} | {s.encode() for s in special_tokens}
    return vocab, merges
