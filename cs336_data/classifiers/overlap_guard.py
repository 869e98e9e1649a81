"""Training data must not know the test: no five words in a row may occur in both.

A model that has seen its test, even in a paraphrase that keeps half a sentence, has a score that means nothing. The
build of our models leaves out or refuses training texts that share a 5-gram of words with a held-out one, and a test
does the same with every text that the public suite uses. Shared phrases of up to four words are language, not leakage.
Read next: `model_card.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from cs336_data.classifiers.hashed_ngrams import normalize

LENGTH = 5


def word_grams(text: str, *, n: int = LENGTH) -> set[tuple[str, ...]]:
    """The n-grams of the words of a text, as the models see them."""
    words = normalize(text).split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def shared_grams(training: Iterable[str], test: Iterable[str], *, n: int = LENGTH) -> set[str]:
    """The n-grams that occur in both; empty if all is well."""
    tested = set().union(*(word_grams(text, n=n) for text in test))
    return {" ".join(gram) for text in training for gram in word_grams(text, n=n) & tested}
