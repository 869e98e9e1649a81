"""Encoding with compiled code: text to an array of ids.

Words repeat, so the work is mostly looking words up: pre-tokens are cut off in batches (`compiled_splitting.py`) and
looked up in a cache of words (`compiled_table.py`). A word that is not there is merged, pair by pair of lowest rank, as
`merge_by_passes` does, with the ranks in a hash table:

    slot of a word     value = id                                       if the word is one token
                               2^63 + number of ids * 2^40 + place      of its ids in an array, otherwise
    slot of a pair     (left * 2^32 + right + 1, rank * 2^32 + merged id)

The cache grows with the text up to a limit and then starts afresh. Words of more than `_MAX_WORD` bytes, which passes
would take long to merge, are left to `merge_by_heap`.

Complexity: O(bytes), and for each new word O(its length) per merge. Source: as `tokenizer.py`. Left out: a trie over
the vocabulary (another result than BPE). Read next: `file_encoding.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from cs336_basics.tokenization.compilation import stored
from cs336_basics.tokenization.compiled_kernel import kernel
from cs336_basics.tokenization.compiled_specials import SpecialBytes, gaps
from cs336_basics.tokenization.compiled_splitting import PATTERN_CODES, is_utf8, split_batch
from cs336_basics.tokenization.compiled_table import (
    BATCH,
    INLINE_BYTES,
    LENGTH,
    VALUE,
    fill_slot,
    find_slot,
    hash_batch,
    move_words,
    new_slots,
)
from cs336_basics.tokenization.unicode_classes import unicode_classes

_MAX_WORD = 1024
_FIRST_SLOTS, _MAX_SLOTS = 1 << 15, 1 << 20
_MAX_KEPT = 1 << 24  # bytes of long words, and ids of words of several tokens
_BLOCK_IDS = 1 << 17
_DONE, _BLOCK_FULL, _CACHE_FULL, _LONG_WORD, _NO_TOKEN_FOR_BYTE = range(5)

_MANY_BITS, _COUNT_BITS = 63, 40
_NO_PAIR = np.uint64(0xFFFFFFFFFFFFFFFF)
_UNKNOWN = np.uint64(0xFFFFFFFFFFFFFFFE)
_MIX = np.uint64(0x9E3779B97F4A7C15)


class CompiledEncoder:
    """The merges and special tokens of a tokenizer as arrays, with a cache of words for each thread that encodes.

    Args:
        byte_ids: id of each single byte; those without one may be missing.
        ranks: pair of ids -> position in the list of merges.
        merged_ids: rank -> id.
        special_ids: special token -> id.
        pattern: a key of `PATTERN_CODES`.
        encode_word: ids of one pre-token, for those that are too long for the kernel.
    """

    def __init__(
        self,
        byte_ids: Mapping[bytes, int],
        ranks: Mapping[tuple[int, int], int],
        merged_ids: Sequence[int],
        special_ids: Mapping[str, int],
        pattern: str,
        encode_word: Callable[[str], Sequence[int]],
    ):
        self.byte_ids = np.array([byte_ids.get(bytes([byte]), -1) for byte in range(256)], dtype=np.int64)
        pairs = np.array([*ranks], dtype=np.uint64).reshape(-1, 2)
        numbers = np.array([rank << 32 | merged_ids[rank] for rank in ranks.values()], dtype=np.uint64)
        self.pair_slots = np.zeros((1 << (4 * len(ranks) + 1).bit_length(), 2), dtype=np.uint64)
        stored(_fill_pairs)(self.pair_slots, pairs, numbers)
        self.specials = SpecialBytes.of([*special_ids])
        self.special_ids = np.array([*special_ids.values()], dtype=np.int64)
        self.pattern_code = PATTERN_CODES[pattern]
        self.encode_word = encode_word
        self._caches: SimpleQueue[_WordCache] = SimpleQueue()

    def encode(self, data: bytes, dtype: npt.DTypeLike, *, checked: bool) -> npt.NDArray[Any] | None:
        """The ids of UTF-8 text; None if the vocabulary lacks a byte of it or, unless `checked`, it is not UTF-8."""
        if not data:
            return np.empty(0, dtype=dtype)
        text = np.frombuffer(data, dtype=np.uint8)
        if not checked and not stored(is_utf8)(text, 0, len(text)):
            return None
        try:
            cache = self._caches.get_nowait()
        except Empty:
            cache = _WordCache()
        blocks = self._encode_blocks(text, self._segments(text), cache, dtype)
        self._caches.put(cache)
        return None if blocks is None else np.concatenate(blocks)

    def _segments(self, text: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Ordinary text as (begin, end, id of the special token behind it or -1)."""
        found = self.specials.find(text, 0, len(text))
        ids = np.append(self.special_ids[found[:, 2]], -1)
        return np.column_stack([gaps(found, 0, len(text)), ids])

    def _encode_blocks(
        self, text: npt.NDArray[np.uint8], segments: npt.NDArray[np.int64], cache: _WordCache, dtype: npt.DTypeLike
    ) -> list[npt.NDArray[Any]] | None:
        """Call the kernel until all is encoded, giving it what it lacks."""
        at = np.array([0, segments[0, 0], 0], dtype=np.int64)  # segment, position, ids in the block
        block = np.empty(_BLOCK_IDS, dtype=np.uint32)
        blocks: list[npt.NDArray[Any]] = [np.empty(0, dtype=dtype)]
        while True:
            status = stored(_encode_segments)(
                text, segments, at, unicode_classes(), self.pattern_code, self.byte_ids, self.pair_slots,
                cache.starts, cache.keys, cache.slots, cache.used, cache.kept, cache.ids, cache.scratch, block,
            )  # fmt: skip
            if status == _NO_TOKEN_FOR_BYTE:
                return None
            if status == _CACHE_FULL:
                cache.make_room()
                continue
            blocks.append(block[: at[2]].astype(dtype))
            at[2] = 0
            if status == _DONE:
                return blocks
            if status == _LONG_WORD:
                start, end = int(at[1]), int(cache.starts[0])
                word = text[start:end].tobytes().decode("utf-8")
                blocks.append(np.array(self.encode_word(word), dtype=dtype))
                at[1] = end


