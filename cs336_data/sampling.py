"""Samples that do not depend on order: of all documents the k with the smallest hash of (seed, id).

Adding documents in another order, or joining the samples of parts, gives the same sample; that is why a worker count
cannot change it. It is uniform as far as the hash is (bottom-k sampling, Cohen and Kaplan 2007). Read next:
`file_task.py`.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from typing import Any


class BottomK:
    """The k items with the smallest hashes."""

    def __init__(self, size: int, *, seed: int) -> None:
        self.size, self.seed = size, seed
        self._heap: list[tuple[int, str, int, Any]] = []  # hash negated, so that the largest is on top
        self._offered = 0

    def offer(self, identity: str, make: Callable[[], Any]) -> None:
        """Consider an item; `make` is called only if it is taken for now."""
        if self.size < 1:
            return
        self._offered += 1
        digest = hashlib.blake2b(f"{self.seed}:{identity}".encode(errors="replace"), digest_size=8).digest()
        key = -int.from_bytes(digest, "big")
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, (key, identity, self._offered, make()))
        elif (key, identity) > self._heap[0][:2]:
            heapq.heapreplace(self._heap, (key, identity, self._offered, make()))

    def items(self) -> list[Any]:
        """What was taken, smallest hash first."""
        return [entry[-1] for entry in sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))]
