"""Clusters of near duplicates, in memory and readable: the steps of the method in five lines each.

    texts -> signatures -> candidates by LSH -> those with J >= threshold, computed from the shingles -> union-find

Candidates are verified with the true Jaccard similarity of their shingle sets, so no two documents are called alike by
an unlucky signature; what LSH misses stays. A pair that is connected already need not be looked at.

This is what `near_duplicates.py` does with files larger than memory, and its oracle. Handout problem
`minhash_deduplication`. Read next: `near_duplicates.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from cs336_data.deduplication.lsh import band_keys, candidate_pairs
from cs336_data.deduplication.minhash import DEFAULT, MinHashConfig, signatures
from cs336_data.deduplication.shingles import jaccard, shingles
from cs336_data.deduplication.union_find import UnionFind


def cluster_texts(texts: Sequence[str], config: MinHashConfig = DEFAULT) -> list[int]:
    """For each text the position of the first text of its cluster.

    >>> cluster_texts(["one two three", "ONE, two: three!", "four"])
    [0, 0, 2]
    """
    keys = band_keys(signatures(texts, config, engine="plain"), config.num_bands)
    sets: dict[int, set[str]] = {}

    def shingles_of(number: int) -> set[str]:
        if number not in sets:
            sets[number] = shingles(texts[number], config.ngrams)
        return sets[number]

    clusters = UnionFind(len(texts))
    for first, second in candidate_pairs(keys):
        if clusters.find(first) != clusters.find(second):
            if jaccard(shingles_of(first), shingles_of(second)) >= config.threshold:
                clusters.union(first, second)
    return [clusters.find(number) for number in range(len(texts))]
