"""Byte-pair encoding by brute force, the oracle of the tokenizer tests: recount every pair before every merge.

Kept as simple as possible and far too slow for real corpora; it shares no code with any package.
"""

from __future__ import annotations

from collections import Counter

import regex

from .fixtures.tokenizer_files import GPT2_PATTERN

Pair = tuple[bytes, bytes]
Word = tuple[bytes, ...]


def split_specials(text: str, specials: list[str]) -> list[tuple[str, bool]]:
    """Walk through the text; at each place take the longest special token that starts there."""
    parts, ordinary, position = [], "", 0
    while position < len(text):
        here = [token for token in specials if text.startswith(token, position)]
        if here:
            parts += [(ordinary, False), (max(here, key=len), True)]
            position += len(max(here, key=len))
            ordinary = ""
        else:
            ordinary += text[position]
            position += 1
    return [part for part in [*parts, (ordinary, False)] if part[0]]


def pretokens(text: str, specials: list[str], pattern: str = GPT2_PATTERN) -> list[str]:
    """All pre-tokens of the whole text, special tokens left out."""
    return [
        match.group()
        for part, is_special in split_specials(text, specials)
        if not is_special
        for match in regex.finditer(pattern, part)
    ]


def as_bytes(word: str) -> Word:
    """A pre-token as a tuple of single bytes."""
    return tuple(bytes([byte]) for byte in word.encode("utf-8"))


def merge(word: Word, pair: Pair) -> Word:
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


def train_on_words(words: Counter[Word], num_merges: int, tie_break: str = "bytes") -> list[Pair]:
    """Count every pair of every word anew for each merge; "ids" breaks ties by the lower ids, else greater bytes."""
    ids = {bytes([byte]): byte for byte in range(256)}
    merges: list[Pair] = []
    while len(merges) < num_merges:
        counts: Counter[Pair] = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += count
        counts = +counts  # pairs of words that never occur do not count
        if not counts:
            break
        if tie_break == "ids":
            best = min(counts, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        else:
            best = max(counts, key=lambda pair: (counts[pair], pair))
        ids[best[0] + best[1]] = len(ids)
        merges.append(best)
        merged_words: Counter[Word] = Counter()
        for word, count in words.items():
            merged_words[merge(word, best)] += count
        words = merged_words
    return merges


def train(
    text: str, num_merges: int, specials: list[str], pattern: str = GPT2_PATTERN, tie_break: str = "bytes"
) -> list[Pair]:
    """The merges of a text."""
    return train_on_words(Counter(map(as_bytes, pretokens(text, specials, pattern))), num_merges, tie_break)


def naive_train_bpe(text: str, vocab_size: int, special_tokens: list[str]) -> tuple[set[bytes], list[Pair]]:
    """(set of vocabulary items, merges in order); ties go to the greater pair of raw bytes."""
    merges = train(text, vocab_size - 256 - len(special_tokens), special_tokens)
    vocab = {bytes([byte]) for byte in range(256)} | {a + b for a, b in merges} | {s.encode() for s in special_tokens}
    return vocab, merges


def encode(
    text: str, vocab: dict[int, bytes], merges: list[Pair], specials: list[str], pattern: str = GPT2_PATTERN
) -> list[int]:
    """Apply each merge of the list in turn to each pre-token."""
    ids = {token: token_id for token_id, token in vocab.items()}
    out = []
    for part, is_special in split_specials(text, specials):
        if is_special:
            out.append(ids[part.encode("utf-8")])
            continue
        for match in regex.finditer(pattern, part):
            word = as_bytes(match.group())
            for pair in merges:
                word = merge(word, pair)
            out += [ids[token] for token in word]
    return out
