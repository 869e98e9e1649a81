"""The texts that loss boards measure on: drawn for each half, with the entropy floor where it is known.

    stories   fresh stories from the half's own seed; each text's exact -log p is its floor
    stdlib    pieces of the Python library's held-out files; public text, so the rules and a repeated run must hold
    file      documents of a text file that staff keep in CS336_BOARD_DATA, checked by its SHA-256

Read next: `loss.py`.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cs336_basics.corpora.corpus_files import END_OF_TEXT, file_sha256
from cs336_basics.corpora.stdlib_source import write_stdlib
from cs336_basics.corpora.stories import generate_story

Source = Literal["stories", "stdlib", "file"]
MIN_PIECE = 20


@dataclass(frozen=True)
class Text:
    """One document to predict."""

    text: str
    floor_nats: float | None = None
    """-log p of the text under its source"""


def evaluation_texts(
    source: Source, count: int, rng: np.random.Generator, *, max_chars: int, file: str = "", sha256: str = ""
) -> list[Text]:
    """`count` documents.

    Args:
        source: see above.
        count: documents.
        rng: of the half.
        max_chars: longer documents of real text are cut to a piece of this length.
        file: name of the file in CS336_BOARD_DATA.
        sha256: of that file.

    Raises:
        FileNotFoundError: the staff's file is not here.
        ValueError: it is another file, or has too few documents.
    """
    if source == "stories":
        return [_story(random.Random(int(seed))) for seed in rng.integers(0, 2**62, size=count)]
    documents = list(_stdlib() if source == "stdlib" else _documents(_staff_file(file, sha256)))
    pieces = [piece for document in documents for piece in _pieces(document, max_chars)]
    if len(pieces) < count:
        raise ValueError(f"{source} has {len(pieces)} pieces of text, {count} are needed; lower settings.documents")
    return [Text(pieces[i]) for i in rng.choice(len(pieces), size=count, replace=False)]


def _story(rng: random.Random) -> Text:
    story = generate_story(rng)
    return Text(story.text, -story.log_probability)


def _stdlib() -> Iterator[str]:
    """The held-out files of this Python's library, as `cs336 data stdlib` splits them."""
    with tempfile.TemporaryDirectory(prefix="cs336-stdlib-") as folder:
        write_stdlib(folder)
        yield from _documents(Path(folder) / "valid.txt")


def _documents(path: Path) -> Iterator[str]:
    yield from (part for part in path.read_text(encoding="utf-8").split(END_OF_TEXT) if part.strip())


def _staff_file(name: str, sha256: str) -> Path:
    folder = os.environ.get("CS336_BOARD_DATA")
    path = Path(folder or ".") / name
    if folder is None or not path.is_file():
        raise FileNotFoundError(
            f"this division is measured on {name}, which staff keep; set CS336_BOARD_DATA to its folder"
        )
    if sha256 and file_sha256(path) != sha256:
        raise ValueError(f"{path} is not the file the board names (SHA-256 {sha256[:12]}...)")
    return path


def _pieces(document: str, max_chars: int) -> Iterator[str]:
    """The document in stretches of whole lines."""
    piece = ""
    for line in document.splitlines(keepends=True):
        if piece and len(piece) + len(line) > max_chars:
            yield piece
            piece = ""
        piece += line[:max_chars]
    if len(piece) >= MIN_PIECE:
        yield piece
