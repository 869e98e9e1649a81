"""Finding special tokens in bytes, compiled.

Special tokens are hard boundaries: what lies between them is pre-tokenized by itself. At each place the longest token
that starts there wins, and the search goes on behind it, as in `compile_special_tokens`. A table of first bytes
rejects nearly every place at once.

UTF-8 has no character that starts inside another, so finding bytes finds the same places as finding characters.

Complexity: linear in the text for tokens that start rarely. Left out: Aho-Corasick, for thousands of special tokens.
Read next: `compiled_counts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cs336_basics.tokenization.compilation import stored
from cs336_basics.tokenization.compiled_kernel import kernel

_BLOCK = 4096


class SpecialBytes(NamedTuple):
    """The special tokens as arrays, the longest first."""

    joined: npt.NDArray[np.uint8]
    """bytes of all tokens, one after the other"""
    offsets: npt.NDArray[np.int64]
    """where each begins in `joined`; one more for the end"""
    begins: npt.NDArray[np.bool_]
    """for each byte value, whether a token begins with it"""
    order: npt.NDArray[np.int64]
    """which of the given tokens each one is"""

    @classmethod
    def of(cls, tokens: Sequence[str]) -> SpecialBytes:
        """Prepare a list of special tokens."""
        encoded = [token.encode("utf-8") for token in tokens]
        # By characters, as the plain path: of two tokens at one place one is the other's beginning, in bytes as well.
        order = sorted(range(len(tokens)), key=lambda index: len(encoded[index]), reverse=True)
        begins = np.zeros(256, dtype=np.bool_)
        begins[[token[0] for token in encoded]] = True
        lengths = [len(encoded[index]) for index in order]
        joined = np.array([byte for index in order for byte in encoded[index]], dtype=np.uint8)
        return cls(joined, np.cumsum([0, *lengths], dtype=np.int64), begins, np.array(order, dtype=np.int64))

    def find(self, text: npt.NDArray[np.uint8], start: int, end: int) -> npt.NDArray[np.int64]:
        """Where special tokens stand in bytes `start` to `end`.

        Returns:
            int64 array of shape (n, 3): begin, end, and the index of the token in the given list.
        """
        if len(self.order) == 0:
            return np.empty((0, 3), dtype=np.int64)
        first_bytes = np.flatnonzero(self.begins)
        only = int(first_bytes[0]) if len(first_bytes) == 1 else -1
        blocks = [np.empty((0, 3), dtype=np.int64)]
        while start < end:
            block = np.empty((_BLOCK, 3), dtype=np.int64)
            count, start = stored(_find_specials)(
                text, start, end, self.joined, self.offsets, self.begins, only, self.order, block
            )
            blocks.append(block[:count])
        return np.concatenate(blocks)


def gaps(found: npt.NDArray[np.int64], start: int, end: int) -> npt.NDArray[np.int64]:
    """The ordinary text between special tokens: (begin, end) of each of the n + 1 stretches, some empty."""
    return np.stack([np.append(start, found[:, 1]), np.append(found[:, 0], end)], axis=1)


@kernel
def _find_specials(text, position, end, joined, offsets, begins, only, order, found):
    """Fill `found` with special tokens; returns how many there are and where to go on."""
    count = 0
    while position < end and count < len(found):
        if only >= 0 and position + 64 <= end:  # skip blocks without the only first byte; this becomes vector code
            hit = False
            for index in range(64):
                hit |= text[position + index] == only
            if not hit:
                position += 64
                continue
        stop = min(end, position + 64)
        while position < stop and count < len(found):
            which = _token_at(text, position, end, joined, offsets) if begins[text[position]] else -1
            if which < 0:
                position += 1
                continue
            length = offsets[which + 1] - offsets[which]
            found[count, 0], found[count, 1], found[count, 2] = position, position + length, order[which]
            count += 1
            position += length
    return count, position


@kernel
def _token_at(text, position, end, joined, offsets):
    """The first (longest) token that stands at `position`, or -1."""
    for which in range(len(offsets) - 1):
        length = offsets[which + 1] - offsets[which]
        if position + length > end:
            continue
        same = True
        for index in range(length):
            if text[position + index] != joined[offsets[which] + index]:
                same = False
                break
        if same:
            return which
    return -1
