"""Verifying the buckets of a band and joining near duplicates, compiled.

A bucket of m documents has m (m - 1) / 2 pairs, and crawls have buckets of 100,000 copies of one page. Only pairs that
are not connected yet can change a cluster. So the documents of a bucket are kept in connected groups; a new one is
compared with the members of each other group until one is similar enough, and the two groups are made one. A bucket of
copies costs m comparisons, and the clusters are exactly those of all pairs.

Source: union-find as in `union_find.py`. Left out: several threads (the comparisons are a small part of the job). Read
next: `near_duplicates.py`.
"""

# The types of kernels are numba's affair.
# mypy: no-check-untyped-defs
from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cs336_basics.tokenization.compilation import stored
from cs336_basics.tokenization.compiled_kernel import kernel


class CompiledClusters:
    """Clusters of documents whose shingle sets are at hand.

    Args:
        parent: int64 of shape (documents,), a union-find forest whose roots are the smallest members; changed.
        sets: the hashes of the shingle sets, each ascending, one after the other.
        begins: where each set begins; one more for the end.
        position: which set a document has.
        threshold: least Jaccard similarity that joins.

    Attributes:
        compared: pairs whose similarity was computed.
    """

    def __init__(
        self,
        parent: npt.NDArray[np.int64],
        *,
        sets: npt.NDArray[np.uint64],
        begins: npt.NDArray[np.int64],
        position: npt.NDArray[np.int64],
        threshold: float,
    ):
        self.parent = parent
        self.compared = 0
        self._sets, self._begins, self._position, self._threshold = sets, begins, position, threshold

    def join(self, members: npt.NDArray[np.int64], begins: npt.NDArray[np.int64]) -> None:
        """Compare the documents of each bucket, given as `lsh.buckets` gives them."""
        room = int(np.diff(begins).max(initial=0))
        scratch = np.empty((3, room), dtype=np.int64)
        self.compared += stored(_join_buckets)(
            members, begins, self._sets, self._begins, self._position, self._threshold, self.parent, *scratch
        )

    def roots(self) -> npt.NDArray[np.int64]:
        """The smallest member of each document's cluster."""
        stored(_flatten)(self.parent)
        return self.parent


@kernel
def _join_buckets(members, begins, sets, set_begins, position, threshold, parent, heads, tails, following):
    """Join similar documents of each bucket; returns the number of comparisons.

    heads, tails and following hold the groups of a bucket as linked lists of indices into the bucket.
    """
    compared = 0
    for bucket in range(len(begins) - 1):
        begin, groups = begins[bucket], 0
        for index in range(begins[bucket + 1] - begin):
            document = members[begin + index]
            following[index] = -1
            heads[groups] = tails[groups] = index  # a group of its own, the last one
            mine, other = groups, 0
            groups += 1
            while other < mine:
                found = _find(parent, members[begin + heads[other]]) == _find(parent, document)
                member = heads[other]
                while not found and member >= 0:
                    compared += 1
                    found = _similar(sets, set_begins, position[document], position[members[begin + member]], threshold)
                    member = following[member]
                if not found:
                    other += 1
                    continue
                _union(parent, document, members[begin + heads[other]])
                following[tails[mine]] = heads[other]
                tails[mine] = tails[other]
                mine -= 1  # the last group but mine takes the free place, mine moves down
                groups -= 1
                heads[other], tails[other], heads[mine], tails[mine] = (
                    heads[mine], tails[mine], heads[groups], tails[groups],
                )  # fmt: skip
    return compared


@kernel
def _similar(sets, begins, first, second, threshold):
    """Whether two sets have at least this Jaccard similarity."""
    left, left_end = begins[first], begins[first + 1]
    right, right_end = begins[second], begins[second + 1]
    total = (left_end - left) + (right_end - right)
    smaller = min(left_end - left, right_end - right)
    if smaller / (total - smaller) < threshold:
        return False
    shared = 0
    while left < left_end and right < right_end:
        a, b = sets[left], sets[right]
        shared += a == b
        left += a <= b
        right += b <= a
    return shared / (total - shared) >= threshold


@kernel
def _find(parent, element):
    """`UnionFind.find`."""
    while parent[element] != element:
        parent[element] = parent[parent[element]]
        element = parent[element]
    return element


@kernel
def _union(parent, first, second):
    """`UnionFind.union`."""
    first, second = _find(parent, first), _find(parent, second)
    parent[max(first, second)] = min(first, second)


@kernel
def _flatten(parent):
    """Let each element point to its root; parents are smaller, so theirs is known."""
    for element in range(len(parent)):
        parent[element] = parent[parent[element]]
