"""The loops of `interning.py`, compiled. Read next: `language_model.py`."""

# The types of kernels are numba's affair.
# mypy: no-check-untyped-defs
from __future__ import annotations

import numpy as np

from cs336_basics.tokenization.compiled_kernel import kernel
from cs336_basics.tokenization.compiled_table import (
    INLINE_BYTES,
    LENGTH,
    VALUE,
    fill_slot,
    find_slot,
    hash_keys,
    long_hash,
    word_keys,
)

_SPACES = np.zeros(256, np.uint8)
_SPACES[[*range(9, 14), *range(28, 33)]] = 1
_SPACES[[0xC2, 0xE1, 0xE2, 0xE3]] = 2  # with which white space of several bytes begins
KEY0, KEY1, HASH, BEGIN, END = range(5)
BATCH = 256
"""Strings looked up at a time: all are hashed and their slots touched first, so that the waits for memory overlap."""


@kernel
def white(text, i):
    """Bytes of the character at i if it is white space, as `str.split` has it, else 0."""
    kind = _SPACES[text[i]]
    if kind < 2:
        return np.int64(kind)
    byte, second = text[i], text[i + 1]
    if byte == 0xC2:
        return 2 if second == 0x85 or second == 0xA0 else 0
    third = text[i + 2]
    if byte == 0xE2 and second == 0x80:
        return 3 if third <= 0x8A or third == 0xA8 or third == 0xA9 or third == 0xAF else 0
    known = (0xE1, 0x9A, 0x80), (0xE2, 0x81, 0x9F), (0xE3, 0x80, 0x80)
    return 3 if (byte, second, third) in known else 0


@kernel
def describe(text, begin, end, row):
    """Write keys, hash and place of a string."""
    length = end - begin
    if length <= INLINE_BYTES:
        row[KEY0], row[KEY1] = word_keys(text, begin, length)
    else:
        row[KEY0], row[KEY1] = long_hash(text, begin, length), np.uint64(0)
    row[HASH], row[BEGIN], row[END] = hash_keys(row[KEY0], row[KEY1], length), begin, end


@kernel
def look_up(text, rows, count, slots, kept, ends, size, numbers):
    """Numbers of the strings that `rows` describes, until there is no room for a new one; returns (how many, size)."""
    touched, mask = np.uint64(0), np.uint64(len(slots) - 1)
    for i in range(count):
        touched ^= slots[rows[i, HASH] & mask, LENGTH]
    rows[BATCH, 0] = touched  # nobody needs it, but else the compiler would leave the loads out
    for i in range(count):
        row, begin = rows[i], np.int64(rows[i, BEGIN])
        length = np.int64(row[END]) - begin
        slot = find_slot(slots, row[KEY0], row[KEY1], row[HASH], length, text, begin, kept)
        if slots[slot, LENGTH] > 0:
            numbers[i] = slots[slot, VALUE]
            continue
        place = ends[size]
        if 2 * size >= len(slots) or size + 1 >= len(ends) or place + length > len(kept):
            return i, size
        for k in range(length):
            kept[place + k] = text[begin + k]
        ends[size + 1] = place + length
        fill_slot(slots, slot, row[KEY0], row[KEY1] if length <= INLINE_BYTES else np.uint64(place), length, size)
        numbers[i] = size
        size += 1
    return count, size


@kernel
def number_of(text, begin, end, slots, kept, row):
    """The number of one string, -1 if it has none; `row` is room for what `describe` writes."""
    describe(text, begin, end, row)
    slot = find_slot(slots, row[KEY0], row[KEY1], row[HASH], end - begin, text, begin, kept)
    return np.int64(slots[slot, VALUE]) if slots[slot, LENGTH] > 0 else -1


@kernel
def enter_chunks(text, position, done, slots, kept, ends, size, numbers, rows):
    """Numbers of what stands between white space, until there is no room; returns (position, done, size)."""
    while position < len(text):
        count = 0
        while count < BATCH and position < len(text):
            skipped = white(text, position)
            if skipped:
                position += skipped
                continue
            end = position + 1
            while end < len(text) and not white(text, end):
                end += 1
            describe(text, position, end, rows[count])
            count, position = count + 1, end
        entered, size = look_up(text, rows, count, slots, kept, ends, size, numbers[done:])
        done += entered
        if entered < count:
            return np.int64(rows[entered, BEGIN]), done, size
    return position, done, size


@kernel
def enter_pieces(text, cuts, done, slots, kept, ends, size, numbers, rows):
    """Numbers of what stands between `cuts`, until there is no room; returns (done, size)."""
    while done < len(numbers):
        count = min(BATCH, len(numbers) - done)
        for i in range(count):
            describe(text, cuts[done + i], cuts[done + i + 1], rows[i])
        entered, size = look_up(text, rows, count, slots, kept, ends, size, numbers[done:])
        done += entered
        if entered < count:
            break
    return done, size
