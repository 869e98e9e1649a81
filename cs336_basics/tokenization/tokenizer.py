"""The tokenizer: text to token ids and back, with a trained vocabulary.

    encode:  split at special tokens -> pre-tokens -> bytes -> merges in the order they were learned -> ids
    decode:  ids -> bytes, joined -> UTF-8 (what is not valid becomes U+FFFD)

Ids are not byte values: a single byte has the id that the vocabulary gives it. Text of any length is encoded by
`encode_iterable` in bounded memory, with exactly the ids of `encode` on the whole text however it was cut into pieces.

Words repeat, so the ids of words seen lately are cached, up to a budget in bytes. Long texts go to compiled code
(`compiled_encoding.py`), with the same result.

Source: Sennrich et al. 2016 (1508.07909), GPT-2 (Radford et al. 2019); handout problem `tokenizer`. Left out:
padding, batches, chat templates. Read next: `pretokenization.py` for the streaming argument, `merging.py` for the
merges.
"""

from __future__ import annotations

import json
import operator
import os
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cs336_basics.runs.atomic import write_json
from cs336_basics.tokenization.compilation import Engine, use_compiled
from cs336_basics.tokenization.merging import Pair, merge_by_heap, merge_by_passes
from cs336_basics.tokenization.pretokenization import (
    COMPILED_PATTERNS,
    GPT2_PATTERN,
    check_special_tokens,
    compile_pattern,
    compile_special_tokens,
    stream_segments,
)
from cs336_basics.tokenization.tokenizer_files import read_merges, read_vocab, write_merges, write_vocab

if TYPE_CHECKING:
    from cs336_basics.tokenization.compiled_encoding import CompiledEncoder

_LONG_WORD_BYTES = 100  # from here on a heap beats passes over the whole word
_CACHE_BYTES = 16 << 20
_STREAM_CACHE_BYTES = 600 << 10  # encode_iterable promises less than 1 MB in all
_CACHE_ENTRY_BYTES = 130  # slot, hash and spare room of a dict entry


