"""Normalization, shingles and signatures: against the regex module, whole numbers, and compiled against readable."""

from __future__ import annotations

import random
import sys
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_data.deduplication import compiled_shingles
from cs336_data.deduplication import shingles as readable
from cs336_data.deduplication.compiled_shingles import CompiledShingles
from cs336_data.deduplication.lsh import band_keys, buckets, candidate_pairs, candidate_probability
from cs336_data.deduplication.minhash import MERSENNE, MinHashConfig, estimated_jaccard, hash_functions, signatures

# Unassigned code points may be assigned in the regex module, whose Unicode is newer than Python's.
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=80)
ODD_TEXTS = [
    "", " \n", "!?", "\0", "a", "A b  C-d", "\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3 \u03a3.", "\u0130stanbul",
    "\ufb03x\u00bd", "\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8", "\u4e2d\u6587\u3002\u6587\u5b57", "\u4dc0\u4dc1",
    "e\u0301\u0323 \u0323",
    "a\u302e\u302fb \u302f", "\U0001d165\U0001d16d", "\U0001f600 smile",
    "tab\tnbsp\u00a0thin\u2009zero\u200bend", "\U0010ffff",
]  # fmt: skip


def normalized(text: str) -> str:
    """By regular expressions."""
    decomposed = regex.sub(r"\p{Mn}", "", unicodedata.normalize("NFD", text.lower()))
    return regex.sub(r"[\p{P}\p{S}\p{Z}\p{Cc}]+", " ", decomposed).strip()


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_normalize_odd_texts(text):
    assert readable.normalize(text) == normalized(text)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_normalize(text):
    assert readable.normalize(text) == normalized(text)
    assert readable.normalize(readable.normalize(text)) == readable.normalize(text)


def test_shingles_are_a_set_of_word_ngrams():
    assert readable.shingles("To be, or not to be.", 2) == {"to be", "be or", "or not", "not to"}
    assert readable.shingles("To be", 3) == {"to be"}
    assert readable.shingles("", 3) != readable.shingles("...", 3)


def test_hashes_follow_the_formulas():
    """Polynomials over whole numbers, reduced once at the end."""

    def mixed(value: int) -> int:
        for factor in (readable.MIX1, readable.MIX2):
            value = ((value ^ (value >> 33)) * factor) % 2**64
        return value ^ (value >> 33)

    m, numbers = readable.MULTIPLIER, []
    for word in ("be", "or", "not"):
        value = readable.WORD_SEED
        for character in word:
            value = ((value ^ ord(character)) * m) % 2**64
        numbers.append(mixed(value))
    pairs = [mixed((first * m + second) % 2**64) for first, second in pairwise(numbers)]
    assert readable.shingle_hashes("Be or NOT", 2).tolist() == pairs
    whole = mixed(sum(number * m ** (2 - i) for i, number in enumerate(numbers)) % 2**64)
    assert readable.fingerprint("be or not!") == whole


def test_distinct_shingles_have_distinct_hashes():
    """Among 200,000 made of few words, near each other in every way."""
    names = [f"w{i}" for i in range(20)] + ["a", "b", "ab", "ba", "aa"]
    texts = [f"{x} {y} {z}" for x in names for y in names for z in names]
    hashes = np.concatenate([readable.shingle_hashes(text, 3) for text in texts])
    assert len(np.unique(hashes)) == len(texts)
    bits = np.unpackbits(hashes.view(np.uint8)).reshape(len(hashes), 64).mean(axis=0)
    assert abs(bits - 0.5).max() < 5 * 0.5 / len(hashes) ** 0.5, "every bit should be set in half of the hashes"


def test_folding_table_looks_at_every_code_point_that_changes():
    """The ranges it leaves out come through normalization as they are."""
    looked_at = set(compiled_shingles._changing_points())
    rest = "".join(chr(p) for p in range(sys.maxunicode + 1) if p not in looked_at and not 0xD800 <= p < 0xE000)
    assert len(rest) > 900_000 and readable.normalize(rest) == rest


def check_same(texts: list[str], n: int) -> None:
    compiled = CompiledShingles(MinHashConfig(num_hashes=2, num_bands=1, ngrams=n))
    data = [text.encode("utf-8") for text in texts]
    found = compiled.shingles(data)
    assert found.fingerprints.tolist() == [readable.fingerprint(text) for text in texts]
    expected = [readable.shingle_hashes(text, n) for text in texts]
    assert np.diff(found.begins).tolist() == list(map(len, expected))
    assert np.array_equal(found.hashes, np.concatenate(expected))
    hashes, sizes = compiled.sets(data)
    distinct = list(map(np.unique, expected))
    assert sizes.tolist() == list(map(len, distinct)) and np.array_equal(hashes, np.concatenate(distinct))


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=5), st.integers(1, 6))
def test_compiled_shingles(texts, n):
    check_same(texts, n)


@pytest.mark.parametrize("n", [1, 3])
def test_compiled_shingles_of_odd_texts(n):
    check_same(ODD_TEXTS + [" ".join(ODD_TEXTS)], n)


def test_compiled_shingles_of_every_code_point():
    """Between letters, so that drops, spaces and replacements all show."""
    points = [p for p in range(sys.maxunicode + 1) if p % 31 == 0 or p < 0x3400]
    check_same([f"x{chr(p)}y {chr(p)}" for p in points if not 0xD800 <= p < 0xE000], 1)


