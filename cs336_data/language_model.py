"""lid.176 asked by compiled code, which takes a fraction of the time that the library takes and gives the same numbers.

    line       "the old mill"  ->  <the> <old> <mill>, and </s> at the end
    features   each word that the model knows, and each n-gram of 2 to 4 characters, < and > included
    hidden     mean of the rows of all features
    answer     the most probable leaf of the tree of labels below it (`fasttext_file.py`)

fastText spends its time on the n-grams: each is copied, hashed, and looked up in a map. Words repeat (Zipf), so here
the features of a word are found once and remembered, and a page is a sum over rows of a table.

Read next: `compiled_fasttext.py`, or on with `pii.py`.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from types import ModuleType

import numpy as np

from cs336_data.fasttext_file import read_fasttext_file

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
        self._model = read_fasttext_file(path)
        self._rows_of_words = {word: row for row, word in enumerate(self._model.words)}
        self._forget()

    def probabilities(self, text: str) -> list[tuple[str, float]]:
        """The most probable label with its probability in [0, 1]; empty if none is likely."""
        words = text.replace("\0", " ").split()
        if END in text and END in words:  # fastText stops there
            del words[words.index(END) :]
        if len(self._numbers) > MEMORY:
            self._forget()
        try:
            numbers = np.fromiter(map(self._numbers.__getitem__, [*words, END]), np.int64, len(words) + 1)
            if self._numbers.new:
                self._learn()
        except MemoryError:  # a worker that has a limit goes on with the next document: no word may be half learnt
            self._forget()
            raise
        hidden = _kernels().mean_row(numbers, self._starts.values, self._features.values, self._model.rows)
        label, score = _kernels().best_label(hidden, self._model.output, self._model.children)
        return [(self._model.labels[label], min(1.0, float(np.float32(math.exp(score)))))] if label >= 0 else []

    def _forget(self) -> None:
        """Know no word but the one at the end of each text, which has no n-grams."""
        row = self._rows_of_words.get(END.encode())
        self._numbers = _Numbers({END: 0})
        self._features = _Growing(np.array([] if row is None else [row], np.int32))
        self._starts = _Growing(np.array([0, self._features.size]))

    def _learn(self) -> None:
        """Find the features of the words that have got a number."""
        words, self._numbers.new = self._numbers.new, []
        line = f"<{'> <'.join(words)}>".encode("utf-8", "replace")
        rows = [self._rows_of_words.get(word[1:-1], -1) for word in line.split(b" ")]
        model, kept = self._model, self._model.kept
        features, ends = _kernels().features(
            np.frombuffer(line, np.uint8), np.array(rows), len(model.words), model.shortest, model.longest,
            model.num_buckets, np.empty(0, np.int32) if kept is None else kept,
        )  # fmt: skip
        self._starts.extend(self._features.size + ends)
        self._features.extend(features)


class _Numbers(dict[str, int]):
    """Numbers of words; gives the next one to a word that it does not hold, and notes it in `new`."""

    def __init__(self, numbers: dict[str, int]) -> None:
        super().__init__(numbers)
        self.new: list[str] = []

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        self.new.append(word)
        return number


class _Growing:
    """An array to which one can append; `values` is longer than `size`."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.size = values, len(values)

    def extend(self, more: np.ndarray) -> None:
        """Append, with room for as much again if there is none."""
        end = self.size + len(more)
        if end > len(self.values):
            self.values = np.concatenate([self.values, np.empty(end, self.values.dtype)])
        self.values[self.size : end], self.size = more, end


@functools.cache
def _kernels() -> ModuleType:
    """The module of compiled loops, stored on disk."""
    from cs336_basics.tokenization.compilation import stored
    from cs336_data import compiled_fasttext

    for kernel in (compiled_fasttext.features, compiled_fasttext.mean_row, compiled_fasttext.best_label):
        stored(kernel)
    return compiled_fasttext