class _WordCache:
    """A table from words to ids, with the bytes of long words and the ids of words of several tokens."""

    def __init__(self) -> None:
        self.slots = new_slots(_FIRST_SLOTS)
        self.kept = np.empty(1 << 16, dtype=np.uint8)
        self.ids = np.empty(1 << 16, dtype=np.uint32)
        self.used = np.zeros(3, dtype=np.int64)  # of slots, kept, ids
        self.starts = np.empty(BATCH + 1, dtype=np.int64)
        self.keys = np.empty((BATCH + 1, 3), dtype=np.uint64)
        self.scratch = np.empty((2, _MAX_WORD), dtype=np.uint64)

    def make_room(self) -> None:
        """Double what is full; forget all words when the table is as large as it may be."""
        words_full = 2 * (self.used[0] + BATCH) > len(self.slots)
        if (words_full and len(self.slots) >= _MAX_SLOTS) or max(len(self.kept), len(self.ids)) >= _MAX_KEPT:
            self.slots[:] = 0
            self.used[:] = 0
        elif words_full:
            larger = new_slots(2 * len(self.slots))
            stored(move_words)(self.slots, larger)
            self.slots = larger
        if self.used[1] + _MAX_WORD > len(self.kept):
            self.kept = np.concatenate([self.kept, np.empty_like(self.kept)])
        if self.used[2] + _MAX_WORD > len(self.ids):
            self.ids = np.concatenate([self.ids, np.empty_like(self.ids)])


@kernel
def _encode_segments(
    text, segments, at, classes, pattern, byte_ids, pair_slots, starts, keys, slots, used, kept, ids, scratch, block
):
    """Encode from at = (segment, position, ids in `block`) on; moves `at` and says why it stopped."""
    while at[0] < len(segments):
        end = segments[at[0], 1]
        if 2 * (used[0] + BATCH) > len(slots):
            return _CACHE_FULL
        count = split_batch(text, at[1], end, classes, pattern, starts)
        hash_batch(text, starts, count, slots, keys)
        for word in range(count):
            start, length = starts[word], starts[word + 1] - starts[word]
            at[1] = start
            if at[2] + length > len(block):
                return _BLOCK_FULL
            if length > _MAX_WORD:
                starts[0] = starts[word + 1]
                return _LONG_WORD
            place = find_slot(slots, keys[word, 0], keys[word, 1], keys[word, 2], length, text, start, kept)
            if slots[place, LENGTH] == 0:
                if used[1] + length > len(kept) or used[2] + length > len(ids):
                    return _CACHE_FULL
                value = _encode_word(text, start, length, byte_ids, pair_slots, used, ids, scratch)
                if value == _UNKNOWN:
                    return _NO_TOKEN_FOR_BYTE
                key1 = keys[word, 1]
                if length > INLINE_BYTES:
                    key1 = _keep(text, start, length, kept, used)
                fill_slot(slots, place, keys[word, 0], key1, length, value)
                used[0] += 1
            at[2] = _write_ids(slots[place, VALUE], ids, block, at[2])
        at[1] = starts[count]
        if at[1] == end:
            if at[2] == len(block):
                return _BLOCK_FULL
            if segments[at[0], 2] >= 0:
                block[at[2]] = segments[at[0], 2]
                at[2] += 1
            at[0] += 1
            if at[0] < len(segments):
                at[1] = segments[at[0], 0]
    return _DONE


