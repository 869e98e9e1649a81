r"""Byte-pair encoding: learning a vocabulary from a corpus.

Start with the 256 bytes. Again and again, find the most frequent pair of adjacent tokens and make it a new token,
everywhere. The list of these merges, in order, is the trained tokenizer. In plain text:

    words <- the distinct pre-tokens of the corpus, each a list of bytes, with its count
    repeat until the vocabulary is full or no pair is left:
        pair <- the adjacent pair of tokens with the highest total count over all words
                (a tie goes to the pair that is greater as a pair of raw byte strings)
        replace pair by one new token in every word, left to right

Counting all pairs anew for each merge costs O(corpus words) per merge: the brute-force form, kept in the tests as the
oracle. Here the counts are kept up to date instead. A merge changes only the words that hold the pair, and an index
from pairs to words names them, so a merge costs what it changes. The best pair comes from a heap in O(log pairs).

Two facts keep this short. First, the count of a pair without the new token can only fall, so a heap entry is at worst
too high: it is checked when it reaches the top and put back with its true count. Second, a byte string can be built
in only one way (no merge crosses its ends, so its inside is merged as if it stood alone), so two tokens never have
the same bytes and small integers can stand for them.

The worked example of Sennrich et al. 2016, with words that are split at spaces:

>>> counts = {b"low": 5, b"lower": 2, b"widest": 3, b"newest": 6}
>>> [b" ".join(pair).decode() for pair in train_bpe_from_counts(counts, 6)]
['s t', 'e st', 'o w', 'l ow', 'w est', 'n e']

At the first step "es" and "st" both occur 9 times; (s, t) is the greater pair.

Complexity: O(corpus) to count; then, for each merge, O(total length of the distinct words that hold its pair) plus
heap time.
Memory: the distinct words and their pairs.

Source: Sennrich et al. 2016 (1508.07909); byte level from GPT-2 (Radford et al. 2019); handout problem `train_bpe`.
Large files go to the same algorithm in compiled code (`compiled_counts.py`, `compiled_merging.py`). Left out: a minimum
count. Read next: `tokenizer.py`.
"""

from __future__ import annotations

import heapq
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from cs336_basics.tokenization.compilation import Engine, use_compiled
from cs336_basics.tokenization.merging import Pair, merge_pair
from cs336_basics.tokenization.pretoken_counts import available_cpus, check_num_processes, count_pretokens
from cs336_basics.tokenization.pretokenization import COMPILED_PATTERNS, GPT2_PATTERN, check_special_tokens
from cs336_basics.tokenization.progress import Report, progress_bar

TieBreak = Literal["bytes", "ids"]

_INVERTED_BYTES = bytes(range(255, -1, -1))


