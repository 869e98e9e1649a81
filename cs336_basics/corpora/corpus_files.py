"""Corpus files: documents in one text file, and a manifest that tells whether they are whole.

Each document's text ends with a line feed and is followed at once by the end-of-text token:

    doc1 \\n <|endoftext|> doc2 \\n <|endoftext|> ...        (without the spaces)

A `manifest.json` beside the files holds the request that made them and the SHA-256 of each; it is written last, so an
interrupted run leaves no manifest and is simply repeated. Read next: `stories.py`, `stdlib_source.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import atomic_write

END_OF_TEXT = "<|endoftext|>"


def write_documents(path: Path, documents: Iterable[str]) -> dict[str, Any]:
    """Write documents to one file, atomically.

    Returns:
        `documents` (count), `bytes` (UTF-8 bytes of the texts, without end-of-text tokens) and `sha256` (of the file).

    Raises:
        ValueError: a document does not end with a line feed or contains the end-of-text token.
    """
    count, num_bytes, digest = 0, 0, hashlib.sha256()
    with atomic_write(path, "wb") as file:
        for text in documents:
            if not text.endswith("\n") or END_OF_TEXT in text:
                raise ValueError(
                    f"document {count} must end with a line feed and not contain {END_OF_TEXT}; got {text[:40]!r} ..."
                )
            document = text.encode("utf-8")
            line = document + END_OF_TEXT.encode("ascii")
            file.write(line)
            digest.update(line)
            count += 1
            num_bytes += len(document)
    return {"documents": count, "bytes": num_bytes, "sha256": digest.hexdigest()}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def matching_manifest(directory: Path, request: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the manifest of a corpus that is there already, or None when it has to be made.

    Args:
        directory: the corpus.
        request: entries that the manifest must hold with the same values.
        files: manifest entry -> file name; the file's SHA-256 must be the one in the entry.
    """
    path = directory / "manifest.json"
    if not path.exists():
        return None
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if any(manifest.get(key) != value for key, value in request.items()):
        return None
    for entry, name in files.items():
        if not (directory / name).exists() or file_sha256(directory / name) != manifest[entry]["sha256"]:
            return None
    return manifest


def known_nats(text: Path) -> float | None:
    """-log p of a whole text file, where the manifest of its corpus states it for exactly these bytes."""
    path = text.parent / "manifest.json"
    if not (path.is_file() and text.is_file()):
        return None
    split = json.loads(path.read_text(encoding="utf-8")).get(text.stem)
    if not isinstance(split, dict) or "nats" not in split or split.get("sha256") != file_sha256(text):
        return None
    return split["nats"]
