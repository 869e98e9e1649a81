"""How much of a page repeats itself: n-grams of words that occur again and again.

For n-grams of n words, with characters counted as in the text's n-grams, over the length T of the text:

    top share          count x length of the most frequent n-gram / T               (its words joined by spaces)
    duplicated share   characters of all n-grams seen before, without overlap / T    (its words joined by nothing)

"Without overlap": from left to right; an n-gram seen before is counted and skipped as a whole, a new one is noted and
the window moves by one word. Rae et al. 2021 (Gopher), table A1.

Two forms: `first_excess_reference` says what is meant, `first_excess` is compiled. The latter compares n-grams as
sequences of words, the former as the peers do; "ab c" and "a bc", joined by nothing, are the same only to the former.

Left out: repeated lines and paragraphs, which need no n-grams (`gopher.py`). Read next: `gopher.py`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Limits = Sequence[tuple[int, float]]
"""(n, largest share allowed), in the order in which they are tried."""


def first_excess_reference(words: Sequence[str], num_characters: int, *, top: Limits, duplicated: Limits) -> int:
    """Index of the first limit that a text exceeds, those of `top` first; -1 if none."""
    for index, (n, limit) in enumerate(top):
        grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
        if grams:
            gram, count = Counter(grams).most_common(1)[0]
            if len(gram) * count / num_characters > limit:
                return index
    for index, (n, limit) in enumerate(duplicated, start=len(top)):
        if _duplicated_characters(words, n) / num_characters > limit:
            return index
    return -1


def _duplicated_characters(words: Sequence[str], n: int) -> int:
    """Characters of n-grams seen before."""
    seen: set[str] = set()
    characters = i = 0
    while i + n <= len(words):
        gram = "".join(words[i : i + n])
        if gram in seen:
            characters += len(gram)
            i += n
        else:
            seen.add(gram)
            i += 1
    return characters


def first_excess(
    words: np.ndarray, lengths: np.ndarray, num_characters: int, *, top: Limits, duplicated: Limits
) -> int:
    """Index of the first limit that a text exceeds, those of `top` first; -1 if none.

    Args:
        words: numbers of the words, int64.
        lengths: characters of each, int64.
        num_characters: of the text.
        top: limits of the top share.
        duplicated: limits of the duplicated share.

    Complexity: linear in the words for each n; compiled at first use.
    """
    sizes = np.array([n for n, _ in (*top, *duplicated)], np.int64)
    shares = np.array([limit for _, limit in (*top, *duplicated)], np.float64)
    return int(_kernel()(words, lengths, num_characters, sizes, shares, len(top)))


@functools.cache
def _kernel() -> Callable[..., Any]:
    """Compile the loops; numba keeps the result on disk."""
    import numba

    jit = numba.njit(cache=True, nogil=True)

    @jit
    def find(words, n, start, hashed, table, stamps, stamp):  # type: ignore[no-untyped-def]
        """Slot of the n-gram at `start`, or the free slot where it belongs; table holds where it was seen first."""
        mask = len(table) - 1
        slot = (hashed ^ (hashed >> np.uint64(29))) & np.uint64(mask)
        while stamps[slot] == stamp:
            first, same = table[slot], True
            for k in range(n):
                if words[first + k] != words[start + k]:
                    same = False
                    break
            if same:
                break
            slot = (slot + np.uint64(1)) & np.uint64(mask)
        return slot

    @jit
    def gram_hash(words, start, n):  # type: ignore[no-untyped-def]
        value = np.uint64(0)
        for k in range(start, start + n):
            value = (value ^ np.uint64(words[k] + 1)) * np.uint64(0x9E3779B97F4A7C15)
            value ^= value >> np.uint64(32)
        return value

    @jit
    def top_characters(words, lengths, n, table, stamps, counts, stamp):  # type: ignore[no-untyped-def]
        best = best_count = 0
        for i in range(len(words) - n + 1):
            slot = find(words, n, i, gram_hash(words, i, n), table, stamps, stamp)
            if stamps[slot] != stamp:
                stamps[slot], table[slot], counts[slot] = stamp, i, 0
            counts[slot] += 1
        for i in range(len(words) - n + 1):  # the first of the most frequent, in order of appearance
            slot = find(words, n, i, gram_hash(words, i, n), table, stamps, stamp)
            if counts[slot] > best_count:
                best, best_count = i, counts[slot]
        characters = n - 1
        for k in range(best, best + n):
            characters += lengths[k]
        return characters * best_count

    @jit
    def duplicated_characters(words, lengths, n, table, stamps, stamp):  # type: ignore[no-untyped-def]
        characters = i = 0
        while i + n <= len(words):
            slot = find(words, n, i, gram_hash(words, i, n), table, stamps, stamp)
            if stamps[slot] == stamp:
                for k in range(i, i + n):
                    characters += lengths[k]
                i += n
            else:
                stamps[slot], table[slot] = stamp, i
                i += 1
        return characters

    @jit
    def first(words, lengths, num_characters, sizes, shares, num_top):  # type: ignore[no-untyped-def]
        size = 16
        while size < 2 * len(words):
            size *= 2
        table, stamps, counts = np.empty(size, np.int64), np.zeros(size, np.int64), np.empty(size, np.int64)
        for index in range(len(sizes)):
            n = sizes[index]
            if len(words) < n:
                continue
            if index < num_top:
                characters = top_characters(words, lengths, n, table, stamps, counts, index + 1)
            else:
                characters = duplicated_characters(words, lengths, n, table, stamps, index + 1)
            if characters / num_characters > shares[index]:
                return index
        return -1

    return first
