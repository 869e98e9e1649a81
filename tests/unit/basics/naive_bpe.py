"""Brute-force oracles for tokenization: written for obviousness, without the library's code, quadratic everywhere."""

from __future__ import annotations

import regex

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


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


def pretokens(text: str, specials: list[str], pattern: str = PATTERN) -> list[str]:
    """All pre-tokens of the whole text, special tokens left out."""
    return [
        match.group()
        for part, is_special in split_specials(text, specials)
        if not is_special
        for match in regex.finditer(pattern, part)
    ]


def merge(word: tuple[bytes, ...], pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    """Merge a pair in one word, recursively from the left."""
    if len(word) < 2:
        return word
    if word[:2] == pair:
        return (word[0] + word[1], *merge(word[2:], pair))
    return (word[0], *merge(word[1:], pair))


def train(text: str, num_merges: int, specials: list[str], pattern: str = PATTERN) -> list[tuple[bytes, bytes]]:
    """Count every pair of every pre-token occurrence anew for each merge."""
    words = [tuple(bytes([b]) for b in word.encode("utf-8")) for word in pretokens(text, specials, pattern)]
    merges = []
    for _ in range(num_merges):
        counts: dict[tuple[bytes, bytes], int] = {}
        for word in words:
            for left, right in zip(word, word[1:], strict=False):
                counts[left, right] = counts.get((left, right), 0) + 1
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        words = [merge(word, best) for word in words]
    return merges


def encode(text: str, vocab: dict[int, bytes], merges: list[tuple[bytes, bytes]], specials: list[str]) -> list[int]:
    """Apply each merge of the list in turn to each pre-token."""
    ids = {token: token_id for token_id, token in vocab.items()}
    out = []
    for part, is_special in split_specials(text, specials):
        if is_special:
            out.append(ids[part.encode("utf-8")])
            continue
        for match in regex.finditer(PATTERN, part):
            word = tuple(bytes([b]) for b in match.group().encode("utf-8"))
            for pair in merges:
                word = merge(word, pair)
            out += [ids[token] for token in word]
    return out
