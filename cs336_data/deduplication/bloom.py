"""Bloom filter: a set that answers "perhaps" or "certainly not", in a few bits per element.

An array of m bits; an element sets k of them, chosen by hashing, and is perhaps in the set if all its k are set. With n
elements, and bits set at random,

    P(false positive) = (1 - exp(-k n / m))^k        best: m = -n ln p / (ln 2)^2,  k = (m / n) ln 2

1% costs 9.6 bits per element and 7 probes, 0.1% 14.4 bits and 10. In deduplication a false positive DELETES something
unique, so exact hashes (64 bits per element) are to be preferred where they fit.

The k places come from the two halves of one mixed 64-bit hash: place_i = mix(low + i * high) mod m, after Kirsch and
Mitzenmacher (2006). Elements are added in order, each seeing those before it, as one pass over a stream needs.

Source: Bloom (1970). Left out: deletion, growth. Read next: `shingles.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from cs336_data.deduplication.shingles import mix

_BLOCK = 1 << 14


class BloomFilter:
    """A set of 64-bit hashes.

    Args:
        capacity: number of elements for which `error_rate` holds.
        error_rate: probability that an element not in the set is called "perhaps", in (0, 1).

    Attributes:
        num_bits: m.
        num_probes: k.
        bits: uint8 of shape (ceil(m / 8),).

    >>> numbers = np.arange(1000, dtype=np.uint64)
    >>> seen = BloomFilter(1000, 0.01)
    >>> bool(seen.add(numbers).all()), bool((numbers[:10] == 3)[seen.contains(numbers[:10])].any())
    (False, True)
    """

    def __init__(self, capacity: int, error_rate: float):
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1; got {capacity}")
        if not 0 < error_rate < 1:
            raise ValueError(f"error_rate is a probability between 0 and 1, both excluded; got {error_rate}")
        self.num_bits = math.ceil(-capacity * math.log(error_rate) / math.log(2) ** 2)
        self.num_probes = max(1, round(self.num_bits / capacity * math.log(2)))
        self.bits = np.zeros(-(-self.num_bits // 8), dtype=np.uint8)

    def contains(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which elements are perhaps in the set."""
        return self._are_set(self._places(hashes))

    def add(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Add elements in order; tells for each whether it was perhaps there before."""
        there = np.empty(len(hashes), dtype=np.bool_)
        for begin in range(0, len(hashes), _BLOCK):
            block = hashes[begin : begin + _BLOCK]
            places = self._places(block)
            found = self._are_set(places)
            # Within a block, later copies of an element see the first; that they may collide with others is lost.
            _, first = np.unique(block, return_index=True)
            found |= ~np.isin(np.arange(len(block)), first)
            np.bitwise_or.at(self.bits, places >> 3, (1 << (places & 7)).astype(np.uint8))
            there[begin : begin + _BLOCK] = found
        return there

    def _places(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """The bits of each element, shape (elements, num_probes)."""
        mixed = mix(hashes)
        low, high = mixed & np.uint64(0xFFFFFFFF), (mixed >> np.uint64(32)) | np.uint64(1)
        probes: Any = low[:, None] + high[:, None] * np.arange(self.num_probes, dtype=np.uint64)
        return (mix(probes) % np.uint64(self.num_bits)).astype(np.int64)

    def _are_set(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return ((self.bits[places >> 3] >> (places & 7)) & 1).all(axis=1)
