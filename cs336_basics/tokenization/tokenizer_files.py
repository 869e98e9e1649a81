"""Reading and writing vocabularies and merges in the file format of GPT-2.

    vocab.json     {"token in printable bytes": id, ...}
    merges.txt     "#version: 0.2", then one merge "left right" per line, in order

Both use the alphabet of `byte_alphabet.py`, so no token contains a space or a line end. The published GPT-2 files can
be read as they are. Handout problem `tokenizer` (`from_files`). Left out: the files of other libraries
(`exchange.py`). Read next: `tokenizer.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.tokenization.byte_alphabet import byte_to_printable, printable_to_byte

_VERSION_LINE = "#version: 0.2"


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        ValueError: not UTF-8, not JSON (cut short, for example), not an object, or an object with a name given twice,
            of which plain JSON reading would keep the last without a word.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
    except ValueError as error:  # also a UnicodeDecodeError
        raise ValueError(f"{os.fspath(path)} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{os.fspath(path)} must hold one JSON object; got a {type(value).__name__}")
    return value


def read_vocab(path: str | os.PathLike[str], *, skip: Collection[str] = ()) -> dict[int, bytes]:
    """Read a vocab.json.

    Args:
        path: the file.
        skip: entries to leave out, as spelled in the file: special tokens, which need not be in printable bytes.

    Raises:
        ValueError: not a JSON object from tokens to ids, an id given twice, or a token outside the printable-byte
            alphabet.
    """
    entries = read_json_object(path)
    alphabet = printable_to_byte()
    vocab: dict[int, bytes] = {}
    for token, token_id in entries.items():
        if token in skip:
            continue
        if type(token_id) is not int or token_id in vocab:
            raise ValueError(f"{os.fspath(path)}: the id of {token!r} must be an int used once; got {token_id!r}")
        vocab[token_id] = from_printable(token, alphabet, path)
    return vocab


def read_merges(path: str | os.PathLike[str]) -> list[tuple[bytes, bytes]]:
    """Read a merges.txt, with or without its `#version` line.

    Raises:
        ValueError: a line that is not two tokens with one space between; names the line.
    """
    alphabet = printable_to_byte()
    merges = []
    for number, line in enumerate(Path(path).read_bytes().decode("utf-8").split("\n"), start=1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise ValueError(
                f"{os.fspath(path)}, line {number}: a merge is two tokens with a space between; got {line!r}"
            )
        merges.append((from_printable(parts[0], alphabet, path), from_printable(parts[1], alphabet, path)))
    return merges


def write_vocab(path: str | os.PathLike[str], vocab: Mapping[int, bytes]) -> None:
    """Write a vocab.json, atomically; of two ids with the same bytes the later one in `vocab` is kept."""
    alphabet = byte_to_printable()
    write_json(path, {to_printable(token, alphabet): token_id for token_id, token in vocab.items()})


def write_merges(path: str | os.PathLike[str], merges: Iterable[tuple[bytes, bytes]]) -> None:
    """Write a merges.txt, atomically."""
    alphabet = byte_to_printable()
    with atomic_write(path, "w") as file:
        file.write(_VERSION_LINE + "\n")
        file.writelines(f"{to_printable(left, alphabet)} {to_printable(right, alphabet)}\n" for left, right in merges)


def to_printable(token: bytes, alphabet: Mapping[int, str]) -> str:
    """A token in printable characters; `alphabet` is `byte_to_printable()`."""
    return "".join(alphabet[byte] for byte in token)


def from_printable(token: str, alphabet: Mapping[str, int], path: str | os.PathLike[str]) -> bytes:
    """The bytes of a printable token; `alphabet` is `printable_to_byte()`, and `path` is for the message.

    Raises:
        ValueError: a character outside the alphabet.
    """
    try:
        return bytes(alphabet[character] for character in token)
    except KeyError as error:
        raise ValueError(
            f"{os.fspath(path)}: token {token!r} holds {error.args[0]!r}, "
            "which is not in the printable-byte alphabet of GPT-2"
        ) from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are all different."""
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in result if names.count(name) > 1)
        raise ValueError(f"the name {repeated!r} is given twice")
    return result