def train_bpe(
    input_path: str | os.PathLike[str],
    vocab_size: int,
    special_tokens: Sequence[str],
    *,
    num_processes: int | None = None,
    progress: bool = False,
    pattern: str = GPT2_PATTERN,
    tie_break: TieBreak = "bytes",
    engine: Engine = "auto",
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Train a byte-level BPE tokenizer on a UTF-8 text file.

    Args:
        input_path: the corpus. Line ends are taken as they are.
        vocab_size: the most tokens wanted, special tokens and the 256 bytes included.
        special_tokens: hard boundaries in the corpus that take no part in the counts; each gets one id.
        num_processes: processes (threads of compiled code) that count pre-tokens of a large file; None takes one per
            CPU. Smaller files are counted in this process.
        progress: show two progress bars on stderr.
        pattern: the pre-token pattern; text that it does not match is left out.
        tie_break: of pairs with equal counts, "bytes" takes the greater pair of byte strings, the rule of the course;
            "ids" the smaller pair of ids (bytes 0..255, then the merges in order), the rule of rustbpe.
        engine: "plain" for the code of this file, "compiled" for numba's; "auto" compiles for files from 16 MB on if
            numba is installed. The result is the same.

    Returns:
        vocab: id -> bytes; special tokens from 0, then the bytes 0..255, then the merged tokens. Smaller than
            `vocab_size` if the corpus runs out of pairs.
        merges: pairs of byte strings in the order in which they were learned.

    Raises:
        FileNotFoundError: no such file.
        TypeError: `special_tokens` is not a list of str, or `vocab_size` not an int.
        ValueError: an empty or non-UTF-8 file, a `vocab_size` without room for bytes and special tokens, empty or
            duplicate special tokens, another word for `tie_break` or `engine`.
        ImportError: engine="compiled" without numba.
    """
    specials = check_special_tokens(special_tokens)
    vocab = dict(enumerate([token.encode("utf-8") for token in specials] + _single_bytes()))
    _check_corpus(input_path)
    _check_vocab_size(vocab_size, len(specials))
    _check_tie_break(tie_break)
    learn = _learn_compiled if use_compiled(engine, os.path.getsize(input_path)) else _learn_plain
    merges = learn(
        input_path,
        vocab_size - len(vocab),
        specials,
        num_processes=num_processes,
        progress=progress,
        pattern=pattern,
        tie_break=tie_break,
    )
    for left, right in merges:
        vocab[len(vocab)] = left + right
    return vocab, merges


def _learn_plain(
    input_path: str | os.PathLike[str],
    num_merges: int,
    specials: Sequence[str],
    *,
    num_processes: int | None,
    progress: bool,
    pattern: str,
    tie_break: TieBreak,
) -> list[tuple[bytes, bytes]]:
    """The merges of a file, by readable code."""
    with progress_bar("counting pre-tokens", enabled=progress) as report:
        counts = count_pretokens(input_path, specials, pattern=pattern, num_processes=num_processes, on_progress=report)
    with progress_bar("merging pairs", enabled=progress) as report:
        return train_bpe_from_counts(counts, num_merges, tie_break=tie_break, on_progress=report)


def _learn_compiled(
    input_path: str | os.PathLike[str],
    num_merges: int,
    specials: Sequence[str],
    *,
    num_processes: int | None,
    progress: bool,
    pattern: str,
    tie_break: TieBreak,
) -> list[tuple[bytes, bytes]]:
    """The merges of a file, by compiled code; a pattern that has none is left to `regex`."""
    from cs336_basics.tokenization.compiled_counts import WordCounts, count_words
    from cs336_basics.tokenization.compiled_merging import learn_merges

    check_num_processes(num_processes)
    with progress_bar("counting pre-tokens", enabled=progress) as report:
        if pattern in COMPILED_PATTERNS:
            num_threads = num_processes or available_cpus()
            words = count_words(input_path, specials, pattern=pattern, num_threads=num_threads, on_progress=report)
        else:
            counts = count_pretokens(
                input_path, specials, pattern=pattern, num_processes=num_processes, on_progress=report
            )
            words = WordCounts.of(counts)
    with progress_bar("merging pairs", enabled=progress) as report:
        return learn_merges(words, num_merges, by_bytes=tie_break == "bytes", on_progress=report)


def train_bpe_from_counts(
    counts: Mapping[bytes, int], num_merges: int, *, tie_break: TieBreak = "bytes", on_progress: Report | None = None
) -> list[tuple[bytes, bytes]]:
    """Learn merges from a table of pre-tokens.

    Args:
        counts: pre-token -> number of occurrences, not negative.
        num_merges: the most merges wanted.
        tie_break: see `train_bpe`.
        on_progress: called with (merges done, merges wanted) after each merge.

    Returns:
        The merges in order; fewer than `num_merges` when every word has become one token.

    Numerics: ties go to the lexicographically greatest pair of byte strings, compared as a tuple.
    """
    _check_tie_break(tie_break)
    words = [list(word) for word in counts]
    word_counts = list(counts.values())
    if any(count < 0 for count in word_counts):
        raise ValueError(f"counts must not be negative; got {min(word_counts)}")
    tokens = _single_bytes()
    pairs = _PairTable(tokens, tie_break)
    for index, word in enumerate(words):
        pairs.add_word(word, index, word_counts[index])
    pairs.queue(pairs.counts)

    merges: list[tuple[bytes, bytes]] = []
    while len(merges) < num_merges and (pair := pairs.pop_most_frequent()) is not None:
        left, right = tokens[pair[0]], tokens[pair[1]]
        new_id = len(tokens)
        tokens.append(left + right)
        merges.append((left, right))
        created: set[Pair] = set()
        for index in pairs.words_with.pop(pair):
            merged = merge_pair(words[index], pair, new_id)
            pairs.remove_word(words[index], word_counts[index])
            pairs.add_word(merged, index, word_counts[index])
            created.update(new_pair for new_pair in pairwise(merged) if new_id in new_pair)
            words[index] = merged
        pairs.queue(created)
        if on_progress:
            on_progress(len(merges), num_merges)
    return merges


class _PairTable:
    """How often each pair of adjacent tokens occurs, which words hold it, and which one is the most frequent."""

    def __init__(self, tokens: list[bytes], tie_break: TieBreak):
        self.tokens = tokens
        self.tie_break = tie_break
        self.counts: defaultdict[Pair, int] = defaultdict(int)
        # May also name words that have lost the pair since: merging finds nothing in them and changes nothing.
        self.words_with: defaultdict[Pair, set[int]] = defaultdict(set)
        self._heap: list[tuple[int, str, Pair]] = []

    def add_word(self, word: Sequence[int], index: int, count: int) -> None:
        """Count the pairs of a word that occurs `count` times."""
        for pair in pairwise(word):
            self.counts[pair] += count
            self.words_with[pair].add(index)

    def remove_word(self, word: Sequence[int], count: int) -> None:
        """Take the pairs of a word out of the counts."""
        for pair in pairwise(word):
            self.counts[pair] -= count

    def queue(self, pairs: Mapping[Pair, int] | set[Pair]) -> None:
        """Enter pairs whose counts are new into the heap."""
        for pair in pairs:
            by_bytes = self.tie_break == "bytes"
            key = descending_key(self.tokens[pair[0]], self.tokens[pair[1]]) if by_bytes else ""
            heapq.heappush(self._heap, (-self.counts[pair], key, pair))

    def pop_most_frequent(self) -> Pair | None:
        """The pair with the highest count, ties by the rule; None when no pair is left."""
        while self._heap:
            negative_count, key, pair = heapq.heappop(self._heap)
            count = self.counts[pair]
            if count == -negative_count and count > 0:
                return pair
            if count > 0:
                heapq.heappush(self._heap, (-count, key, pair))
        return None


def descending_key(left: bytes, right: bytes) -> str:
    """A string that sorts a pair of byte strings in descending order, as a min-heap needs it.

    Each byte b becomes the character 255 - b, and each of the two strings ends in the character 256, greater than all
    of
    them: so b"ab" comes before its prefix b"a", and no string runs into the next.

    >>> sorted([(b"a", b"z"), (b"ab", b"c"), (b"b", b"")], key=lambda pair: descending_key(*pair))
    [(b'b', b''), (b'ab', b'c'), (b'a', b'z')]
    """
    return "".join(part.translate(_INVERTED_BYTES).decode("latin-1") + "\u0100" for part in (left, right))


def _single_bytes() -> list[bytes]:
    """The 256 tokens that every byte-level vocabulary starts from."""
    return [bytes([byte]) for byte in range(256)]


def _check_tie_break(tie_break: str) -> None:
    """There are two rules."""
    if tie_break not in ("bytes", "ids"):
        raise ValueError(f"tie_break must be 'bytes' or 'ids'; got {tie_break!r}")


def _check_corpus(input_path: str | os.PathLike[str]) -> None:
    """Say clearly that a corpus is missing or empty."""
    path = Path(input_path)
    if not path.is_file():
        raise FileNotFoundError(
            f"training corpus {path} does not exist or is no file; give the path of a UTF-8 text file"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"training corpus {path} is empty; there is nothing to learn from")


def _check_vocab_size(vocab_size: int, num_specials: int) -> None:
    """The bytes and the special tokens must have room."""
    if not isinstance(vocab_size, int):
        raise TypeError(f"vocab_size must be an int; got {vocab_size!r} of type {type(vocab_size).__name__}")
    if vocab_size < 256 + num_specials:
        raise ValueError(
            f"vocab_size must be at least 256 + the number of special tokens = {256 + num_specials}; got {vocab_size}"
        )
