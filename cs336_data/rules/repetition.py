"""How much of a page repeats itself: n-grams of words that occur again and again.

For n-grams of n words, with characters counted as in the text's n-grams, over the length T of the text:

    top share          count x length of the most frequent n-gram / T               (its words joined by spaces)
    duplicated share   characters of all n-grams seen before, without overlap / T    (its words joined by nothing)

"Without overlap": from left to right; an n-gram seen before is counted and skipped as a whole, a new one is noted and
the window moves by one word. Rae et al. 2021 (Gopher), table A1.

Two forms: `first_excess_reference` says what is meant, `first_excess` is compiled. The latter compares n-grams as
sequences of words, the former as the peers do; "ab c" and "a bc", joined by nothing, are the same only to the former.

Left out: repeated lines and paragraphs, which need no n-grams (`gopher.py`). Read next: `gopher.py`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Limits = Sequence[tuple[int, float]]
"""(n, largest share allowed), in the order in which they are tried."""


def first_excess_reference(words: Sequence[str], num_characters: int, *, top: Limits, duplicated: Limits) -> int:
    """Index of the first limit that a text exceeds, those of `top` first; -1 if none."""
    for index, (n, limit) in enumerate(top):
        grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
        if grams:
            gram, count = Counter(grams).most_common(1)[0]
            if len(gram) * count / num_characters > limit:
                return index
    for index, (n, limit) in enumerate(duplicated, start=len(top)):
        if _duplicated_characters(words, n) / num_characters > limit:
            return index
    return -1


def _duplicated_characters(words: Sequence[str], n: int) -> int:
    """Characters of n-grams seen before."""
    seen: set[str] = set()
    characters = i = 0
    while i + n <= len(words):
        gram = "".join(words[i : i + n])
        if gram in seen:
            characters += len(gram)
            i += n
        else:
            seen.add(gram)
            i += 1
    return characters


def first_excess(
    words: np.ndarray, lengths: np.ndarray, num_characters: int, *, top: Limits, duplicated: Limits
) -> int:
    """Index of the first limit that a text exceeds, those of `top` first; -1 if none.

    Args:
        words: numbers of the words, int64.
        lengths: characters of each, int64.
        num_characters: of the text.
        top: limits of the top share.
        duplicated: limits of the duplicated share.

    Complexity: linear in the words for each n; compiled at first use.
    """
    sizes, shares = _as_arrays(tuple(top), tuple(duplicated))
    size = len(words)
    table = np.empty(max(16, 4 * size), np.int64)
    grams, longer, places, times = np.empty((4, size), np.int64)
    return int(_kernel()(words, lengths, num_characters, sizes, shares, len(top), places, grams, longer, times, table))


@functools.cache
def _as_arrays(*limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """All n, and their shares."""
    pairs = [pair for part in limits for pair in part]
    return np.array([n for n, _ in pairs], np.int64), np.array([share for _, share in pairs], np.float64)


@functools.cache
def _kernel() -> Callable[..., Any]:
    """The compiled loops."""
    from cs336_basics.tokenization.compilation import stored
    from cs336_data.rules.compiled_repetition import first_excess

    return stored(first_excess)
