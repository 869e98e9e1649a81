"""Normalization, shingles and MinHash signatures from UTF-8 bytes to numbers in compiled code.

What `shingles.py` and `minhash.py` say in Python, in three passes over a batch of documents: words are hashed while the
text is read, one look-up in a table of code points per character doing all of the normalization; the hashes of n words
make a shingle's; and four hash functions at a time run over the shingles, which the compiler turns into vector code.

A few characters cannot be folded one by one: a capital sigma becomes one of two small letters by its place in the word,
and some rare marks that stay are reordered by NFD. A document with one of them is normalized by Python and comes back.

Source: handout problem `minhash_deduplication`. Measured in `benchmarks/bench_minhash.py`. Left out: the family modulo
2^61 - 1 takes the shingles from here and the rest from `minhash.py`. Read next: `compiled_clusters.py`.
"""

# The types of kernels are numba's affair.
# mypy: no-check-untyped-defs
from __future__ import annotations

import functools
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cs336_basics.tokenization.compilation import stored
from cs336_basics.tokenization.compiled_kernel import kernel
from cs336_data.deduplication import shingles as readable
from cs336_data.deduplication.lsh import band_keys
from cs336_data.deduplication.minhash import MinHashConfig, hash_functions, signature

_DROPPED, _SPACE, _HARD, _SEVERAL = -1, -2, -3, -4  # entries of the folding table; others are a code point
_BATCH_BYTES = 1 << 20

_SEED = np.uint64(readable.WORD_SEED)
_MULTIPLIER = np.uint64(readable.MULTIPLIER)
_MIX1, _MIX2 = np.uint64(readable.MIX1), np.uint64(readable.MIX2)
_SHIFT = np.uint64(33)
_ONES = np.uint64(readable.MASK)


class Shingles(NamedTuple):
    """The shingle hashes of some documents, as arrays."""

    hashes: npt.NDArray[np.uint64]
    """those of one document after the other"""
    begins: npt.NDArray[np.int64]
    """where each document begins in `hashes`; one more for the end"""
    fingerprints: npt.NDArray[np.uint64]
    """a hash of all words of each document"""


