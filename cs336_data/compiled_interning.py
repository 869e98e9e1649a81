"""The loops of `interning.py`, compiled. Read next: `language.py`."""

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
    move_words,
    word_keys,
)


@kernel
def find(text, begin, end, slots, kept):
    """(slot of a string or the free one where it belongs, its keys)."""
    length = end - begin
    if length <= INLINE_BYTES:
        key0, key1 = word_keys(text, begin, length)
    else:
        key0, key1 = long_hash(text, begin, length), np.uint64(0)
    return find_slot(slots, key0, key1, hash_keys(key0, key1, length), length, text, begin, kept), key0, key1


@kernel
def enter(text, begin, end, slots, kept, ends, size):
    """The number of a string; `size`, the next one, if it is new, and -1 if it is new and has no room."""
    slot, key0, key1 = find(text, begin, end, slots, kept)
    if slots[slot, LENGTH] > 0:
        return np.int64(slots[slot, VALUE])
    place, length = ends[size], end - begin
    if 2 * size >= len(slots) or size + 1 >= len(ends) or place + length > len(kept):
        return -1
    for i in range(length):
        kept[place + i] = text[begin + i]
    ends[size + 1] = place + length
    fill_slot(slots, slot, key0, key1 if length <= INLINE_BYTES else np.uint64(place), length, size)
    return size


@kernel
def white(text, i):
    """Bytes of the character at i if it is white space, as `str.split` has it, else 0."""
    byte = text[i]
    if byte < 0x80:
        return 1 if byte == 32 or 9 <= byte <= 13 or 28 <= byte <= 31 else 0
    if byte == 0xC2:
        return 2 if text[i + 1] == 0x85 or text[i + 1] == 0xA0 else 0
    if byte == 0xE1:
        return 3 if text[i + 1] == 0x9A and text[i + 2] == 0x80 else 0
    if byte == 0xE2:
        last = text[i + 2]
        if text[i + 1] == 0x80:
            return 3 if last <= 0x8A or last == 0xA8 or last == 0xA9 or last == 0xAF else 0
        return 3 if text[i + 1] == 0x81 and last == 0x9F else 0
    if byte == 0xE3:
        return 3 if text[i + 1] == 0x80 and text[i + 2] == 0x80 else 0
    return 0


@kernel
def enter_chunks(text, position, count, slots, kept, ends, size, numbers):
    """Numbers of what stands between white space, until there is no room; returns (position, count, size)."""
    while position < len(text):
        skipped = white(text, position)
        if skipped:
            position += skipped
            continue
        end = position + 1
        while end < len(text) and not white(text, end):
            end += 1
        number = enter(text, position, end, slots, kept, ends, size)
        if number < 0:
            break
        size = max(size, number + 1)
        numbers[count] = number
        count, position = count + 1, end
    return position, count, size


@kernel
def enter_pieces(text, cuts, count, slots, kept, ends, size, numbers):
    """Numbers of what stands between `cuts`, until there is no room; returns (count, size)."""
    while count < len(numbers):
        number = enter(text, cuts[count], cuts[count + 1], slots, kept, ends, size)
        if number < 0:
            break
        size = max(size, number + 1)
        numbers[count] = number
        count += 1
    return count, size
