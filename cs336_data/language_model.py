"""lid.176 asked by compiled code, which takes a fraction of the time that the library takes and gives the same numbers.

    line       "the old mill"  ->  <the> <old> <mill>, and </s> at the end
    features   each word that the model knows, and each n-gram of 2 to 4 characters, < and > included
    hidden     mean of the rows of all features
    answer     the most probable leaf of the tree of labels below it (`fasttext_file.py`)

fastText spends its time on the n-grams: each is copied, hashed, and looked up in a map. Words repeat, so here they
get numbers (`interning.py`), the features of a word are found once and remembered, and a page is a sum over rows of a
table.

Read next: `compiled_fasttext.py`, or on with `pii.py`.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from types import ModuleType

import numpy as np

from cs336_data.fasttext_file import read_fasttext_file
from cs336_data.interning import Interner, with_room

END = "</s>"
MEMORY = 100_000
"""Words remembered, some 30 MB; a model that knows so many starts afresh with the next text."""


class CompiledLanguageModel:
    """A model of the kind that `fasttext_file.py` reads."""

    def __init__(self, path: Path) -> None:
        """Load `path`.

        Raises:
            ValueError: no such model.
        """
        self._model = model = read_fasttext_file(path)
        kept = np.empty(0, np.int32) if model.kept is None else model.kept
        present = np.packbits(kept >= 0, bitorder="little")
        self._ngrams = model.shortest, model.longest, model.num_buckets, kept, present
        self._rows_of_words = Interner()  # gives the words of the model the numbers of their rows
        cuts = np.cumsum([0, *map(len, model.words)])
        self._rows_of_words.pieces(np.frombuffer(b"".join(model.words), np.uint8), cuts)
        self._hidden = np.empty(model.rows.shape[1], np.float32)
        self._nodes, self._scores = np.empty(len(model.children), np.int64), np.empty(len(model.children), np.float32)
        self._forget()

    def probabilities(self, text: str) -> list[tuple[str, float]]:
        """The most probable label with its probability in [0, 1]; empty if none is likely."""
        if self._words.size > MEMORY:
            self._forget()
        try:
            numbers = self._words.chunks(f"{text} {END}".replace("\0", " ").encode("utf-8", "replace"))
            if self._words.size > self._learnt:
                self._learn()
        except MemoryError:  # a worker that has a limit goes on with the next document: no word may be half learnt
            self._forget()
            raise
        model, hidden = self._model, self._hidden
        _kernels().mean_row(numbers, self._starts, self._rows, model.rows, hidden)
        label, score = _kernels().best_label(hidden, model.output, model.children, self._nodes, self._scores)
        return [(model.labels[label], min(1.0, float(np.float32(math.exp(score)))))] if label >= 0 else []

    def _forget(self) -> None:
        """Know no word but the one at the end of each text, number 0, where fastText stops; it has no n-grams."""
        self._words = Interner()
        self._words.chunks(END.encode())
        row = self._model.words.index(END.encode()) if END.encode() in self._model.words else None
        self._rows = np.array([] if row is None else [row], np.int32)
        self._starts = np.array([0, len(self._rows)])
        self._learnt = 1

    def _learn(self) -> None:
        """Find the features of the words that have got a number."""
        model, words, known, first = self._model, self._words, self._rows_of_words, self._learnt
        num_bytes = int(words.ends[words.size] - words.ends[first])
        self._starts = with_room(self._starts, words.size + 1)
        count = words.size - first
        most = (num_bytes + 2 * count) * model.longest + count  # an n-gram of each length at each place, and the word
        self._rows = with_room(self._rows, int(self._starts[first]) + most)
        room = np.empty(5, np.uint64), np.empty(num_bytes + 2, np.uint8)
        _kernels().features(
            words.kept, words.ends, first, words.size, (known.slots, known.kept, known.size), self._ngrams, room,
            self._starts, self._rows,
        )  # fmt: skip
        self._learnt = words.size


@functools.cache
def _kernels() -> ModuleType:
    """The module of compiled loops, stored on disk."""
    from cs336_basics.tokenization.compilation import stored
    from cs336_data import compiled_fasttext

    for kernel in (compiled_fasttext.features, compiled_fasttext.mean_row, compiled_fasttext.best_label):
        stored(kernel)
    return compiled_fasttext
