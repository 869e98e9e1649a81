"""The loops of `repetition.py`, compiled: n-grams get numbers, and those of n words come from those of n - 1.

An n-gram is the (n-1)-gram at its beginning and one word more, so two numbers are compared however large n is; and where
the (n-1)-gram occurs once only, nothing has to be looked up at all. Both make long n-grams cheaper than short ones.

All that is called stands in this file, since numba's store of machine code looks at one file only. Read next:
`gopher.py`.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(nogil=True)
def lengthen(words, n, grams, counts, table):
    """Numbers and counts of the n-grams, from those of the (n-1)-grams.

    grams[i] is the place where the gram at place i stands first, counts[i] how often the gram that is first at i occurs.
    `table` is room for a table with open addressing, a power of two; it holds places.
    """
    longer, times = np.empty_like(grams), np.zeros_like(counts)
    mask = np.uint64(len(table) - 1)
    table[:] = -1
    for i in range(len(words) - n + 1):
        longer[i] = i
        if counts[grams[i]] > 1:
            word = words[i + n - 1]
            mixed = (np.uint64(grams[i]) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(word)) * np.uint64(
                0xD1B54A32D192ED03
            )
            slot = (mixed >> np.uint64(32)) & mask
            while table[slot] >= 0:
                first = table[slot]
                if grams[first] == grams[i] and words[first + n - 1] == word:
                    longer[i] = first
                    break
                slot = (slot + np.uint64(1)) & mask
            if longer[i] == i:
                table[slot] = i
        times[longer[i]] += 1
    return longer, times


@numba.njit(nogil=True)
def top_characters(lengths, n, counts):
    """Characters of the most frequent n-gram, the first of several, times its count."""
    best = counts.argmax()
    return (lengths[best : best + n].sum() + n - 1) * counts[best]


@numba.njit(nogil=True)
def duplicated_characters(lengths, n, grams):
    """Characters of n-grams seen before."""
    seen = np.zeros(len(grams), np.bool_)
    characters = i = 0
    while i + n <= len(grams):
        if seen[grams[i]]:
            characters += lengths[i : i + n].sum()
            i += n
        else:
            seen[grams[i]] = True
            i += 1
    return characters


@numba.njit(nogil=True)
def first_excess(words, lengths, num_characters, sizes, shares, num_top):
    """Index of the first limit exceeded, or -1."""
    size = 16
    while size < 2 * len(words):
        size *= 2
    table = np.empty(size, np.int32)
    reached = len(words) + 1  # the n of the grams at hand; none yet
    for index in range(len(sizes)):
        n = sizes[index]
        if len(words) < n:
            continue
        if n < reached:  # begin anew with n = 0, where all grams are one
            reached, grams, counts = 0, np.zeros(len(words), np.int32), np.full(len(words), len(words), np.int32)
        while reached < n:
            reached += 1
            grams, counts = lengthen(words, reached, grams, counts, table)
        if index < num_top:
            characters = top_characters(lengths, n, counts)
        else:
            characters = duplicated_characters(lengths, n, grams)
        if characters / num_characters > shares[index]:
            return index
    return -1