def test_compiled_sets_of_a_long_document():
    random.seed(0)
    check_same([" ".join(str(random.randrange(3000)) for _ in range(20_000))], 1)


@pytest.mark.parametrize("family", ["multiply", "mersenne"])
@pytest.mark.parametrize("num_hashes", [1, 6, 24])
def test_signatures_are_the_least_hashes(family, num_hashes):
    config = MinHashConfig(num_hashes=num_hashes, num_bands=1, ngrams=2, family=family)
    texts = ["one two three four five", "", "six", "two three " * 30]
    plain, compiled = (signatures(texts, config, engine=engine) for engine in ("plain", "compiled"))
    modulus = 2**64 if family == "multiply" else MERSENNE
    factors, summands = (values.tolist() for values in hash_functions(config))
    expected = [
        [
            min((a * x + b) % modulus for x in readable.shingle_hashes(text, 2).tolist())
            for a, b in zip(factors, summands, strict=True)
        ]
        for text in texts
    ]
    assert plain.tolist() == expected and compiled.tolist() == expected


def test_signatures_of_a_lone_surrogate_and_of_nothing():
    assert np.array_equal(signatures(["a\ud800b"]), signatures(["a?b"]))
    assert signatures([]).shape == (0, 112)


def sets_of_similarity(similarity: float, size: int, seed: int) -> tuple[list[str], list[str]]:
    """Two lists of words whose sets have about this Jaccard similarity."""
    shared = round(2 * size * similarity / (1 + similarity))
    common = [f"c{seed}x{i}" for i in range(shared)]
    return common + [f"a{seed}x{i}" for i in range(size - shared)], common + [
        f"b{seed}x{i}" for i in range(size - shared)
    ]


@pytest.mark.parametrize("family", ["multiply", "mersenne"])
@pytest.mark.parametrize("similarity", [0.3, 0.8])
def test_bias_and_variance_of_the_estimate(family, similarity):
    """Mean J and variance J (1 - J) / k over pairs of documents, for k hash functions."""
    k, pairs, size = 64, (600 if family == "multiply" else 60), 60
    config = MinHashConfig(num_hashes=k, num_bands=1, ngrams=1, family=family)
    sets = [sets_of_similarity(similarity, size, seed) for seed in range(pairs)]
    exact = readable.jaccard(*map(set, sets[0]))
    rows = signatures([" ".join(words) for pair in sets for words in pair], config, engine="compiled")
    estimates = np.array([estimated_jaccard(rows[2 * i], rows[2 * i + 1]) for i in range(pairs)])
    variance = exact * (1 - exact) / k
    assert abs(estimates.mean() - exact) < 4 * (variance / pairs) ** 0.5
    assert estimates.var() == pytest.approx(variance, rel=4 * (2 / pairs) ** 0.5)


@pytest.mark.parametrize(("bands", "similarity"), [(20, 0.5), (20, 0.6), (14, 0.75)])
def test_candidate_rate_on_planted_pairs(bands, similarity):
    """1 - (1 - s^r)^b, with the exact similarity of the sets; and no pair of strangers."""
    pairs, rows = 1000, 5
    config = MinHashConfig(num_hashes=bands * rows, num_bands=bands, ngrams=1)
    sets = [sets_of_similarity(similarity, 40, seed) for seed in range(pairs)]
    exact = readable.jaccard(*map(set, sets[0]))
    keys = band_keys(signatures([" ".join(w) for pair in sets for w in pair], config, engine="compiled"), bands)
    found = set(candidate_pairs(keys))
    assert all(first // 2 == second // 2 for first, second in found), "documents with nothing in common met"
    expected = candidate_probability(exact, num_bands=bands, num_rows=rows)
    assert abs(len(found) / pairs - expected) < 4 * (expected * (1 - expected) / pairs) ** 0.5


def test_candidate_probability_table():
    """Values computed by hand for the settings in use: 10 x 10, 50 x 10, 14 x 8, 93 x 15, 450 x 20."""
    rates = {(10, 10): 0.679, (50, 10): 0.997, (14, 8): 0.924, (93, 15): 0.964, (450, 20): 0.995}
    for (bands, rows), rate in rates.items():
        assert candidate_probability(0.8, num_bands=bands, num_rows=rows) == pytest.approx(rate, abs=6e-4)


def test_buckets_and_pairs_against_all_pairs():
    random_keys = np.random.default_rng(0).integers(0, 40, (3, 60), dtype=np.uint64)
    expected = {(i, j) for i in range(60) for j in range(i + 1, 60) if (random_keys[:, i] == random_keys[:, j]).any()}
    found = list(candidate_pairs(random_keys))
    assert set(found) == expected and len(found) == len(expected)
    for keys in (np.empty(0, dtype=np.uint64), np.array([7], dtype=np.uint64)):
        members, begins = buckets(keys)
        assert members.tolist() == [] and begins.tolist() == [0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_hashes": 100, "num_bands": 30}, "num_bands must divide num_hashes.*90 hashes would do"),
        ({"num_bands": 0}, "num_bands must be at least 1"),
        ({"ngrams": 0}, "ngrams must be at least 1"),
        ({"threshold": 0.0}, r"threshold is a Jaccard similarity in \(0, 1\]; got 0.0"),
        ({"family": "xor"}, "family must be"),
    ],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(ValueError, match=message):
        MinHashConfig(**wrong)
