"""The loops of `language_model.py`, compiled: the same sums in the same order as fastText's, in single precision.

Read next: `pii.py`.
"""

from __future__ import annotations

import math

import numpy as np

from cs336_basics.tokenization.compiled_kernel import kernel
from cs336_data.compiled_interning import number_of

_LABEL = np.array(list(b"__label__"), np.uint8)


@kernel
def extended_hash(value, letter):
    """Hash of a string that is one byte longer (FNV-1a, but that bytes count as signed)."""
    return np.uint32((value ^ np.uint32(np.int8(letter))) * np.uint32(16777619))


@kernel
def is_label(text, begin, end):
    """Whether a word looks like a label, which has no features."""
    if end - begin < len(_LABEL):
        return False
    for i in range(len(_LABEL)):
        if text[begin + i] != _LABEL[i]:
            return False
    return True


@kernel
def features(text, ends, first, last, known, ngrams, room, starts, rows):
    """Features of the words i = first ... last - 1, text[ends[i] : ends[i + 1]]: rows[starts[i] : starts[i + 1]].

    known: the words that have a row (slots, bytes and size of an `Interner`).
    ngrams: lengths of the shortest and longest, number of buckets; place of each bucket's row after those of the words,
        empty if all have one; a bit for each bucket that has one, since few have and the bits stay in the cache.
    room: for what `number_of` writes, and for the longest word in its <>.
    """
    slots, words, num_words = known
    shortest, longest, num_buckets, kept, present = ngrams
    keys, word = room
    size = starts[first]
    for number in range(first, last):
        begin, length = ends[number], ends[number + 1] - ends[number] + 2
        if not is_label(text, begin, ends[number + 1]):
            row = number_of(text, begin, ends[number + 1], slots, words, keys)
            if row >= 0:
                rows[size], size = row, size + 1
            word[0], word[length - 1] = 60, 62
            for i in range(1, length - 1):
                word[i] = text[begin + i - 1]
            for start in range(length):
                if word[start] & 0xC0 == 0x80:  # inside a character
                    continue
                value, i = np.uint32(2166136261), start
                for n in range(1, longest + 1):
                    if i >= length:
                        break
                    value, i = extended_hash(value, word[i]), i + 1
                    while i < length and word[i] & 0xC0 == 0x80:
                        value, i = extended_hash(value, word[i]), i + 1
                    if n < shortest or (n == 1 and (start == 0 or i == length)):
                        continue
                    row = np.int64(value % np.uint32(num_buckets))
                    if len(kept):
                        if not present[row >> 3] >> (row & 7) & 1:
                            continue
                        row = np.int64(kept[row])
                    rows[size], size = num_words + row, size + 1
        starts[number + 1] = size


@kernel
def mean_row(words, starts, rows, table, hidden):
    """Into `hidden`: the mean of the table's rows for all features of the words, of which number 0 is the last.

    Those of word i are rows[starts[i] : starts[i + 1]].
    """
    hidden[:] = 0
    count = 0
    for word in words:
        for k in range(starts[word], starts[word + 1]):
            row = rows[k]
            for i in range(len(hidden)):
                hidden[i] += table[row, i]
        count += starts[word + 1] - starts[word]
        if word == 0:
            break
    if count:
        for i in range(len(hidden)):
            hidden[i] *= np.float32(1.0 / count)


@kernel
def log(x):
    """Logarithm, finite at 0."""
    return np.float32(math.log(x + 1e-5))


@kernel
def best_label(hidden, output, children, nodes, scores):
    """(label, logarithm of its probability), -1 if all are near 0: down the tree, but not where no better one can be.

    nodes, scores: room for as many numbers as there are nodes.
    """
    num_labels = len(output)
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
