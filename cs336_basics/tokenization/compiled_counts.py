"""Counting the pre-tokens of a corpus with compiled code, on all cores of one process.

The file is mapped into memory and cut as in `file_chunks.py`. Threads take chunk after chunk; compiled code runs
without the interpreter's lock, so they need no processes and nothing is copied between them. Each thread fills a table
of its own (`compiled_table.py`), and the tables are added up at the end. Counts are 64 bits wide.

A word is never made a Python object: the result is one array with the bytes of all distinct words, ready for
`compiled_merging.py`.

Complexity: O(bytes); memory for the distinct words of each thread. Handout problem `train_bpe`. Left out: tables
larger than memory. Read next: `compiled_merging.py`.
"""

# The types of kernels are numba's affair.
# mypy: no-check-untyped-defs
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import pairwise
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cs336_basics.tokenization.compilation import stored
from cs336_basics.tokenization.compiled_kernel import kernel
from cs336_basics.tokenization.compiled_specials import SpecialBytes, gaps
from cs336_basics.tokenization.compiled_splitting import PATTERN_CODES, is_utf8, split_batch
from cs336_basics.tokenization.compiled_table import (
    BATCH,
    INLINE_BYTES,
    KEY0,
    KEY1,
    LENGTH,
    VALUE,
    fill_slot,
    find_slot,
    hash_batch,
    hash_keys,
    move_words,
    new_slots,
)
from cs336_basics.tokenization.file_chunks import find_cut_points, read_text
from cs336_basics.tokenization.progress import Report
from cs336_basics.tokenization.unicode_classes import unicode_classes

_CHUNK_BYTES = 4 << 20
_FIRST_SLOTS = 1 << 14


class WordCounts(NamedTuple):
    """Distinct words with their counts, as arrays."""

    joined: npt.NDArray[np.uint8]
    """the bytes of all words, one after the other"""
    offsets: npt.NDArray[np.int64]
    """where each word begins in `joined`; one more for the end"""
    counts: npt.NDArray[np.int64]
    """how often each word occurs"""

    @classmethod
    def of(cls, counts: Mapping[bytes, int]) -> WordCounts:
        """The same counts from a mapping."""
        joined = np.array(bytearray(b"".join(counts)), dtype=np.uint8)
        offsets = np.cumsum([0, *map(len, counts)], dtype=np.int64)
        return cls(joined, offsets, np.array([*counts.values()], dtype=np.int64))