class CompiledShingles:
    """Shingles, signatures and band keys of documents given as UTF-8 bytes."""

    def __init__(self, config: MinHashConfig):
        self.config = config
        self._factors, self._summands = hash_functions(config)

    def shingles(self, texts: Sequence[bytes]) -> Shingles:
        """The `shingle_hashes` and `fingerprint` of each text, which is valid UTF-8."""
        table, pool = folding_table()
        fingerprints = np.empty(len(texts), dtype=np.uint64)
        room = sum(map(len, texts)) // 2 + 2 * len(texts)
        hashes = np.empty(room, dtype=np.uint64)
        begins = np.zeros(len(texts) + 1, dtype=np.int64)
        data, starts = _joined(texts)
        folded = np.zeros(len(texts), dtype=np.bool_)
        words = np.empty(max(map(len, texts), default=0) // 2 + 1, dtype=np.uint64)
        done = 0
        hash_shingles = stored(_hash_shingles)
        while True:
            done = hash_shingles(
                data, starts, folded, done, table, pool, self.config.ngrams, words, hashes, begins, fingerprints
            )
            if done == len(texts):
                return Shingles(hashes[: begins[-1]], begins, fingerprints)
            texts = list(texts)  # one that is hard to fold; its normal form needs no more room in words
            texts[done] = readable.normalize(texts[done].decode("utf-8")).encode("utf-8") or texts[done]
            folded[done] = True
            data, starts = _joined(texts)

    def signatures(self, texts: Sequence[bytes]) -> npt.NDArray[np.uint64]:
        """Signatures as `minhash.signatures` gives them."""
        result = np.empty((len(texts), self.config.num_hashes), dtype=np.uint64)
        for first, last in _batches(texts):
            self._sign(self.shingles(texts[first:last]), result[first:last])
        return result

    def keys(self, texts: Sequence[bytes]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Band keys (num_bands, documents) and fingerprints (documents,) of texts that fit in memory together."""
        found = self.shingles(texts)
        result = np.empty((len(texts), self.config.num_hashes), dtype=np.uint64)
        self._sign(found, result)
        return band_keys(result, self.config.num_bands), found.fingerprints

    def sets(self, texts: Sequence[bytes]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """The shingle hashes of each text, ascending and each once, and the size of each set."""
        found = self.shingles(texts)
        sizes = np.empty(len(texts), dtype=np.int64)
        total = stored(_sort_sets)(found.hashes, found.begins, sizes)
        return found.hashes[:total], sizes

    def _sign(self, found: Shingles, result: npt.NDArray[np.uint64]) -> None:
        if self.config.family == "multiply":
            stored(_minimize)(found.hashes, found.begins, self._factors, self._summands, result)
            return
        for number, row in enumerate(result):
            row[:] = signature(found.hashes[found.begins[number] : found.begins[number + 1]], self.config)


@functools.cache
def folding_table() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """What normalization makes of each code point.

    Returns:
        A table of shape (1114112,): the code point that takes its place, or one of the constants above; from _SEVERAL
        downwards it is _SEVERAL - i, where pool[i] says how many code points follow there. And the pool.
    """
    table = np.arange(sys.maxunicode + 1, dtype=np.int32)
    pool: list[int] = []
    for point in _changing_points():
        character = chr(point)
        parts = [readable._keep(part) for part in unicodedata.normalize("NFD", character.lower())]
        kept = [ord(part) for part in parts if part]
        if character == "\u03a3" or (unicodedata.combining(character) and unicodedata.category(character) != "Mn"):
            table[point] = _HARD
        elif kept == [ord(" ")]:
            table[point] = _SPACE
        elif len(kept) == 1:
            table[point] = kept[0]
        elif not kept:
            table[point] = _DROPPED
        else:
            table[point] = _SEVERAL - len(pool)
            pool += [len(kept), *(_SPACE if part == ord(" ") else part for part in kept)]
    table.flags.writeable = False
    return table, np.array(pool, dtype=np.int32)


def _changing_points() -> Iterator[int]:
    """The code points that may not stand for themselves; between the ranges there are ideographs and nothing else."""
    yield from range(0x3400)
    yield from range(0x4DC0, 0x4E00)
    yield from range(0xA000, 0xD800)
    yield from range(0xE000, 0x20000)
    yield from range(0x2F800, 0x2FA20)
    yield from range(0xE0000, 0xE1000)


def _joined(texts: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The texts in one array, and where each begins."""
    return np.frombuffer(b"".join(texts), dtype=np.uint8), np.cumsum([0, *map(len, texts)], dtype=np.int64)


def _batches(texts: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Ranges of texts of about a megabyte."""
    first = size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size >= _BATCH_BYTES:
            yield first, number + 1
            first, size = number + 1, 0
    if first < len(texts):
        yield first, len(texts)


@kernel
def _mix(value):
    """`readable.mix_int`."""
    value = (value ^ (value >> _SHIFT)) * _MIX1
    value = (value ^ (value >> _SHIFT)) * _MIX2
    return value ^ (value >> _SHIFT)


@kernel
def _hash_shingles(text, starts, folded, first, table, pool, ngrams, words, hashes, begins, fingerprints):
    """Hash the shingles of documents from `first` on; returns where it stopped: at the end or at a hard one."""
    for document in range(first, len(starts) - 1):
        start, end, out = starts[document], starts[document + 1], begins[document]
        count = _hash_words(text, start, end, table, pool, folded[document], words)
        if count < 0:
            return document
        if count == 0:
            value = _SEED
            for place in range(start, end):
                value = (value ^ np.uint64(text[place])) * _MULTIPLIER
            hashes[out] = fingerprints[document] = _mix(value ^ _ONES)
            begins[document + 1] = out + 1
            continue
        value = np.uint64(0)
        for word in range(count):
            value = value * _MULTIPLIER + words[word]
        fingerprints[document] = _mix(value)
        length = min(ngrams, count)
        for word in range(count - length + 1):
            value = np.uint64(0)
            for place in range(word, word + length):
                value = value * _MULTIPLIER + words[place]
            hashes[out + word] = _mix(value)
        begins[document + 1] = out + count - length + 1
    return len(starts) - 1


@kernel
def _hash_words(text, start, end, table, pool, folded, words):
    """Write the hash of each word of text[start:end]; returns their number, or -1 if Python must normalize."""
    count, value, inside, place = 0, _SEED, False, start
    while place < end:
        point = np.int32(text[place])
        if point < 0x80:
            place += 1
        elif point < 0xE0:
            point = ((point & 0x1F) << 6) | (text[place + 1] & 0x3F)
            place += 2
        elif point < 0xF0:
            point = ((point & 0x0F) << 12) | ((text[place + 1] & 0x3F) << 6) | (text[place + 2] & 0x3F)
            place += 3
        else:
            point = ((point & 0x07) << 18) | ((text[place + 1] & 0x3F) << 12)
            point |= ((text[place + 2] & 0x3F) << 6) | (text[place + 3] & 0x3F)
            place += 4
        entry = table[point]
        if entry == _HARD:
            if not folded:
                return -1
            entry = point
        if entry >= 0:
            value, inside = (value ^ np.uint64(entry)) * _MULTIPLIER, True
        elif entry == _SPACE:
            if inside:
                words[count] = _mix(value)
                count, value, inside = count + 1, _SEED, False
        elif entry <= _SEVERAL:
            at = _SEVERAL - entry
            for part in range(at + 1, at + 1 + pool[at]):
                if pool[part] >= 0:
                    value, inside = (value ^ np.uint64(pool[part])) * _MULTIPLIER, True
                elif inside:
                    words[count] = _mix(value)
                    count, value, inside = count + 1, _SEED, False
    if inside:
        words[count] = _mix(value)
        count += 1
    return count


@kernel
def _minimize(hashes, begins, factors, summands, result):
    """result[d, i] = min of factors[i] * x + summands[i] over the shingles x of document d."""
    whole = len(factors) // 4 * 4
    for document in range(len(begins) - 1):
        begin, end = begins[document], begins[document + 1]
        for i in range(0, whole, 4):
            a0, a1, a2, a3 = factors[i], factors[i + 1], factors[i + 2], factors[i + 3]
            b0, b1, b2, b3 = summands[i], summands[i + 1], summands[i + 2], summands[i + 3]
            least0 = least1 = least2 = least3 = _ONES
            for place in range(begin, end):
                x = hashes[place]
                least0 = min(least0, a0 * x + b0)
                least1 = min(least1, a1 * x + b1)
                least2 = min(least2, a2 * x + b2)
                least3 = min(least3, a3 * x + b3)
            result[document, i], result[document, i + 1] = least0, least1
            result[document, i + 2], result[document, i + 3] = least2, least3
        for i in range(whole, len(factors)):
            least = _ONES
            for place in range(begin, end):
                least = min(least, factors[i] * hashes[place] + summands[i])
            result[document, i] = least


@kernel
def _sort_sets(hashes, begins, sizes):
    """Sort each document's hashes, drop repetitions, move all together; returns the number of hashes kept."""
    out = 0
    for document in range(len(begins) - 1):
        begin, end = begins[document], begins[document + 1]
        gap = (end - begin) // 2
        while gap > 0:  # Shell's sort
            for place in range(begin + gap, end):
                value, to = hashes[place], place
                while to >= begin + gap and hashes[to - gap] > value:
                    hashes[to] = hashes[to - gap]
                    to -= gap
                hashes[to] = value
            gap = 1 if gap == 2 else gap * 5 // 11
        first = out
        for place in range(begin, end):
            if place == begin or hashes[place] != hashes[out - 1]:
                hashes[out] = hashes[place]
                out += 1
        sizes[document] = out - first
    return out
