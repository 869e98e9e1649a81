"""A page as the rules see it: its words as numbers, looked up once and shared by all rules.

Each distinct word has a number in a `WordTable`, and with it what the rules want to know of it: its length, whether it
is only punctuation, whether it has a letter, whether it is one of Gopher's stop words, whether it ends a sentence. A
page is then an array of numbers, and a rule a few sums over columns of the table.

Left out: counting of n-grams (`repetition.py`). Read next: `gopher.py`.
"""

from __future__ import annotations

import functools
import unicodedata
from types import ModuleType

import numpy as np
import regex

from cs336_data.interning import Interner, with_room
from cs336_data.rules.word_splitting import MAX_CHUNK, ascii_tables, split_chunk

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
    """Numbers of the words met so far, and facts about each. Chunks repeat as words do, so each is split once.

    Attributes:
        lengths: characters of word i, int64; longer than the number of words.
        kinds: bits of word i, int64.
    """

    def __init__(self) -> None:
        self._chunks, self._words = Interner(), Interner()
        self._starts = np.zeros(1024, np.int64)  # the words of chunk i: _words_of_chunks[_starts[i] : _starts[i + 1]]
        self._words_of_chunks = np.zeros(1024, np.int64)
        self._num_split = 0
        self.lengths = np.zeros(1024, np.int64)
        self.kinds = np.zeros(1024, np.int64)

    @property
    def words(self) -> list[str]:
        """The words themselves, for people to look at."""
        return self._words.strings(0)

    def numbers(self, text: str) -> np.ndarray:
        """The words of a text as int64 numbers, in order."""
        if self._chunks.size > MEMORY:
            self.__init__()  # type: ignore[misc]
        data = text.encode("utf-8", "surrogatepass")
        try:
            chunks, numbers = self._chunks.chunks(data), np.empty(len(data), np.int64)
            if self._chunks.size > self._num_split:
                self._learn()
        except MemoryError:  # a worker that has a limit goes on with the next document: no word may be half learnt
            self.__init__()  # type: ignore[misc]
            raise
        return numbers[: _kernels().words_of_chunks(chunks, self._starts, self._words_of_chunks, numbers)]

    def _learn(self) -> None:
        """Split the chunks that have got a number, and find out about their words."""
        chunks, former = self._chunks, self._words.size
        base, begin = int(self._starts[self._num_split]), int(chunks.ends[self._num_split])
        self._starts = with_room(self._starts, chunks.size + 1)
        cuts = self._split(begin, base)
        self._words_of_chunks = with_room(self._words_of_chunks, base + len(cuts) - 1)
        self._words_of_chunks[base : base + len(cuts) - 1] = self._words.pieces(chunks.kept, cuts)
        self._num_split = chunks.size
        words = self._words.strings(former)
        self.lengths, self.kinds = with_room(self.lengths, self._words.size), with_room(self.kinds, self._words.size)
        self.lengths[former : self._words.size] = [len(word) for word in words]
        self.kinds[former : self._words.size] = [kind_of(word) for word in words]

    def _split(self, begin: int, base: int) -> np.ndarray:
        """Where the words of the new chunks begin, and the last one ends; the chunks lie one after the other."""
        chunks, chunk, count = self._chunks, self._num_split, 1
        cuts = np.empty(int(chunks.ends[chunks.size]) - begin + 1, np.int64)
        cuts[0], scratch = begin, np.empty_like(cuts)
        while chunk < chunks.size:
            chunk, count = _kernels().split_chunks(
                chunks.kept, chunks.ends, chunk, chunks.size, ascii_tables(), MAX_CHUNK, cuts, count, self._starts,
                base - 1, scratch,
            )  # fmt: skip
            if chunk < chunks.size:  # it is not ASCII
                for word in split_chunk(chunks.string(chunk)):
                    cuts[count] = cuts[count - 1] + len(word.encode("utf-8", "surrogatepass"))
                    count += 1
                chunk += 1
                self._starts[chunk] = base + count - 1
        return cuts[:count]


@functools.cache
def _kernels() -> ModuleType:
    """The module of compiled loops, stored on disk."""
    from cs336_basics.tokenization.compilation import stored
    from cs336_data.rules import compiled_word_splitting

    for loop in ("split_chunks", "words_of_chunks", "count_kinds"):
        stored(getattr(compiled_word_splitting, loop))
    return compiled_word_splitting


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

    def facts(self) -> tuple[int, int, int, int, int]:
        """(words, those that are not only punctuation, characters of these, words with a letter, all bits that occur)."""
        return (len(self.words), *_kernels().count_kinds(self.kinds, self.lengths))