def count_words(
    path: str | os.PathLike[str],
    special_tokens: Sequence[str],
    *,
    pattern: str,
    num_threads: int,
    chunk_bytes: int = _CHUNK_BYTES,
    on_progress: Report | None = None,
) -> WordCounts:
    """Count the pre-tokens of a UTF-8 file; the counts of `count_pretokens`, in any order.

    Args:
        path: a file that is not empty.
        special_tokens: hard boundaries, not counted themselves.
        pattern: a key of `PATTERN_CODES`.
        num_threads: at least 1.
        chunk_bytes: about what a thread takes at a time.
        on_progress: called with (bytes done, bytes in all).

    Raises:
        ValueError: the file is not UTF-8; names the first wrong byte.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        cuts = find_cut_points(file, -(-size // chunk_bytes), special_tokens, pattern=pattern)
    text = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    specials = SpecialBytes.of(special_tokens)
    ranges = list(pairwise(cuts))
    tables = _count_ranges(text, ranges, specials, PATTERN_CODES[pattern], num_threads, on_progress)
    if tables is not None:
        return _sum(tables, text).words(text)
    for _ in read_text(path):  # raises with the place of the first wrong byte
        pass
    raise AssertionError(f"{path} was found not to be UTF-8, yet could be read")


def _count_ranges(
    text: npt.NDArray[np.uint8],
    ranges: Sequence[tuple[int, int]],
    specials: SpecialBytes,
    pattern_code: int,
    num_threads: int,
    on_progress: Report | None,
) -> list[_CountTable] | None:
    """The tables of all threads; None if a range is not UTF-8."""
    valid = stored(is_utf8)
    tables: SimpleQueue[_CountTable] = SimpleQueue()
    num_threads = min(num_threads, len(ranges))
    for _ in range(num_threads):
        tables.put(_CountTable(pattern_code))

    def work(start: int, end: int) -> int | None:
        if not valid(text, start, end):
            return None
        table = tables.get()
        table.count(text, gaps(specials.find(text, start, end), start, end))
        tables.put(table)
        return end - start

    done = 0
    with ThreadPoolExecutor(num_threads) as pool:
        jobs = [pool.submit(work, start, end) for start, end in ranges]
        for job in as_completed(jobs):
            num_bytes = job.result()
            if num_bytes is None:
                pool.shutdown(cancel_futures=True)
                return None
            done += num_bytes
            if on_progress:
                on_progress(done, len(text))
    return [tables.get() for _ in range(num_threads)]


class _CountTable:
    """A growing table from words to counts. All texts given to it are parts of one array."""

    def __init__(self, pattern_code: int):
        self.pattern_code = pattern_code
        self.slots = new_slots(_FIRST_SLOTS)
        self.used = 0
        self._starts = np.empty(BATCH + 1, dtype=np.int64)
        self._keys = np.empty((BATCH + 1, 3), dtype=np.uint64)

    def count(self, text: npt.NDArray[np.uint8], segments: npt.NDArray[np.int64]) -> None:
        """Count the words of each segment (begin, end) of `text`."""
        count, classes, position = stored(_count_segments), unicode_classes(), np.zeros(2, dtype=np.int64)
        while position[0] < len(segments):
            self.used = count(
                text, segments, position, classes, self.pattern_code, self._starts, self._keys, self.slots, self.used
            )
            if position[0] < len(segments):
                self._grow()

    def add(self, other: _CountTable, text: npt.NDArray[np.uint8]) -> None:
        """Add the counts of another table."""
        while 2 * (self.used + other.used) > len(self.slots):
            self._grow()
        self.used = stored(_add_table)(self.slots, self.used, other.slots, text)

    def words(self, text: npt.NDArray[np.uint8]) -> WordCounts:
        """The words of the table, each once."""
        lengths = self.slots[:, LENGTH]
        words = WordCounts(
            np.empty(int(lengths.sum()), dtype=np.uint8),
            np.zeros(self.used + 1, dtype=np.int64),
            np.empty(self.used, dtype=np.int64),
        )
        stored(_list_words)(self.slots, text, *words)
        return words

    def _grow(self) -> None:
        larger = new_slots(2 * len(self.slots))
        stored(move_words)(self.slots, larger)
        self.slots = larger


def _sum(tables: Sequence[_CountTable], text: npt.NDArray[np.uint8]) -> _CountTable:
    """One table with the counts of all."""
    largest, *others = sorted(tables, key=lambda table: table.used, reverse=True)
    for other in others:
        largest.add(other, text)
        other.slots = other.slots[:0]
    return largest


@kernel
def _count_segments(text, segments, at, classes, pattern, starts, keys, slots, used):
    """Count words from at = (segment, offset in it) on, until the table is half full; moves `at`, returns `used`."""
    segment, offset = at[0], at[1]
    while segment < len(segments) and 2 * (used + len(keys)) <= len(slots):
        position, end = segments[segment, 0] + offset, segments[segment, 1]
        count = split_batch(text, position, end, classes, pattern, starts)
        hash_batch(text, starts, count, slots, keys)
        for word in range(count):
            start, length = starts[word], starts[word + 1] - starts[word]
            place = find_slot(slots, keys[word, 0], keys[word, 1], keys[word, 2], length, text, start, text)
            if slots[place, LENGTH] == 0:
                fill_slot(slots, place, keys[word, 0], keys[word, 1], length, 0)
                used += 1
            slots[place, VALUE] += np.uint64(1)
        offset += starts[count] - position
        if starts[count] == end:
            segment, offset = segment + 1, 0
    at[0], at[1] = segment, offset
    return used


@kernel
def _add_table(slots, used, other, text):
    """Add the counts of another table of the same text; there is room. Returns the number of words."""
    for index in range(len(other)):
        length = np.int64(other[index, LENGTH])
        if length == 0:
            continue
        key0, key1 = other[index, KEY0], other[index, KEY1]
        start = np.int64(key1) if length > INLINE_BYTES else 0
        place = find_slot(slots, key0, key1, hash_keys(key0, key1, length), length, text, start, text)
        if slots[place, LENGTH] == 0:
            fill_slot(slots, place, key0, key1, length, 0)
            used += 1
        slots[place, VALUE] += other[index, VALUE]
    return used


@kernel
def _list_words(slots, text, joined, offsets, counts):
    """Write the words of a table as `WordCounts`."""
    word, position = 0, 0
    for index in range(len(slots)):
        length = np.int64(slots[index, LENGTH])
        if length == 0:
            continue
        for byte in range(length):
            if length > INLINE_BYTES:
                joined[position + byte] = text[np.int64(slots[index, KEY1]) + byte]
            else:
                key = slots[index, KEY0] if byte < 8 else slots[index, KEY1]
                joined[position + byte] = np.uint8(key >> np.uint64(8 * (byte % 8)))
        position += length
        counts[word] = np.int64(slots[index, VALUE])
        word += 1
        offsets[word] = position
