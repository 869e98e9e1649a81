"""The loops of `language_model.py`, compiled: the same sums in the same order as fastText's, in single precision.

Read next: `pii.py`.
"""

from __future__ import annotations

import math

import numba
import numpy as np

_LABEL = np.array(list(b"<__label__"), np.uint8)


@numba.njit(nogil=True)
def extended_hash(value, letter):
    """Hash of a string that is one byte longer (FNV-1a, but that bytes count as signed)."""
    return np.uint32((value ^ np.uint32(np.int8(letter))) * np.uint32(16777619))


@numba.njit(nogil=True)
def features(line, rows_of_words, num_words, shortest, longest, num_buckets, kept):
    """Features of each word of a line, in which words stand in <> with one space between: (rows, where each word's end).

    rows_of_words: row of each word, or -1. kept: place of each bucket's row after those of the words, or -1; empty if
    all buckets have one. A word that looks like a label has no features.
    """
    found, ends = np.empty(len(line) * longest + len(rows_of_words), np.int32), np.empty(len(rows_of_words), np.int64)
    size = begin = 0
    for word in range(len(rows_of_words)):
        end = begin
        while end < len(line) and line[end] != 32:
            end += 1
        if end - begin < len(_LABEL) or (line[begin : begin + len(_LABEL)] != _LABEL).any():
            if rows_of_words[word] >= 0:
                found[size], size = rows_of_words[word], size + 1
            for first in range(begin, end):
                if line[first] & 0xC0 == 0x80:  # inside a character
                    continue
                value, i = np.uint32(2166136261), first
                for n in range(1, longest + 1):
                    if i >= end:
                        break
                    value, i = extended_hash(value, line[i]), i + 1
                    while i < end and line[i] & 0xC0 == 0x80:
                        value, i = extended_hash(value, line[i]), i + 1
                    if n < shortest or (n == 1 and (first == begin or i == end)):
                        continue
                    row = np.int64(value) % num_buckets
                    if len(kept):
                        row = np.int64(kept[row])
                    if row >= 0:
                        found[size], size = num_words + row, size + 1
        ends[word] = size
        begin = end + 1
    return found[:size].copy(), ends


@numba.njit(nogil=True)
def mean_row(words, starts, found, rows):
    """Mean of the rows of all features of the words of a text; those of word i are found[starts[i] : starts[i + 1]]."""
    hidden, count = np.zeros(rows.shape[1], np.float32), 0
    for word in words:
        for k in range(starts[word], starts[word + 1]):
            row = found[k]
            for i in range(len(hidden)):
                hidden[i] += rows[row, i]
        count += starts[word + 1] - starts[word]
    if count:
        hidden *= np.float32(1.0 / count)
    return hidden


@numba.njit(nogil=True)
def log(x):
    """Logarithm, finite at 0."""
    return np.float32(math.log(x + 1e-5))


@numba.njit(nogil=True)
def best_label(hidden, output, children):
    """(label, logarithm of its probability), -1 if all are near 0: down the tree, but not where no better one can be."""
    num_labels = len(output)
    nodes, scores = np.empty(len(children), np.int64), np.empty(len(children), np.float32)
    nodes[0], scores[0], size = len(children) - 1, 0, 1
    best, best_score = -1, log(np.float32(0))
    while size:
        size -= 1
        node, score = nodes[size], scores[size]
        if score < best_score:
            continue
        if node < num_labels:
            best, best_score = node, score
            continue
        turn = np.float32(0)
        for i in range(len(hidden)):
            turn += output[node - num_labels, i] * hidden[i]
        right = np.float32(1.0 / (np.float32(1) + np.float32(math.exp(-np.float64(turn)))))
        nodes[size], scores[size] = children[node, 1], score + log(right)
        nodes[size + 1], scores[size + 1] = children[node, 0], score + log(np.float32(1.0 - right))
        size += 2
    return best, best_score