class Tokenizer:
    """A byte-level BPE tokenizer.

    Args:
        vocab: id -> bytes. Need not hold every byte, nor have ids without gaps.
        merges: pairs of byte strings, first learned first; both parts and their sum must be in `vocab`.
        special_tokens: strings that always become one id, the longest first where they overlap; those missing from
            `vocab` get the next free ids. With None their text is ordinary text.
        pattern: the pre-token pattern the merges were trained with; text that it does not match is dropped.

    Attributes:
        vocab: id -> bytes, special tokens included.
        merges: as given.
        special_tokens: as given, as a list.

    Raises:
        TypeError: ids that are not ints, tokens that are not bytes, special tokens that are not a list of str.
        ValueError: a negative id, a merge with a part that is not in `vocab`, an empty or duplicate special token.
    """

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | None = None,
        *,
        pattern: str = GPT2_PATTERN,
    ):
        self.vocab = dict(vocab)
        self.merges = [(left, right) for left, right in merges]
        self.special_tokens = check_special_tokens([] if special_tokens is None else special_tokens)
        self.pattern = pattern
        _check_vocab(self.vocab)
        self._token_ids = _invert(self.vocab)
        self._ranks, self._merged_ids = _rank_merges(self.merges, self._token_ids)
        self._special_ids: dict[str, int] = {}
        for token in self.special_tokens:
            token_id = self._token_ids.get(token.encode("utf-8"), self.vocab_size)
            self.vocab[token_id] = token.encode("utf-8")
            self._special_ids[token] = token_id
        self._dtype = np.dtype(next(f"uint{bits}" for bits in (16, 32, 64) if self.vocab_size <= 2**bits))
        self._find_words = compile_pattern(pattern).findall
        self._specials = compile_special_tokens(self.special_tokens)
        self._cache = _WordCache(_CACHE_BYTES)
        self._is_whole_word = bytearray(
            self.vocab_size
        )  # tokens whose bytes, as a pre-token, are known to encode to the token

    def __reduce__(self):
        return partial(Tokenizer, pattern=self.pattern), (self.vocab, self.merges, self.special_tokens)

    @classmethod
    def from_files(
        cls,
        vocab_filepath: str | os.PathLike[str],
        merges_filepath: str | os.PathLike[str],
        special_tokens: Sequence[str] | None = None,
        *,
        pattern: str = GPT2_PATTERN,
    ) -> Tokenizer:
        """Read a vocabulary and merges in GPT-2's format, as written by `save` or published with GPT-2."""
        return cls(read_vocab(vocab_filepath), read_merges(merges_filepath), special_tokens, pattern=pattern)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Tokenizer:
        """Read what `save` wrote: vocabulary, merges, special tokens and pattern.

        Raises:
            FileNotFoundError: no tokenizer was saved there.
        """
        folder = Path(directory)
        if not (folder / "special_tokens.json").is_file():
            raise FileNotFoundError(f"no tokenizer in {folder}; train one with `cs336 tokenizer train`")
        settings = json.loads((folder / "special_tokens.json").read_text(encoding="utf-8"))
        specials = settings["special_tokens"]
        vocab = read_vocab(folder / "vocab.json") | {
            token_id: text.encode("utf-8") for text, token_id in specials.items()
        }
        return cls(vocab, read_merges(folder / "merges.txt"), list(specials), pattern=settings["pattern"])

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write vocab.json, merges.txt and special_tokens.json (special tokens with ids, and the pattern), each
        atomically."""
        folder = Path(directory)
        special_vocab = {token_id: self.vocab[token_id] for token_id in self._special_ids.values()}
        ordinary_vocab = {token_id: token for token_id, token in self.vocab.items() if token_id not in special_vocab}
        write_vocab(folder / "vocab.json", special_vocab | ordinary_vocab)
        write_merges(folder / "merges.txt", self.merges)
        write_json(folder / "special_tokens.json", {"special_tokens": self._special_ids, "pattern": self.pattern})

    @property
    def vocab_size(self) -> int:
        """The largest id plus one: the number of rows an embedding needs."""
        return max(self.vocab, default=-1) + 1

    def special_id(self, token: str) -> int:
        """The id of a special token.

        Raises:
            ValueError: `token` is not a special token of this tokenizer.
        """
        if token not in self._special_ids:
            raise ValueError(f"{token!r} is not a special token of this tokenizer; it has {self.special_tokens}")
        return self._special_ids[token]

    def token_byte_lengths(self) -> np.ndarray:
        """Bytes of text that each id stands for, for losses in bits per byte.

        Returns:
            int64 array of shape (vocab_size,); 0 for special tokens and unused ids.
        """
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token_id, token in self.vocab.items():
            lengths[token_id] = len(token)
        lengths[list(self._special_ids.values())] = 0
        return lengths

    def encode(self, text: str, *, engine: Engine = "auto") -> list[int]:
        """Encode a text that fits in memory.

        Args:
            text: any text.
            engine: see `encode_to_array`.

        Raises:
            TypeError: `text` is not a str.
            ValueError: the vocabulary lacks a byte of the text, or the text holds a lone surrogate (it has no UTF-8
                form).
        """
        if not isinstance(text, str):
            raise TypeError(f"encode takes a str; got {type(text).__name__}; encode each text of a list by itself")
        if self._compiles(engine, len(text)):
            return self.encode_to_array(text, engine="compiled").tolist()
        ids: list[int] = []
        for index, segment in enumerate(self._specials.split(text) if self._specials else [text]):
            if index % 2:
                ids.append(self._special_ids[segment])
            else:
                ids += self._encode_ordinary(segment, self._cache)
        return ids

    def encode_to_array(self, text: str | bytes, *, engine: Engine = "auto") -> npt.NDArray[Any]:
        """Encode a text into an array, as token files hold it: many times faster than `encode` for long texts.

        Args:
            text: a str, or the bytes of UTF-8 text.
            engine: "plain" for the code of this file, "compiled" for numba's; "auto" compiles for texts from 16 MB on
                if numba is installed. Patterns without compiled code are always encoded here.

        Returns:
            The ids of `encode`: uint16 of shape (num_tokens,) if the vocabulary has at most 65,536 ids, else uint32.
            Several threads may encode at the same time, and compiled code does so on several cores.

        Raises:
            TypeError: `text` is neither.
            ValueError: as `encode`, or the bytes are not valid UTF-8.
        """
        if not isinstance(text, (str, bytes)):
            raise TypeError(f"encode_to_array takes a str or bytes; got {type(text).__name__}")
        if self._compiles(engine, len(text)):
            try:
                data = text if isinstance(text, bytes) else text.encode("utf-8")
                ids = self._compiled_encoder.encode(data, self._dtype, checked=isinstance(text, str))
            except UnicodeEncodeError:
                ids = None
            if ids is not None:
                return ids
        # Short, or something is wrong, which the plain path says.
        return np.array(self.encode(_decoded(text), engine="plain"), dtype=self._dtype)

    def encode_iterable(self, iterable: Iterable[str]) -> Iterator[int]:
        """Yield the ids of a text that comes in pieces, such as an open file, reading no further than needed.

        Args:
            iterable: pieces of text of any length, cut anywhere. An open text file works; open it with newline="" to
                keep its line ends as they are.

        Yields:
            The ids of `encode` on the joined text.

        Complexity: less than 1 MB of memory beside the longest pre-token. With a pattern that is not in `SAFE_CUTS` no
            safe cuts are known, and the text up to the next special token is held. Compiled code would need more
            memory; `encode_to_array` and `encode_file` use it.
        """
        cache = _WordCache(_STREAM_CACHE_BYTES)
        for segment, is_special in stream_segments(iterable, self.special_tokens, pattern=self.pattern):
            if is_special:
                yield self._special_ids[segment]
            else:
                yield from self._encode_ordinary(segment, cache)

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids back into text; bytes that are not valid UTF-8 become U+FFFD.

        Args:
            ids: integers from a list, an array, a 1-d tensor or any other iterable.

        Raises:
            TypeError: an id is not an integer.
            ValueError: an id is not in the vocabulary.
        """
        vocab = self.vocab
        tokens = []
        for item in ids.tolist() if hasattr(ids, "tolist") else ids:
            try:
                tokens.append(vocab[operator.index(item)])
            except KeyError:
                raise ValueError(f"id {item} is not in the vocabulary; vocab_size is {self.vocab_size}") from None
            except TypeError as error:
                raise TypeError(f"decode takes a flat iterable of integers; it holds {item!r}") from error
        return b"".join(tokens).decode("utf-8", errors="replace")

    def _compiles(self, engine: Engine, size: int) -> bool:
        """Whether a text of so many characters or bytes goes to compiled code."""
        return use_compiled(engine, size) and self.pattern in COMPILED_PATTERNS and self._dtype != np.uint64

    @cached_property
    def _compiled_encoder(self) -> CompiledEncoder:
        """Made for the first long text."""
        from cs336_basics.tokenization.compiled_encoding import CompiledEncoder

        single_bytes = {token: token_id for token, token_id in self._token_ids.items() if len(token) == 1}
        return CompiledEncoder(
            single_bytes, self._ranks, self._merged_ids, self._special_ids, self.pattern, self._encode_word
        )

    def _encode_ordinary(self, text: str, cache: _WordCache) -> list[int]:
        """Encode text without special tokens."""
        ids: list[int] = []
        for word in self._find_words(text):
            word_ids = cache.get(word)
            if word_ids is None:
                word_ids = self._encode_word(word)
                cache.store(word, word_ids)
            else:
                cache.move_to_end(word)
            ids += word_ids
        return ids

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """Encode one pre-token."""
        try:
            word_bytes = word.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text holds the lone surrogate {word[error.start]!a}, which has no UTF-8 form; "
                "clean it with text.encode('utf-8', 'replace').decode('utf-8')"
            ) from error
        token_id = self._token_ids.get(word_bytes)
        if token_id is not None and self._is_whole_word[token_id]:
            return (token_id,)
        byte_ids = self._byte_ids(word_bytes)
        merge = merge_by_passes if len(byte_ids) < _LONG_WORD_BYTES else merge_by_heap
        ids = tuple(merge(byte_ids, self._ranks, self._merged_ids))
        if len(ids) == 1:
            self._is_whole_word[ids[0]] = True
        return ids

    def _byte_ids(self, word: bytes) -> list[int]:
        """The ids of the single bytes of a word, which need not be the byte values."""
        try:
            return [self._token_ids[word[index : index + 1]] for index in range(len(word))]
        except KeyError as error:
            (missing,) = error.args[0]
            raise ValueError(
                f"the vocabulary has no token for byte 0x{missing:02x} ({chr(missing)!a}) of {word!r}; "
                "add all 256 single bytes to the vocabulary"
            ) from None


