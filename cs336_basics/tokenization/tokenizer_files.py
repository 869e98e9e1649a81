"""Reading and writing vocabularies and merges in the file format of GPT-2.

    vocab.json     {"token in printable bytes": id, ...}
    merges.txt     "#version: 0.2", then one merge "left right" per line, in order

Both use the alphabet of `byte_alphabet.py`, so no token contains a space or a line end. The published GPT-2 files can
be read as they are. Handout problem `tokenizer` (`from_files`). Left out: tokenizer.json of Hugging Face and
tiktoken's rank files. Read next: `tokenizer.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.tokenization.byte_alphabet import byte_to_printable, printable_to_byte

_VERSION_LINE = "#version: 0.2"


def read_vocab(path: str | os.PathLike[str]) -> dict[int, bytes]:
    """Read a vocab.json.

    Raises:
        ValueError: not a JSON object from tokens to ids, an id given twice, or a token outside the printable-byte
            alphabet.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{os.fspath(path)} is not valid JSON: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(
            f"{os.fspath(path)} must hold one JSON object from tokens to ids; got a {type(entries).__name__}"
        )
    alphabet = printable_to_byte()
    vocab: dict[int, bytes] = {}
    for token, token_id in entries.items():
        if type(token_id) is not int or token_id in vocab:
            raise ValueError(f"{os.fspath(path)}: the id of {token!r} must be an int used once; got {token_id!r}")
        vocab[token_id] = _from_printable(token, alphabet, path)
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
        merges.append((_from_printable(parts[0], alphabet, path), _from_printable(parts[1], alphabet, path)))
    return merges


def write_vocab(path: str | os.PathLike[str], vocab: Mapping[int, bytes]) -> None:
    """Write a vocab.json, atomically; of two ids with the same bytes the later one in `vocab` is kept."""
    alphabet = byte_to_printable()
    write_json(path, {_to_printable(token, alphabet): token_id for token_id, token in vocab.items()})


def write_merges(path: str | os.PathLike[str], merges: Iterable[tuple[bytes, bytes]]) -> None:
    """Write a merges.txt, atomically."""
    alphabet = byte_to_printable()
    with atomic_write(path, "w") as file:
        file.write(_VERSION_LINE + "\n")
        file.writelines(f"{_to_printable(left, alphabet)} {_to_printable(right, alphabet)}\n" for left, right in merges)


def _to_printable(token: bytes, alphabet: Mapping[int, str]) -> str:
    return "".join(alphabet[byte] for byte in token)


def _from_printable(token: str, alphabet: Mapping[str, int], path: str | os.PathLike[str]) -> bytes:
    try:
        return bytes(alphabet[character] for character in token)
    except KeyError as error:
        raise ValueError(
            f"{os.fspath(path)}: token {token!r} holds {error.args[0]!r}, "
            "which is not in the printable-byte alphabet of GPT-2"
        ) from error
