"""A corpus of real text that every machine with Python has: sources and documentation of the standard library and of
the installed packages.

    write_corpus("corpus.txt", 42_000_000)

Files come in the order of a hash of their path until the size is reached, so the mixture is even and the same on every
run; each is a document ended by <|endoftext|>. The text differs between machines, its nature does not.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from cs336_basics.corpora.stdlib_source import stdlib_folder
from cs336_basics.runs.atomic import atomic_write

END_OF_TEXT = "<|endoftext|>"
SUFFIXES = (".py", ".pyi", ".md", ".rst", ".txt")


def write_corpus(path: Path, min_bytes: int) -> dict[str, int]:
    """Write at least `min_bytes`, or all there is; returns the numbers of documents and bytes."""
    documents = num_bytes = 0
    with atomic_write(path) as file:
        for text in _texts():
            data = (text.replace(END_OF_TEXT, "") + END_OF_TEXT).encode("utf-8")
            file.write(data)
            documents, num_bytes = documents + 1, num_bytes + len(data)
            if num_bytes >= min_bytes:
                break
    return {"documents": documents, "bytes": num_bytes}


def read_documents(path: Path) -> Iterator[str]:
    """The documents of a corpus, one by one, without holding the file."""
    rest = ""
    with open(path, encoding="utf-8", newline="") as file:
        while block := file.read(1 << 20):
            *documents, rest = (rest + block).split(END_OF_TEXT)
            yield from filter(None, documents)
    if rest:
        yield rest


def _texts() -> Iterator[str]:
    roots = {stdlib_folder(), Path(sysconfig.get_paths()["purelib"])}
    found = {
        Path(folder, name): Path(folder, name).relative_to(root).as_posix()
        for root in roots
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith(SUFFIXES)
    }
    for path in sorted(found, key=lambda path: hashlib.sha256(found[path].encode()).digest()):
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if text:
            yield text
