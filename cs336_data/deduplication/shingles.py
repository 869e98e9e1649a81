"""Shingles: a document as the set of its word n-grams, and the Jaccard similarity of two such sets.

    J(A, B) = |A and B| / |A or B|

The text is normalized first, so that copies that differ in case, accents, punctuation or spacing are alike: lower case,
canonical decomposition (NFD), combining marks dropped, punctuation, symbols and controls made spaces (not removed:
"a-b" are two words), white space collapsed.

A document with fewer words than n has no n-gram. Its words together are then its one shingle, and if it has no word at
all, its bytes are; otherwise any two short documents would have 0/0 in common and be called duplicates.

For speed a shingle is represented by a 64-bit hash made from the hashes of its words:

    word      h = (h xor c) * P for each code point c, mixed        shingle   h = h * P + word for each word, mixed

Two of a billion shingles collide with probability 0.03, which changes a similarity by about one in the number of
shingles. Words are what white space and punctuation part, so text without spaces (Chinese, Japanese, Thai) has few and
long ones: only copies of whole sentences are found there.

Source: Broder, On the resemblance and containment of documents (1997); handout problem `minhash_deduplication`. Left
out: character shingles. Read next: `minhash.py`; `compiled_shingles.py` has the same in compiled code.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

MASK = (1 << 64) - 1
WORD_SEED = 0x243F6A8885A308D3
MULTIPLIER = 0x9E3779B97F4A7C15
MIX1, MIX2 = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53


def normalize(text: str) -> str:
    """Words in lower case without accents, parted by single spaces.

    >>> normalize("Caf\\u00e9-au-lait,  twice!")
    'cafe au lait twice'
    """
    decomposed = unicodedata.normalize("NFD", text.lower())
    return " ".join("".join(map(_keep, decomposed)).split())


@functools.cache
def _keep(character: str) -> str:
    """What becomes of a code point that is lower case and decomposed."""
    category = unicodedata.category(character)
    if category == "Mn":
        return ""
    return " " if category[0] in "PSZ" or category == "Cc" else character


def shingles(text: str, n: int) -> set[str]:
    """The word n-grams of a text, as strings: the definition that all else follows.

    >>> sorted(shingles("A rose is a rose is a rose.", 3))
    ['a rose is', 'is a rose', 'rose is a']
    """
    words = normalize(text).split()
    if not words:
        return {f"\0{text}"}
    return {" ".join(words[start : start + n]) for start in range(max(1, len(words) - n + 1))}


def jaccard(first: set[str] | set[int], second: set[str] | set[int]) -> float:
    """The share of the elements of either set that are in both; neither is empty."""
    return len(first & second) / len(first | second)


def shingle_hashes(text: str, n: int) -> npt.NDArray[np.uint64]:
    """Hashes of the shingles of a text in their order, repetitions included.

    Args:
        text: any text without lone surrogates.
        n: words per shingle, at least 1.

    Returns:
        uint64 of shape (max(1, words - n + 1),).
    """
    words = word_hashes(text)
    if len(words) == 0:
        return np.array([hash_bytes(text.encode("utf-8"))], dtype=np.uint64)
    length = min(n, len(words))
    count = len(words) - length + 1
    hashes = np.zeros(count, dtype=np.uint64)
    for position in range(length):
        hashes = hashes * np.uint64(MULTIPLIER) + words[position : position + count]
    return mix(hashes)


def fingerprint(text: str) -> int:
    """One hash of all words in order: two documents with the same one are equal but for normalization."""
    words = word_hashes(text)
    if len(words) == 0:
        return hash_bytes(text.encode("utf-8"))
    value = 0
    for word in words.tolist():
        value = (value * MULTIPLIER + word) & MASK
    return mix_int(value)


def word_hashes(text: str) -> npt.NDArray[np.uint64]:
    """A 64-bit hash for each word of the normalized text."""
    hash_word: Callable[[str], int] = functools.cache(_hash_word)
    return np.array([hash_word(word) for word in normalize(text).split()], dtype=np.uint64)


def _hash_word(word: str) -> int:
    value = WORD_SEED
    for character in word:
        value = (value ^ ord(character)) * MULTIPLIER & MASK
    return mix_int(value)


def hash_bytes(data: bytes) -> int:
    """A hash of bytes that are no words."""
    value = WORD_SEED
    for byte in data:
        value = (value ^ byte) * MULTIPLIER & MASK
    return mix_int(value ^ MASK)


def mix_int(value: int) -> int:
    """Spread every bit over all 64 (the finalizer of MurmurHash3)."""
    value = (value ^ (value >> 33)) * MIX1 & MASK
    value = (value ^ (value >> 33)) * MIX2 & MASK
    return value ^ (value >> 33)


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """`mix_int` of each element."""
    shift = np.uint64(33)
    values = (values ^ (values >> shift)) * np.uint64(MIX1)
    values = (values ^ (values >> shift)) * np.uint64(MIX2)
    return values ^ (values >> shift)
