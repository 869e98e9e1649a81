"""Files of documents: one JSON object per line, plain or compressed by its suffix.

    {"id": "...", "url": "...", "text": "...", "metadata": {...}}        .jsonl   .jsonl.gz   .jsonl.zst

Every stage between extraction and token files reads and writes these, so stages can be chained, inspected with the
usual tools, and left out. Steps that only select documents copy the lines byte for byte.

Left out: columnar formats such as Parquet. Read next: `file_jobs.py`.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from cs336_basics.runs.atomic import atomic_write
from cs336_data.document import Document

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_encode = json.JSONEncoder(ensure_ascii=False).encode  # made once: `json.dumps` makes one for each call


def is_document_file(path: str | os.PathLike[str]) -> bool:
    """Whether the name says that the file holds a document per line; any other file is one document."""
    return os.fspath(path).endswith(SUFFIXES)


def read_lines(path: str | os.PathLike[str]) -> Iterator[bytes]:
    r"""The lines of a file, with their "\n", decompressed by suffix (.gz, .zst); memory for one line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the compressed file is damaged or cut short; names it and the last whole line.
        ImportError: a .zst file without the zstandard package.
    """
    whole = 0
    with _open_to_read(Path(path)) as file:
        try:
            for line in file:
                yield line
                whole += 1
        except (EOFError, zlib.error, gzip.BadGzipFile, _zstd_error()) as error:
            raise ValueError(
                f"{os.fspath(path)} is damaged or cut short after line {whole} ({error}); write it again"
            ) from error


@contextlib.contextmanager
def write_lines(path: str | os.PathLike[str]) -> Iterator[Callable[[bytes], Any]]:
    """Give a function that appends bytes to `path`, compressed by suffix; the file appears whole or not at all.

    Compressed bytes depend on nothing but the content: no time or name is stored.
    """
    name = os.fspath(path)
    with atomic_write(path) as raw, contextlib.ExitStack() as stack:
        file: Any = raw
        if name.endswith(".gz"):
            file = stack.enter_context(gzip.GzipFile("", "wb", 6, raw, mtime=0))
            file = stack.enter_context(io.BufferedWriter(file, 1 << 16))  # a call for many lines
        elif name.endswith(".zst"):
            file = stack.enter_context(_zstandard().ZstdCompressor(3).stream_writer(raw, closefd=False))
        yield file.write


def to_line(document: Document) -> bytes:
    """One line for a document file; lone surrogates, which UTF-8 cannot hold, become "?"."""
    fields = {"id": document.id, "url": document.url, "text": document.text, "metadata": document.metadata}
    return json_line(fields)


def json_line(value: dict[str, Any]) -> bytes:
    """A value as a line of JSON; lone surrogates become "?"."""
    return (_encode(value) + "\n").encode("utf-8", "replace")


def from_line(line: bytes, *, path: str | os.PathLike[str], number: int) -> Document:
    """The document of a line; `path` and `number` (from 1) are for the message.

    Raises:
        ValueError: the line is no JSON object with a "text".
    """
    fields = fields_of_line(line, path=path, number=number)
    return Document(
        str(fields.get("id", f"{Path(path).name}:{number}")),
        str(fields.get("url", "")),
        fields["text"],
        dict(fields.get("metadata") or {}),
    )


def fields_of_line(line: bytes, *, path: str | os.PathLike[str], number: int) -> dict[str, Any]:
    """All fields of a line, also those that are not ours; raises as `from_line`."""
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}, line {number} is not JSON ({error}); is it a document file?") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("text"), str):
        raise ValueError(f'{os.fspath(path)}, line {number} is not a JSON object with a string "text"')
    return fields


def _open_to_read(path: Path) -> Any:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rb")
    if path.name.endswith(".zst"):
        return io.BufferedReader(_ZstdReader(open(path, "rb")), 1 << 20)
    return open(path, "rb", 1 << 20)


class _ZstdReader(io.RawIOBase):
    """The frames of a .zst file. The package's own reader takes a file that was cut short for a whole one."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._frames = _zstandard().ZstdDecompressor()
        self._frame: Any = None
        self._input = self._output = b""

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`; EOFError where the file ends inside a frame."""
        while not self._output:
            self._input = self._input or self._file.read(1 << 17)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the compressed data ends too early")
                return 0
            self._frame = self._frame or self._frames.decompressobj()
            self._output = self._frame.decompress(self._input)
            self._input = self._frame.unused_data if self._frame.eof else b""
            self._frame = None if self._frame.eof else self._frame
        size = min(len(buffer), len(self._output))
        buffer[:size], self._output = self._output[:size], self._output[size:]
        return size

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise ImportError("files ending in .zst need zstandard: pip install zstandard") from error
    return zstandard


def _zstd_error() -> type[Exception]:
    """The error class of zstandard, or one that never occurs without it."""
    try:
        import zstandard
    except ImportError:
        return EOFError
    return zstandard.ZstdError
