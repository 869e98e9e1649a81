"""The Python standard library's own sources: real text that every machine with Python already has.

About 10 MB of code and English prose (docstrings, comments), each file one document. It serves where a download is not
possible: to train a tokenizer on something else than stories, to see pre-tokenization at work on code, and as a corpus
of unknown entropy beside one whose entropy is known.

Files are dealt to the splits by a hash of their path, so a file stays in its split when the library changes.

Left out: the library's tests (half of the volume, much of it tables), packages installed by pip. Licence of the text:
Python Software Foundation License; do not redistribute it without that notice. Read next: `download.py`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cs336_basics.corpora.corpus_files import END_OF_TEXT, matching_manifest, write_documents
from cs336_basics.runs.atomic import write_json

EXCLUDED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})
TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})


def stdlib_files(root: str | Path | None = None, *, include_tests: bool = False) -> list[Path]:
    """Return the library's Python files, sorted by their path relative to `root`.

    Args:
        root: folder to search; by default the standard library of the running Python.
        include_tests: also folders named test, tests or idle_test.

    Returns:
        Files that are valid UTF-8 and not empty.

    Raises:
        FileNotFoundError: there are no sources (a zipped or stripped Python); says what to do.
    """
    folder = stdlib_folder() if root is None else Path(root)
    excluded = EXCLUDED_FOLDERS if include_tests else EXCLUDED_FOLDERS | TEST_FOLDERS
    files = [path for path in _python_files(folder, excluded) if _read(path)]
    if not files:
        raise FileNotFoundError(
            f"no Python sources in {folder}: this Python has its library zipped or stripped; use a Python with sources"
            " (python.org, uv python install, or your system's full python3 package) or pass another corpus"
        )
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def stdlib_folder() -> Path:
    """Return where the running Python keeps its library."""
    return Path(sysconfig.get_paths()["stdlib"])


def _python_files(folder: Path, excluded: frozenset[str]) -> Iterator[Path]:
    """Yield the .py files below a folder, leaving out excluded folders."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in excluded]
        yield from (Path(parent, name) for name in names if name.endswith(".py"))


def _read(path: Path) -> str:
    """Return the text with \\n line ends and one at its end; empty when it is blank or not UTF-8."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return ""
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip()
    return text.replace(END_OF_TEXT, "<|end_of_text|>") + "\n" if text else ""


def write_stdlib(
    directory: str | Path,
    *,
    max_bytes: int | None = None,
    valid_fraction: float = 0.05,
    root: str | Path | None = None,
) -> dict[str, Any]:
    """Write train.txt, valid.txt and manifest.json; nothing is done when they are there already.

    Args:
        directory: created when missing.
        max_bytes: at most so many bytes of text in both splits together: files in the order of a hash of their path, a
            stable sample, up to the first that no longer fits. None: all.
        valid_fraction: expected share of files in valid.txt, in (0, 1).
        root: folder to take the files from; by default the standard library of the running Python.

    Returns:
        The manifest: Python version, and per split `documents`, `bytes` (UTF-8, without end-of-text tokens), `sha256`.
        A literal end-of-text token inside a file is written as <|end_of_text|>.

    Raises:
        FileNotFoundError: no sources; see `stdlib_files`.
        ValueError: an argument out of range, or a split would be empty.
    """
    if not 0 < valid_fraction < 1:
        raise ValueError(f"valid_fraction must be between 0 and 1, both excluded; got {valid_fraction}")
    if max_bytes is not None and max_bytes < 1:
        raise ValueError(f"max_bytes must be at least 1, or None for all; got {max_bytes}")
    directory = Path(directory)
    folder = stdlib_folder() if root is None else Path(root)
    paths = [path.relative_to(folder).as_posix() for path in stdlib_files(folder)]
    request = {
        "corpus": "stdlib_source",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "paths_sha256": hashlib.sha256("\n".join(paths).encode()).hexdigest(),
        "max_bytes": max_bytes,
        "valid_fraction": valid_fraction,
    }
    existing = matching_manifest(directory, request, {"train": "train.txt", "valid": "valid.txt"})
    if existing is not None:
        return existing
    splits: dict[str, list[str]] = {"train": [], "valid": []}
    for path in _sample(folder, paths, max_bytes):
        splits["valid" if _fraction("split", path) < valid_fraction else "train"].append(path)
    for split, members in splits.items():
        if not members:
            raise ValueError(
                f"no file falls into the {split} split ({len(paths)} files, max_bytes={max_bytes}, "
                f"valid_fraction={valid_fraction}); raise max_bytes or choose another valid_fraction"
            )
    manifest: dict[str, Any] = dict(request)
    for split, members in splits.items():
        manifest[split] = write_documents(directory / f"{split}.txt", (_read(folder / path) for path in members))
    write_json(directory / "manifest.json", manifest)
    return manifest


def _fraction(purpose: str, path: str) -> float:
    """Return a number in [0, 1) that depends on the purpose and the path only."""
    digest = hashlib.sha256(f"{purpose} {path}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _sample(folder: Path, paths: Sequence[str], max_bytes: int | None) -> list[str]:
    """Return the paths, in their order, of a stable sample that fits into max_bytes."""
    if max_bytes is None:
        return list(paths)
    chosen, total = set(), 0
    for path in sorted(paths, key=lambda path: _fraction("order", path)):
        total += len(_read(folder / path).encode("utf-8"))
        if total > max_bytes:
            break
        chosen.add(path)
    return [path for path in paths if path in chosen]
