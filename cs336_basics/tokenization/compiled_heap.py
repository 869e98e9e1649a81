"""The most frequent pair, compiled: a heap that holds only the pairs that can be next.

A corpus has millions of pairs and training takes the best few thousand. So the heap takes only pairs that occur at
least `threshold` times. Counts only fall (see `compiled_merging.py`), so an entry is at worst too high; that is
corrected when it comes to the top, and a pair that has fallen below the threshold is dropped. When the heap is empty,
every pair lies below the threshold: it is set to a quarter of the highest count, and the pairs that reach it are
entered. There are few such rounds, and most pairs never enter.

Ties go to the greater pair of byte strings (the course's rule) or the smaller pair of ids (rustbpe's). Byte strings are
compared by their first eight bytes as one number, and only if these are equal byte by byte.

Source: Williams 1964 (heapsort); handout problem `train_bpe` for the rule. Left out: nothing. Read next:
`compiled_encoding.py`.
"""

# The types of kernels are numba's affair.
# mypy: no-check-untyped-defs
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cs336_basics.tokenization.compiled_kernel import kernel

_SIZE, _BEST, _THRESHOLD = range(3)  # entries of `Heap.state`


class Tokens(NamedTuple):
    """The tokens made so far; their bytes are those of a place where they occur."""

    bytes: npt.NDArray[np.uint8]
    """bytes of all words, as laid out in the row of cells"""
    at: npt.NDArray[np.int64]
    """a place where the token occurs"""
    lengths: npt.NDArray[np.int64]
    """number of bytes"""
    keys: npt.NDArray[np.uint64]
    """the first eight bytes as a number that sorts like them, padded with zeros"""
    parts: npt.NDArray[np.int32]
    """the two tokens it was made of"""

    @classmethod
    def empty(cls, num_cells: int, num_tokens: int) -> Tokens:
        """Room for so many."""
        return cls(
            np.empty(num_cells, dtype=np.uint8),
            np.empty(num_tokens, dtype=np.int64),
            np.empty(num_tokens, dtype=np.int64),
            np.empty(num_tokens, dtype=np.uint64),
            np.empty((num_tokens, 2), dtype=np.int32),
        )


class Heap(NamedTuple):
    """A binary heap of (count, pair), the best on top."""

    counts: npt.NDArray[np.int64]
    """count of each entry when it was last looked at"""
    pairs: npt.NDArray[np.int32]
    """its pair"""
    state: npt.NDArray[np.int64]
    """number of entries, the best pair (-1 at first), threshold"""

    @classmethod
    def empty(cls, capacity: int) -> Heap:
        """Room for so many."""
        return cls(np.empty(capacity, dtype=np.int64), np.empty(capacity, dtype=np.int32), np.array([0, -1, 1]))


@kernel
def add_token(tokens, new, left, right, at):
    """Enter a token whose bytes stand at `at`."""
    length = tokens.lengths[left] + tokens.lengths[right]
    key = np.uint64(0)
    for index in range(min(length, 8)):
        key |= np.uint64(tokens.bytes[at + index]) << np.uint64(56 - 8 * index)
    tokens.at[new], tokens.lengths[new], tokens.keys[new] = at, length, key
    tokens.parts[new, 0], tokens.parts[new, 1] = left, right


@kernel
def best_pair(heap, counts, num_pairs, ids, tokens, by_bytes):
    """The most frequent of the first `num_pairs` pairs, or -1 if none occurs; it stays on top of the heap."""
    while True:
        while heap.state[_SIZE] > 0:
            pair = np.int64(heap.pairs[0])
            if heap.counts[0] == counts[pair]:
                heap.state[_BEST] = pair
                return pair
            if counts[pair] < heap.state[_THRESHOLD]:
                remove_best(heap, ids, tokens, by_bytes)
            else:
                _sink(heap, counts[pair], pair, ids, tokens, by_bytes)
        highest = np.int64(0)
        for pair in range(num_pairs):
            highest = max(highest, counts[pair])
        if highest == 0:
            return np.int64(-1)
        heap.state[_THRESHOLD] = max(1, highest // 4)
        for pair in range(num_pairs):
            enter(heap, pair, counts[pair], ids, tokens, by_bytes)


@kernel
def enter(heap, pair, count, ids, tokens, by_bytes):
    """Put a pair into the heap, unless it is too rare."""
    if count < heap.state[_THRESHOLD]:
        return
    place = heap.state[_SIZE]
    heap.state[_SIZE] += 1
    while place > 0:
        parent = (place - 1) // 2
        if not _above(count, pair, heap.counts[parent], heap.pairs[parent], ids, tokens, by_bytes):
            break
        heap.counts[place], heap.pairs[place] = heap.counts[parent], heap.pairs[parent]
        place = parent
    heap.counts[place], heap.pairs[place] = count, pair


@kernel
def remove_best(heap, ids, tokens, by_bytes):
    """Take the top entry away."""
    last = heap.state[_SIZE] - 1
    heap.state[_SIZE] = last
    if last > 0:
        _sink(heap, heap.counts[last], heap.pairs[last], ids, tokens, by_bytes)


@kernel
def _sink(heap, count, pair, ids, tokens, by_bytes):
    """Put an entry in the place of the top one, and down to where it belongs."""
    place, size = 0, heap.state[_SIZE]
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and _above(
            heap.counts[child + 1], heap.pairs[child + 1], heap.counts[child], heap.pairs[child], ids, tokens, by_bytes
        ):
            child += 1
        if not _above(heap.counts[child], heap.pairs[child], count, pair, ids, tokens, by_bytes):
            break
        heap.counts[place], heap.pairs[place] = heap.counts[child], heap.pairs[child]
        place = child
    heap.counts[place], heap.pairs[place] = count, pair


@kernel
def _above(count, pair, other_count, other, ids, tokens, by_bytes):
    """Whether one entry has to come before another."""
    if count != other_count:
        return count > other_count
    for side in range(2):
        one, two = ids[pair, side], ids[other, side]
        if one != two:
            return _greater(tokens, one, two) if by_bytes else one < two
    return False


@kernel
def _greater(tokens, one, two):
    """Whether the bytes of a token come after those of another one."""
    if tokens.keys[one] != tokens.keys[two]:
        return tokens.keys[one] > tokens.keys[two]
    for index in range(min(tokens.lengths[one], tokens.lengths[two])):
        byte, other = tokens.bytes[tokens.at[one] + index], tokens.bytes[tokens.at[two] + index]
        if byte != other:
            return byte > other
    return tokens.lengths[one] > tokens.lengths[two]
