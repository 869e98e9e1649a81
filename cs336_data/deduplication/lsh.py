"""Locality-sensitive hashing: pairs of documents worth comparing, without looking at all pairs.

A signature of k values is cut into b bands of r rows. Two documents are candidates if they agree in all rows of at
least one band; with similarity s that happens with probability

    P(candidate) = 1 - (1 - s^r)^b          half way up near s = (1 / b)^(1 / r)

A band is made one 64-bit key, keys are sorted, and equal neighbours form a bucket: O(n log n) per band.

Source: Indyk and Motwani (1998); Mining of Massive Datasets, section 3.4; handout problem `minhash_deduplication`. Left
out: multi-probe. Read next: `union_find.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt

from cs336_data.deduplication.shingles import MULTIPLIER, mix


def candidate_probability(similarity: float, *, num_bands: int, num_rows: int) -> float:
    """The probability that two documents become candidates.

    >>> round(candidate_probability(0.8, num_bands=14, num_rows=8), 3)
    0.924
    """
    return 1 - (1 - similarity**num_rows) ** num_bands


def band_keys(signatures: npt.NDArray[np.uint64], num_bands: int) -> npt.NDArray[np.uint64]:
    """One key for each band of each signature.

    Args:
        signatures: uint64 of shape (documents, num_hashes).
        num_bands: divides num_hashes.

    Returns:
        uint64 of shape (num_bands, documents).
    """
    documents, num_hashes = signatures.shape
    bands = signatures.reshape(documents, num_bands, num_hashes // num_bands)
    keys = np.zeros((documents, num_bands), dtype=np.uint64)
    for row in range(bands.shape[2]):
        keys = keys * np.uint64(MULTIPLIER) + bands[:, :, row]
    return np.ascontiguousarray(mix(keys).T)


def buckets(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Documents that share a key of one band with another.

    Args:
        keys: uint64 of shape (documents,).

    Returns:
        Positions of the documents, bucket after bucket and ascending in each, and where each bucket begins (one more
        for the end).
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(keys) else np.empty(0, int)
    sizes = np.diff(np.append(begins, len(keys)))
    shared = sizes > 1
    members = order[np.repeat(shared, sizes)]
    return members.astype(np.int64), np.concatenate([[0], np.cumsum(sizes[shared])]).astype(np.int64)


def candidate_pairs(keys: npt.NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """All pairs that share a bucket in some band, each once; `keys` as from `band_keys`."""
    seen: set[tuple[int, int]] = set()
    for band in keys:
        members, begins = buckets(band)
        for begin, end in zip(begins[:-1], begins[1:], strict=True):
            for pair in combinations(members[begin:end].tolist(), 2):
                if pair not in seen:
                    seen.add(pair)
                    yield pair
