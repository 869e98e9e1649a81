"""Union-find: which documents belong together, given pairs that do.

Being a near duplicate is not transitive, but clusters are made as if it were: if A is like B and B like C, one of the
three is kept. Every set is named by its smallest member, so the clusters do not depend on the order of the pairs.

Complexity: nearly constant per operation by path halving. Source: Tarjan (1975). Left out: union by size, which would
make the name depend on the order. Read next: `clusters.py`.
"""

from __future__ import annotations


class UnionFind:
    """A partition of 0 .. size - 1, at first into single elements."""

    def __init__(self, size: int):
        self.parent = list(range(size))

    def find(self, element: int) -> int:
        """The smallest member of the set of `element`."""
        parent = self.parent
        while parent[element] != element:
            parent[element] = parent[parent[element]]
            element = parent[element]
        return element

    def union(self, first: int, second: int) -> None:
        """Make the sets of both one."""
        low, high = sorted((self.find(first), self.find(second)))
        self.parent[high] = low
