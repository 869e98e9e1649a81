"""The loops of `hashed_ngrams.py` and `logistic_regression.py`, compiled. Read next: `logistic_regression.py`."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(nogil=True)
def hashed_ngrams(letters, num_buckets):
    """Buckets of all features of a text, given as bytes of words with one space before, between and after them."""
    prime, mask = np.uint64(0x100000001B3), np.uint64(num_buckets - 1)
    found = np.empty(8 * len(letters) + 8, np.int64)
    size = 0
    start = 0  # the space before the current word
    last = np.uint64(0)
    before_last = np.uint64(0)
    for end in range(1, len(letters)):
        if letters[end] != 32:
            continue
        word = np.uint64(0xCBF29CE484222325)
        for i in range(start + 1, end):
            word = (word ^ np.uint64(letters[i])) * prime
        pair = (last * np.uint64(31) + word) * prime
        skip = (before_last * np.uint64(127) + word + np.uint64(1)) * prime
        for value in (word, pair, skip):
            found[size] = np.int64((value ^ (value >> np.uint64(31))) & mask)
            size += 1
        for i in range(start, end - 1):
            gram = np.uint64(0x9E3779B97F4A7C15)
            for j in range(i, min(i + 5, end + 1)):
                gram = (gram ^ np.uint64(letters[j])) * prime
                if j - i >= 2:
                    found[size] = np.int64((gram ^ (gram >> np.uint64(29))) & mask)
                    size += 1
        before_last, last, start = last, word, end
    return found[:size]


@numba.njit(nogil=True)
def fit_logistic(buckets, starts, targets, orders, num_buckets, learning_rate, l2):
    """Weights and bias after all epochs; see `logistic_regression.py`."""
    weights, squares = np.zeros(num_buckets), np.full(num_buckets, 1e-2)
    bias, bias_square = 0.0, 1e-2
    for epoch in range(len(orders)):
        for text in orders[epoch]:
            start, end = starts[text], starts[text + 1]
            scale = 1 / np.sqrt(max(1, end - start))
            score = bias
            for k in range(start, end):
                score += weights[buckets[k]] * scale
            slope = -targets[text] / (1 + np.exp(targets[text] * score))
            bias_square += slope * slope
            bias -= learning_rate * slope / np.sqrt(bias_square)
            for k in range(start, end):
                j = buckets[k]
                gradient = slope * scale + l2 * weights[j] * num_buckets / 100
                squares[j] += gradient * gradient
                weights[j] -= learning_rate * gradient / np.sqrt(squares[j])
    return weights, bias
