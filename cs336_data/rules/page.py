"""A page as the rules see it: its words as numbers, looked up once and shared by all rules.

Each distinct word has a number in a `WordTable`, and with it what the rules want to know of it: its length, whether it
is only punctuation, whether it has a letter, whether it is one of Gopher's stop words, whether it ends a sentence. A
page is then an array of numbers, and a rule a few sums over columns of the table.

Left out: counting of n-grams (`repetition.py`). Read next: `gopher.py`.
"""

from __future__ import annotations

import itertools
import unicodedata

import numpy as np
import regex

from cs336_data.rules.word_splitting import split_chunk

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
TERMINAL = regex.compile(r"\p{Sentence_Terminal}")
_SYMBOL = regex.compile(
    r"[!-/:-@\[-`{-~\x00-\x1f\x7f-\x9f\u00ab\u00b4\u00bb\u2013\u2014\u2019\u201c\u201d\u201e\u2026\u2236\u2501\u25ba"
    r"\u3001\u3008-\u300d\u3010\u3011\uff05\uff08\uff09\uff0c\uff1a\uff1b\uff5e\p{Sentence_Terminal}]+"
)
MEMORY = 1_000_000
"""Chunks and words remembered at most; a table that has grown so far starts afresh with the next page."""

SYMBOL, LETTER, ENDS_SENTENCE, PUNCTUATION = 1, 2, 4, 8
STOP_WORD = 16
"""Bits of `WordTable.kinds`; stop word i has the bit STOP_WORD << i as well as all that is true of it."""


class WordTable:
    """Numbers of the words met so far, and facts about each.

    Attributes:
        lengths: characters of word i, int64; longer than the number of words.
        kinds: bits of word i, int64.
        words: the words themselves.
    """

    def __init__(self) -> None:
        self.words: list[str] = []
        self.lengths = np.zeros(1024, np.int64)
        self.kinds = np.zeros(1024, np.int64)
        self._numbers: dict[str, int] = {}
        self._chunks = _Chunks(self)

    def numbers(self, text: str) -> np.ndarray:
        """The words of a text as int64 numbers, in order."""
        if len(self._chunks) > MEMORY:
            self.__init__()  # type: ignore[misc]
        return np.fromiter(itertools.chain.from_iterable(map(self._chunks.__getitem__, text.split())), np.int64)

    def number(self, word: str) -> int:
        """The number of a word, new if need be."""
        number = self._numbers.get(word)
        if number is None:
            number = self._numbers[word] = len(self.words)
            self.words.append(word)
            if number == len(self.lengths):
                self.lengths = np.concatenate([self.lengths, np.zeros_like(self.lengths)])
                self.kinds = np.concatenate([self.kinds, np.zeros_like(self.kinds)])
            self.lengths[number], self.kinds[number] = len(word), kind_of(word)
        return number


class _Chunks(dict[str, tuple[int, ...]]):
    """Numbers of the words of each chunk; a dictionary that splits what it does not hold."""

    def __init__(self, table: WordTable) -> None:
        self.table = table

    def __missing__(self, chunk: str) -> tuple[int, ...]:
        numbers = self[chunk] = tuple(map(self.table.number, split_chunk(chunk)))
        return numbers


def kind_of(word: str) -> int:
    """The bits of a word."""
    if word.isalpha() or any(map(str.isalpha, word)):  # then it is nothing else
        return LETTER | (STOP_WORD << STOP_WORDS.index(word) if word in STOP_WORDS else 0)
    kind = SYMBOL if _SYMBOL.fullmatch(word) else 0
    if len(word) == 1 and TERMINAL.match(word):
        kind |= ENDS_SENTENCE
    if all(unicodedata.category(character).startswith("P") for character in word):
        kind |= PUNCTUATION
    return kind


class Page:
    """A text under judgement. What is counted is counted at its first use.

    Attributes:
        text: as it is now; rules that clean set it by `replace`.
        table: the words of this and former pages.
    """

    __slots__ = ("_lengths", "_numbers", "_kinds", "table", "text")

    def __init__(self, text: str, table: WordTable) -> None:
        self.table = table
        self.replace(text)

    def replace(self, text: str) -> None:
        """Go on with another text."""
        self.text = text
        self._numbers: np.ndarray | None = None
        self._lengths: np.ndarray | None = None
        self._kinds: np.ndarray | None = None

    @property
    def words(self) -> np.ndarray:
        """Numbers of the words, int64."""
        if self._numbers is None:
            self._numbers = self.table.numbers(self.text)
        return self._numbers

    @property
    def lengths(self) -> np.ndarray:
        """Characters of each word, int64."""
        if self._lengths is None:
            words = self.words  # may replace the table's arrays by longer ones, so it comes first
            self._lengths = self.table.lengths[words]
        return self._lengths

    @property
    def kinds(self) -> np.ndarray:
        """Bits of each word, int64."""
        if self._kinds is None:
            words = self.words
            self._kinds = self.table.kinds[words]
        return self._kinds
