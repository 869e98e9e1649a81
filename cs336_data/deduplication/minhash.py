"""MinHash: a short signature from which the Jaccard similarity of two documents can be estimated.

    signature_i(A) = min over x in A of h_i(x)        P(signature_i(A) = signature_i(B)) = J(A, B)

because the element of A or B with the smallest h_i is in both with probability J. With k hash functions the share of
equal positions has mean J and variance J (1 - J) / k. Two families:

    "multiply"     h_i(x) = a_i x + b_i  mod 2^64, a_i odd      one multiplication
    "mersenne"     h_i(x) = a_i x + b_i  mod 2^61 - 1           universal; the family of the papers and of datasketch

Neither is min-wise independent for chosen x, but x is itself a hash of a shingle, spread evenly over all 64 bits; the
tests and `benchmarks/bench_minhash.py` measure bias and variance against the formula.

Source: Broder (1997); Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, chapter 3; handout problem
`minhash_deduplication`. Left out: one-permutation hashing, b-bit signatures. Read next: `lsh.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cs336_basics.tokenization.compilation import Engine, use_compiled
from cs336_data.deduplication.shingles import shingle_hashes

MERSENNE = (1 << 61) - 1


@dataclass(frozen=True)
class MinHashConfig:
    """How near duplicates are found. The default is FineWeb's, with a verified threshold."""

    num_hashes: int = 112
    """hash functions, the length of a signature"""
    num_bands: int = 14
    """bands of num_hashes / num_bands rows; documents that agree in all rows of a band are compared"""
    ngrams: int = 5
    """words per shingle"""
    threshold: float = 0.8
    """documents of at least this Jaccard similarity are duplicates"""
    seed: int = 0
    """chooses the hash functions"""
    family: Literal["multiply", "mersenne"] = "multiply"
    """hash functions modulo 2^64 or 2^61 - 1"""

    def __post_init__(self) -> None:
        for name in ("num_hashes", "num_bands", "ngrams"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.num_hashes % self.num_bands:
            raise ValueError(
                f"num_bands must divide num_hashes; got num_hashes={self.num_hashes}, num_bands={self.num_bands}; "
                f"{self.num_hashes // self.num_bands * self.num_bands or self.num_bands} hashes would do"
            )
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is a Jaccard similarity in (0, 1]; got {self.threshold}")
        if self.family not in ("multiply", "mersenne"):
            raise ValueError(f"family must be 'multiply' or 'mersenne'; got {self.family!r}")

    @property
    def num_rows(self) -> int:
        """Rows per band."""
        return self.num_hashes // self.num_bands


DEFAULT = MinHashConfig()


def hash_functions(config: MinHashConfig) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The factors a and summands b, uint64 of shape (num_hashes,) each."""
    random = np.random.default_rng(config.seed)
    if config.family == "mersenne":
        factors = random.integers(1, MERSENNE, config.num_hashes, dtype=np.uint64)
        return factors, random.integers(0, MERSENNE, config.num_hashes, dtype=np.uint64)
    factors, summands = random.integers(0, 1 << 64, (2, config.num_hashes), dtype=np.uint64)
    return factors | np.uint64(1), summands


def signature(hashes: npt.NDArray[np.uint64], config: MinHashConfig) -> npt.NDArray[np.uint64]:
    """The signature of a set of shingle hashes, by the definition.

    Args:
        hashes: uint64 of shape (num_shingles,), at least one; repetitions change nothing.
        config: the hash functions.

    Returns:
        uint64 of shape (num_hashes,).

    Raises:
        ValueError: no hashes.
    """
    if len(hashes) == 0:
        raise ValueError("an empty set has no smallest element; `shingle_hashes` gives at least one hash")
    factors, summands = hash_functions(config)
    if config.family == "mersenne":
        pairs = zip(factors.tolist(), summands.tolist(), strict=True)
        values = [int(x) for x in hashes]
        return np.array([min((a * x + b) % MERSENNE for x in values) for a, b in pairs], dtype=np.uint64)
    return (factors[:, None] * hashes + summands[:, None]).min(axis=1)


def signatures(
    texts: Sequence[str], config: MinHashConfig = DEFAULT, *, engine: Engine = "auto"
) -> npt.NDArray[np.uint64]:
    """Signatures of texts.

    Args:
        texts: any strings; of lone surrogates each counts as "?".
        config: shingles and hash functions.
        engine: "plain" for the code of this file, "compiled" for numba's; "auto" compiles from 1 MB on.

    Returns:
        uint64 of shape (len(texts), num_hashes); the same for both engines.
    """
    data = [text.encode("utf-8", "replace") for text in texts]
    if use_compiled(engine, 16 * sum(map(len, data))):  # the plain path is some 16 times slower than a tokenizer's
        from cs336_data.deduplication.compiled_shingles import CompiledShingles

        return CompiledShingles(config).signatures(data)
    rows = [signature(shingle_hashes(text.decode("utf-8"), config.ngrams), config) for text in data]
    return np.array(rows, dtype=np.uint64).reshape(len(data), config.num_hashes)


def estimated_jaccard(first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]) -> float:
    """The share of positions in which two signatures agree; standard deviation sqrt(J (1 - J) / k)."""
    return float(np.mean(first == second))