@kernel
def _write_ids(value, ids, block, position):
    """Write the ids of a word; returns the position behind them."""
    if value >> np.uint64(_MANY_BITS) == 0:
        block[position] = value
        return position + 1
    place = np.int64(value & np.uint64((1 << _COUNT_BITS) - 1))
    count = np.int64((value >> np.uint64(_COUNT_BITS)) & np.uint64(0xFFFF))
    for index in range(count):
        block[position + index] = ids[place + index]
    return position + count


@kernel
def _keep(text, start, length, kept, used):
    """Copy the bytes of a long word; returns their place."""
    place = used[1]
    for index in range(length):
        kept[place + index] = text[start + index]
    used[1] += length
    return np.uint64(place)


@kernel
def _encode_word(text, start, length, byte_ids, pair_slots, used, ids, scratch):
    """The value of a word's slot; `_UNKNOWN` if a byte has no id."""
    for index in range(length):
        byte_id = byte_ids[text[start + index]]
        if byte_id < 0:
            return _UNKNOWN
        scratch[0, index], scratch[1, index] = np.uint64(byte_id), _UNKNOWN
    count = _merge_by_passes(scratch, length, pair_slots)
    if count == 1:
        return scratch[0, 0]
    place = used[2]
    for index in range(count):
        ids[place + index] = scratch[0, index]
    used[2] += count
    many = np.uint64(1) << np.uint64(_MANY_BITS)
    return many | np.uint64(count) << np.uint64(_COUNT_BITS) | np.uint64(place)


@kernel
def _merge_by_passes(scratch, count, pair_slots):
    """Merge the pair of lowest rank everywhere until there is none; returns the number of ids left.

    scratch[0] holds the ids, scratch[1] what `_find_pair` says of each with the next one, `_UNKNOWN` at first.
    """
    while True:
        lowest, first = _NO_PAIR, 0
        for index in range(count - 1):
            if scratch[1, index] == _UNKNOWN:
                scratch[1, index] = _find_pair(pair_slots, scratch[0, index], scratch[0, index + 1])
            if scratch[1, index] < lowest:
                lowest, first = scratch[1, index], index
        if lowest == _NO_PAIR:
            return count
        if first > 0:
            scratch[1, first - 1] = _UNKNOWN
        position, merged = first, first
        while position < count:
            if position + 1 < count and scratch[1, position] == lowest:
                scratch[0, merged], scratch[1, merged] = lowest & np.uint64(0xFFFFFFFF), _UNKNOWN
                if merged > first:
                    scratch[1, merged - 1] = _UNKNOWN
                position += 2
            else:
                scratch[0, merged], scratch[1, merged] = scratch[0, position], scratch[1, position]
                position += 1
            merged += 1
        count = merged


@kernel
def _find_pair(pair_slots, left, right):
    """rank * 2^32 + merged id of a pair, `_NO_PAIR` if it is no merge."""
    mask = np.uint64(len(pair_slots) - 1)
    key = (left << np.uint64(32) | right) + np.uint64(1)
    place = key * _MIX >> np.uint64(32) & mask
    while pair_slots[place, 0] != 0:
        if pair_slots[place, 0] == key:
            return pair_slots[place, 1]
        place = (place + np.uint64(1)) & mask
    return _NO_PAIR


@kernel
def _fill_pairs(pair_slots, pairs, numbers):
    """Enter all pairs into a table with room for them."""
    mask = np.uint64(len(pair_slots) - 1)
    for index in range(len(pairs)):
        key = (pairs[index, 0] << np.uint64(32) | pairs[index, 1]) + np.uint64(1)
        place = key * _MIX >> np.uint64(32) & mask
        while pair_slots[place, 0] != 0:
            place = (place + np.uint64(1)) & mask
        pair_slots[place, 0], pair_slots[place, 1] = key, numbers[index]
