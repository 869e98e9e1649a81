"""The loops of `repetition.py`, compiled: n-grams get numbers, and those of n words come from those of n - 1.

An n-gram is the (n-1)-gram at its beginning and one word more, so two numbers are compared however large n is; and where
the (n-1)-gram occurs once only, so does the n-gram, and the place is looked at no more. Both make long n-grams cheaper
than short ones.

grams[i] is the place where the gram at place i stands first, times[i] how often the gram that is first at i occurs, 0
where none is; `places` are those, in order, whose gram occurs more than once. Read next: `gopher.py`.
"""

# The types of kernels are numba's affair.
# mypy: no-check-untyped-defs
from __future__ import annotations

import numpy as np

from cs336_basics.tokenization.compiled_kernel import kernel


@kernel
def lengthen(words, n, places, count, grams, longer, times, table):
    """From (n-1)-grams to n-grams in `longer`; returns how many `places` are left. `table` is room for a hash table."""
    size = 16
    while size < 2 * count:
        size *= 2
    for slot in range(size):
        table[slot] = -1
    mask, end = np.uint64(size - 1), 0
    while end < count and places[end] + n <= len(words):
        i = places[end]
        first, word = i, words[i + n - 1]
        mixed = (np.uint64(grams[i]) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(word)) * np.uint64(0xD1B54A32D192ED03)
        slot = (mixed >> np.uint64(32)) & mask
        while table[slot] >= 0:
            other = table[slot]
            if grams[other] == grams[i] and words[other + n - 1] == word:
                first = other
                break
            slot = (slot + np.uint64(1)) & mask
        if first == i:
            table[slot], times[i] = i, 0
        longer[i] = first
        times[first] += 1
        end += 1
    left = 0
    for k in range(end):
        if times[longer[places[k]]] > 1:
            places[left], left = places[k], left + 1
    return left


@kernel
def characters_from(lengths, begin, n):
    """Characters of n words."""
    characters = 0
    for i in range(begin, begin + n):
        characters += lengths[i]
    return characters


@kernel
def top_characters(lengths, n, places, count, times):
    """Characters of the most frequent n-gram, the first of several, times its count."""
    best, most = 0, 1
    for k in range(count):
        if times[places[k]] > most:
            best, most = places[k], times[places[k]]
    return (characters_from(lengths, best, n) + n - 1) * most


@kernel
def duplicated_characters(lengths, n, places, count, grams, times):
    """Characters of n-grams seen before; sets the times of those seen to 0."""
    characters = free = 0
    for k in range(count):
        i = places[k]
        if i < free:
            continue
        if times[grams[i]] == 0:
            characters += characters_from(lengths, i, n)
            free = i + n
        times[grams[i]] = 0
    return characters


@kernel
def first_excess(words, lengths, num_characters, sizes, shares, num_top, places, grams, longer, times, table):
    """Index of the first limit exceeded, or -1. The last five are room: a number per word, and four in `table`."""
    reached, count = len(words) + 1, 0  # the n of the grams at hand; none yet
    for index in range(len(sizes)):
        n = sizes[index]
        if len(words) < n:
            continue
        if n <= reached:  # begin anew with words as grams, or with n = 0, where all grams are one
            reached, count = min(1, n - 1), len(words)
            for i in range(count):
                places[i], grams[i], times[i] = i, reached * words[i], 0
        while reached < n:
            reached += 1
            count = lengthen(words, reached, places, count, grams, longer, times, table)
            grams, longer = longer, grams
        if index < num_top:
            characters = top_characters(lengths, n, places, count, times)
        else:
            characters = duplicated_characters(lengths, n, places, count, grams, times)
        if characters / num_characters > shares[index]:
            return index
    return -1
