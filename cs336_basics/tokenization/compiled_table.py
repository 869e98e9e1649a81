"""A hash table from words to numbers, compiled: open addressing with 32-byte slots.

    slot = (key0, key1, length, value)          length 0: the slot is free

Words of up to 16 bytes, nearly all, live in the slot itself as two 8-byte numbers padded with zeros: one cache line
answers a look-up. Of a longer word the slot holds a hash (key0) and the place of its bytes in an array (key1), which
are compared on a hit, so the table is exact. Collisions go to the next slot; at most half of the slots are used.

A look-up in a table larger than the cache waits about 100 ns for memory. Callers therefore hash a batch of words, touch
all their slots, so that the waits overlap, and only then look them up: three times as fast.

Source: Knuth, TAOCP 3, section 6.4 (linear probing). Left out: deletion. Read next: `compiled_counts.py`.
"""

# The types of kernels are numba's affair.
# mypy: no-check-untyped-defs
from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from cs336_basics.tokenization.compiled_kernel import kernel

KEY0, KEY1, LENGTH, VALUE = range(4)
INLINE_BYTES = 16
BATCH = 1024

_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
_MIX1 = np.uint64(0x9E3779B97F4A7C15)
_MIX2 = np.uint64(0xC2B2AE3D27D4EB4F)


@intrinsic
def _load8(typing_context: Any, array: Any, index: Any) -> Any:
    """Eight bytes of a uint8 array as one number, at any place; numpy's views would demand alignment."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(array, types.intp), generate


def new_slots(capacity: int) -> npt.NDArray[np.uint64]:
    """A free table that begins on a cache line; `capacity` is a power of two."""
    numbers = np.zeros(4 * capacity + 8, dtype=np.uint64)
    skipped = -numbers.ctypes.data % 64 // 8
    return numbers[skipped : skipped + 4 * capacity].reshape(capacity, 4)


@kernel
def word_keys(text, start, length):
    """(key0, key1) of a word of up to 16 bytes: its bytes, padded with zeros."""
    if start + INLINE_BYTES <= len(text):
        low = _load8(text, start)
        if length <= 8:
            return low & (_ONES >> np.uint64(64 - 8 * length)), np.uint64(0)
        return low, _load8(text, start + 8) & (_ONES >> np.uint64(128 - 8 * length))
    low, high = np.uint64(0), np.uint64(0)  # the load would reach over the end of the text
    for index in range(length):
        byte = np.uint64(text[start + index])
        if index < 8:
            low |= byte << np.uint64(8 * index)
        else:
            high |= byte << np.uint64(8 * index - 64)
    return low, high


@kernel
def long_hash(text, start, length):
    """A hash of a word of more than 16 bytes, eight at a time; the last load overlaps the one before."""
    value = np.uint64(length)
    for index in range(0, length - 8, 8):
        value = (value ^ _load8(text, start + index)) * _MIX1
        value ^= value >> np.uint64(32)
    value = (value ^ _load8(text, start + length - 8)) * _MIX2
    return value ^ (value >> np.uint64(29))


@kernel
def hash_keys(key0, key1, length):
    """The hash of a slot's key; long words bring theirs as key0."""
    if length > INLINE_BYTES:
        return key0
    value = (key0 ^ np.uint64(length)) * _MIX1
    value = (value ^ (value >> np.uint64(32)) ^ key1) * _MIX2
    return value ^ (value >> np.uint64(29))


@kernel
def hash_batch(text, starts, count, slots, keys):
    """Write (key0, key1, hash) of `count` words and touch their slots; `keys` has one row more than words."""
    mask = np.uint64(len(slots) - 1)
    for index in range(count):
        start, length = starts[index], starts[index + 1] - starts[index]
        if length <= INLINE_BYTES:
            keys[index, 0], keys[index, 1] = word_keys(text, start, length)
        else:
            keys[index, 0], keys[index, 1] = long_hash(text, start, length), np.uint64(start)
        keys[index, 2] = hash_keys(keys[index, 0], keys[index, 1], length)
    touched = np.uint64(0)
    for index in range(count):
        touched ^= slots[keys[index, 2] & mask, LENGTH]
    keys[len(keys) - 1, 0] = touched  # nobody needs it, but else the compiler would leave the loads out


@kernel
def find_slot(slots, key0, key1, hashed, length, text, start, kept):
    """The slot that holds a word, or the free slot where it belongs.

    Args:
        text, start: where the word stands.
        kept: where the table's own long words stand, at key1 of their slots.
    """
    mask = np.uint64(len(slots) - 1)
    index = hashed & mask
    while True:
        used = slots[index, LENGTH]
        if used == 0:
            return index
        if used == np.uint64(length) and slots[index, KEY0] == key0:
            if length <= INLINE_BYTES:
                if slots[index, KEY1] == key1:
                    return index
            elif _same_bytes(text, start, kept, np.int64(slots[index, KEY1]), length):
                return index
        index = (index + np.uint64(1)) & mask


@kernel
def fill_slot(slots, index, key0, key1, length, value):
    """Enter a word into a free slot."""
    slots[index, KEY0], slots[index, KEY1] = key0, key1
    slots[index, LENGTH], slots[index, VALUE] = np.uint64(length), np.uint64(value)


@kernel
def move_words(slots, larger):
    """Enter the words of one table into a larger one that is free."""
    mask = np.uint64(len(larger) - 1)
    for index in range(len(slots)):
        length = np.int64(slots[index, LENGTH])
        if length > 0:
            place = hash_keys(slots[index, KEY0], slots[index, KEY1], length) & mask
            while larger[place, LENGTH] > 0:
                place = (place + np.uint64(1)) & mask
            for column in range(4):
                larger[place, column] = slots[index, column]


@kernel
def _same_bytes(text, start, kept, place, length):
    """Whether two stretches of bytes are equal."""
    for index in range(length):
        if text[start + index] != kept[place + index]:
            return False
    return True
