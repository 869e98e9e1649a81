"""Cutting a large text file into byte ranges that can be pre-tokenized apart, and reading such a range.

Counting pre-tokens is the slow half of BPE training and splits well over processes, if no pre-token straddles two
ranges. A place where a special token begins is always a good cut. Where special tokens are rare, a safe cut inside
ordinary text (see `pretokenization.py`) serves as well.

Files are read as bytes and decoded as UTF-8; line ends are kept as they are ("\\r\\n" stays two characters, unlike in
Python's text mode). Source: handout problem `train_bpe`, "Parallelizing pre-tokenization". Left out: compressed
files. Read next: `pretoken_counts.py`.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from cs336_basics.tokenization.pretokenization import GPT2_PATTERN, SAFE_CUTS

_SEARCH_BLOCK_BYTES = 4096
_READ_BLOCK_BYTES = 1 << 20


def find_chunk_boundaries(file: BinaryIO, desired_num_chunks: int, split_special_token: bytes) -> list[int]:
    """Byte offsets that cut a file into about equal chunks, each cut where a special token begins.

    Even guesses are moved forward to the next special token, found by reading blocks of 4096 bytes; a token that
    straddles two blocks is found too.

    Args:
        file: an open, seekable binary file.
        desired_num_chunks: at least 1; the result may have fewer chunks.
        split_special_token: the token's UTF-8 bytes, not empty.

    Returns:
        Sorted offsets without repeats; the first is 0, the last the file's size.
    """
    if not isinstance(split_special_token, bytes):
        raise TypeError(f"split_special_token must be bytes; got {split_special_token!r}; use .encode('utf-8')")
    if not split_special_token:
        raise ValueError("split_special_token must not be empty")
    overlap = len(split_special_token) - 1
    return _boundaries(file, desired_num_chunks, lambda block: block.find(split_special_token), overlap)


def find_cut_points(
    file: BinaryIO, desired_num_chunks: int, special_tokens: Sequence[str], *, pattern: str = GPT2_PATTERN
) -> list[int]:
    """Like `find_chunk_boundaries`, with any list of special tokens, and with safe cuts where they are rare.

    Counting each range by itself gives the same sum as the whole file. Falls back to one range where nothing else is
    exact: a pattern without known safe cuts in a file without usable special tokens.
    """
    boundaries = _boundaries(file, 1, lambda block: -1, 0)
    for token in special_tokens:
        if _begins_no_other(token, special_tokens):
            boundaries = find_chunk_boundaries(file, desired_num_chunks, token.encode("utf-8"))
            if 2 * (len(boundaries) - 1) >= desired_num_chunks:
                return boundaries
    if pattern in SAFE_CUTS and not any(re.search(r"\S\s", token) for token in special_tokens):
        return _boundaries(file, desired_num_chunks, _find_ascii_safe_cut, 1)
    return boundaries


def read_text(path: str | os.PathLike[str], *, start: int = 0, end: int | None = None) -> Iterator[str]:
    """Yield the UTF-8 text of bytes `start` to `end` of a file, about a megabyte at a time.

    Raises:
        ValueError: the bytes are not valid UTF-8; names the file and the offset of the first wrong byte.
    """
    with open(path, "rb") as file:
        file.seek(start)
        remaining = (os.fstat(file.fileno()).st_size if end is None else end) - start
        decoder = codecs.getincrementaldecoder("utf-8")()
        while remaining > 0 and (block := file.read(min(_READ_BLOCK_BYTES, remaining))):
            remaining -= len(block)
            undecoded = len(decoder.getstate()[0])
            try:
                yield decoder.decode(block, final=remaining <= 0)
            except UnicodeDecodeError as error:
                offset = file.tell() - len(block) - undecoded + error.start
                raise ValueError(
                    f"{os.fspath(path)} is not valid UTF-8: {error.reason} at byte offset {offset}; "
                    "convert the file, for example with open(path, encoding='utf-8', errors='replace', newline='')"
                ) from error


def _boundaries(file: BinaryIO, desired_num_chunks: int, find: Callable[[bytes], int], overlap: int) -> list[int]:
    """Move even guesses forward to where `find` (offset in a block, or -1) hits; blocks overlap by `overlap` bytes."""
    if desired_num_chunks < 1:
        raise ValueError(f"desired_num_chunks must be at least 1; got {desired_num_chunks}")
    size = file.seek(0, os.SEEK_END)
    boundaries = [0]
    for index in range(1, desired_num_chunks):
        guess = index * (size // desired_num_chunks)
        if guess > boundaries[-1]:  # a guess behind the last boundary would move to that same boundary
            boundaries.append(_search_forward(file, guess, find, overlap))
    return sorted({*boundaries, size})


def _search_forward(file: BinaryIO, start: int, find: Callable[[bytes], int], overlap: int) -> int:
    """The offset of the first hit at or after `start`, or the file's end."""
    file.seek(start)
    window, window_start = b"", start
    while block := file.read(_SEARCH_BLOCK_BYTES):
        kept = window[len(window) - min(overlap, len(window)) :]
        window_start += len(window) - len(kept)
        window = kept + block
        if (hit := find(window)) >= 0:
            return window_start + hit
    return file.tell()


def _find_ascii_safe_cut(block: bytes) -> int:
    """The offset of the first ASCII white space that follows an ASCII letter or digit, or -1."""
    match = re.search(rb"[0-9A-Za-z](?=[ \t\n\r])", block)
    return match.end() if match else -1


def _begins_no_other(token: str, special_tokens: Sequence[str]) -> bool:
    """Whether no special token can begin before `token` and reach into it, so that the cut before it is always
    right."""
    rests = (other[start:] for other in special_tokens for start in range(1, len(other)))
    return not any(rest.startswith(token) or token.startswith(rest) for rest in rests)