def _decoded(text: str | bytes) -> str:
    """Text as a str."""
    try:
        return text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the bytes are not valid UTF-8: {error.reason} at byte offset {error.start}; "
            "clean them with data.decode('utf-8', 'replace')"
        ) from error


class _WordCache(OrderedDict[str, tuple[int, ...]]):
    """Word -> ids; the least recently used words leave when the entries take more than `budget_bytes`."""

    def __init__(self, budget_bytes: int):
        super().__init__()
        self.budget_bytes = budget_bytes
        self.used_bytes = 0

    def store(self, word: str, ids: tuple[int, ...]) -> None:
        """Remember the ids of a word, unless it is so long that it will hardly come again."""
        if len(word) >= _LONG_WORD_BYTES:
            return
        self[word] = ids
        self.used_bytes += _entry_bytes(word, ids)
        while self.used_bytes > self.budget_bytes:
            self.used_bytes -= _entry_bytes(*self.popitem(last=False))


def _entry_bytes(word: str, ids: tuple[int, ...]) -> int:
    """About the memory of one cache entry; the ids themselves are shared with the vocabulary."""
    return sys.getsizeof(word) + sys.getsizeof(ids) + _CACHE_ENTRY_BYTES


def _check_vocab(vocab: Mapping[int, bytes]) -> None:
    """Ids are non-negative ints, tokens are bytes."""
    for token_id, token in vocab.items():
        if isinstance(token_id, bool) or not isinstance(token_id, (int, np.integer)):
            raise TypeError(
                f"vocab must map int ids to bytes; got the id {token_id!r} of type {type(token_id).__name__}"
            )
        if token_id < 0:
            raise ValueError(f"vocab ids must not be negative; got {token_id}")
        if not isinstance(token, bytes):
            raise TypeError(
                f"vocab must map int ids to bytes; id {token_id} has {token!r} of type {type(token).__name__}"
            )


def _invert(vocab: Mapping[int, bytes]) -> dict[bytes, int]:
    """Bytes -> id; of several ids with the same bytes the lowest."""
    return {token: token_id for token_id, token in sorted(vocab.items(), reverse=True)}


def _rank_merges(
    merges: Sequence[tuple[bytes, bytes]], token_ids: Mapping[bytes, int]
) -> tuple[dict[Pair, int], list[int]]:
    """The merges in terms of ids: pair -> rank, and rank -> merged id; a pair given twice keeps its first rank."""
    ranks: dict[Pair, int] = {}
    merged_ids = []
    for rank, (left, right) in enumerate(merges):
        for token in (left, right, left + right):
            if token not in token_ids:
                raise ValueError(
                    f"merge {rank} ({left!r}, {right!r}) needs the token {token!r}, which is not in the vocabulary"
                )
        ranks.setdefault((token_ids[left], token_ids[right]), rank)
        merged_ids.append(token_ids[left + right])
    return ranks, merged_ids
