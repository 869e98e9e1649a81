"""The loops of `repetition.py`, compiled: n-grams are found in a table with open addressing and compared word by word.

Slots carry the stamp of the n-gram size they were filled for, so that the table is not cleared in between. All that is
called stands in this file, since numba's store of machine code looks at one file only. Read next: `gopher.py`.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(nogil=True)
def find(words, n, start, hashed, table, stamps, stamp):
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


@numba.njit(nogil=True)
def gram_hash(words, start, n):
    """Hash of the n-gram at `start`."""
    value = np.uint64(0)
    for k in range(start, start + n):
        value = (value ^ np.uint64(words[k] + 1)) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(32)
    return value


@numba.njit(nogil=True)
def top_characters(words, lengths, n, table, stamps, counts, stamp):
    """Characters of the most frequent n-gram, the first of several, times its count."""
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


@numba.njit(nogil=True)
def duplicated_characters(words, lengths, n, table, stamps, stamp):
    """Characters of n-grams seen before."""
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


@numba.njit(nogil=True)
def first_excess(words, lengths, num_characters, sizes, shares, num_top):
    """Index of the first limit exceeded, or -1."""
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
