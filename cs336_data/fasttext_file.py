"""What is in a fastText classifier's file, as arrays: words, rows of numbers, and the tree of labels.

    header       dimension, lengths of n-grams, number of buckets
    dictionary   words, then labels, with their counts; which buckets were kept when the model was made small
    input        a row per word, then per bucket; in small models (.ftz) product quantization: a row is cut into pieces,
                 each one of 256 centroids, times one of 256 lengths (Jegou et al. 2011; Joulin et al. 2016b)
    output       a row per inner node of the tree

The tree is Huffman's over the counts of the labels: the probability of a label is the product of the turns on the way
to it, so that 176 languages take few steps (hierarchical softmax).

Left out: models with word pairs, a plain softmax or quantized output; those answer through the library
(`fasttext_model.py`). Source: fastText 0.9.2 (MIT licence), the format of its `saveModel`. Read next:
`compiled_fasttext.py`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_MAGIC, _VERSION, _HIERARCHICAL, _SUPERVISED = 793712314, 12, 1, 3


@dataclass(frozen=True)
class FastTextFile:
    """A model.

    Attributes:
        words: bytes of each word, in the order of their rows.
        labels: without "__label__".
        shortest, longest: of the n-grams, characters.
        num_buckets: of the hash table of n-grams.
        kept: bucket -> place among the rows after the words, or -1; None if all buckets have one.
        rows: float32 (words and buckets, dimension).
        output: float32 (inner nodes, dimension).
        children: int32 (nodes, 2), -1 for leaves; the first nodes are the labels, the last is the root.
    """

    words: list[bytes]
    labels: list[str]
    shortest: int
    longest: int
    num_buckets: int
    kept: np.ndarray | None
    rows: np.ndarray
    output: np.ndarray
    children: np.ndarray


def read_fasttext_file(path: Path) -> FastTextFile:
    """Read a model.

    Raises:
        ValueError: no fastText model, or one of a kind that is left out.
    """
    data = _Reader(Path(path).read_bytes())
    try:
        return _read(data)
    except (struct.error, ValueError, IndexError) as error:
        raise ValueError(f"{path} is no fastText model of the kind read here: {error}") from error


class _Reader:
    """Values one after another."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        """Numbers in the format of `struct`."""
        found = struct.unpack_from("<" + form, self.data, self.position)
        self.position += struct.calcsize("<" + form)
        return found

    def array(self, kind: Any, count: int) -> np.ndarray:
        """`count` values of a numpy type, copied."""
        found = np.frombuffer(self.data, kind, count, self.position).copy()
        self.position += found.nbytes
        return found

    def word(self) -> bytes:
        """Bytes up to a zero."""
        begin, self.position = self.position, self.data.index(b"\0", self.position) + 1
        return self.data[begin : self.position - 1]


def _read(data: _Reader) -> FastTextFile:
    magic, version = data.numbers("ii")
    dimension, _, _, _, _, pairs, loss, model, num_buckets, shortest, longest, _ = data.numbers("12i")
    data.numbers("d")
    kind = (magic, version, pairs, loss, model)
    if kind != (_MAGIC, _VERSION, 1, _HIERARCHICAL, _SUPERVISED):
        raise ValueError(f"(magic, version, words per feature, loss, model) is {kind}")
    size, num_words, num_labels, _, num_kept = data.numbers("3i2q")
    entries = [(data.word(), *data.numbers("qb")) for _ in range(size)]
    kept = None
    if num_kept >= 0:
        kept = np.full(num_buckets, -1, np.int32)
        buckets, places = data.array(np.int32, 2 * num_kept).reshape(-1, 2).T
        kept[buckets] = places
    rows = _quantized_rows(data) if data.numbers("?")[0] else _dense_rows(data)
    if data.numbers("?")[0]:
        raise ValueError("its output is quantized")
    output = _dense_rows(data)
    if rows.shape[1] != dimension or output.shape != (num_labels, dimension):
        raise ValueError(f"sizes {rows.shape} and {output.shape} do not fit dimension {dimension}")
    words = [word for word, _, _ in entries[:num_words]]
    labels = [label.decode().removeprefix("__label__") for label, _, _ in entries[num_words:]]
    tree = _huffman([count for _, count, _ in entries[num_words:]])
    return FastTextFile(words, labels, shortest, longest, num_buckets, kept, rows, output, tree)


def _dense_rows(data: _Reader) -> np.ndarray:
    num_rows, dimension = data.numbers("2q")
    return data.array(np.float32, num_rows * dimension).reshape(num_rows, dimension)


def _quantized_rows(data: _Reader) -> np.ndarray:
    has_lengths, num_rows, _, num_codes = data.numbers("?qqi")
    codes = data.array(np.uint8, num_codes).reshape(num_rows, -1)
    rows = np.concatenate([centroids[codes[:, piece]] for piece, centroids in enumerate(_centroids(data))], axis=1)
    if has_lengths:
        lengths = data.array(np.uint8, num_rows)
        rows *= _centroids(data)[0][lengths]
    return rows


def _centroids(data: _Reader) -> list[np.ndarray]:
    """For each piece of a row its 256 centroids."""
    dimension, num_pieces, width, last_width = data.numbers("4i")
    values = data.array(np.float32, dimension * 256)
    pieces = [values[i * 256 * width :][: 256 * width].reshape(256, width) for i in range(num_pieces - 1)]
    return [*pieces, values[(num_pieces - 1) * 256 * width :].reshape(256, last_width)]


def _huffman(counts: list[int]) -> np.ndarray:
    """Children of each node; `counts` fall, so the two smallest are the last leaf and the first node not yet used."""
    weights = [*counts, *[10**15] * (len(counts) - 1)]
    children = np.full((len(weights), 2), -1, np.int32)
    leaf, node = len(counts) - 1, len(counts)
    for parent in range(len(counts), len(weights)):
        for side in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                children[parent, side], leaf = leaf, leaf - 1
            else:
                children[parent, side], node = node, node + 1
        weights[parent] = sum(weights[child] for child in children[parent])
    return children
