"""Units of work: what one worker of a job over files takes at a time.

A unit is one document file (a document per line) or up to 1,000 other files, each of which is one document. Units are
made from the inputs sorted by name, so the order in which inputs are given changes nothing.

Left out: cutting one large file among several workers; write it in parts. Read next: `file_jobs.py`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cs336_basics.runs.atomic import atomic_write
from cs336_data.document_files import fields_of_line, is_document_file, read_lines, write_lines

PathLike = str | os.PathLike[str]

_FILES_PER_UNIT = 1000


@dataclass(frozen=True)
class Unit:
    """What a worker takes at a time.

    Attributes:
        number: position among the units.
        paths: one document file, or other files, each a document.
    """

    number: int
    paths: tuple[Path, ...]

    @property
    def has_lines(self) -> bool:
        """Whether the unit is a file with a document per line."""
        return is_document_file(self.paths[0])

    def texts(self) -> Iterator[bytes]:
        """The text of each document in order, as valid UTF-8."""
        if self.has_lines:
            for fields in self.fields():
                yield fields["text"].encode("utf-8", "replace")
        else:
            for path in self.paths:
                yield path.read_bytes().decode("utf-8", "replace").encode("utf-8")

    def fields(self) -> Iterator[dict[str, Any]]:
        """The fields of each document of a document file."""
        for number, line in enumerate(read_lines(self.paths[0]), 1):
            yield fields_of_line(line, path=self.paths[0], number=number)

    def place(self, index: int) -> str:
        """Where the document `index` of this unit stands, for people: "part.jsonl:17" or "letter.txt"."""
        return f"{self.paths[0].name}:{index + 1}" if self.has_lines else self.paths[index].name

    def write_kept(self, keep: npt.NDArray[np.bool_], folder: Path) -> None:
        """Copy the documents with `keep` byte for byte into `folder`, under the same names.

        A document file is always written, even without documents. A file that is a document is there or not, and
        one that a former job left under its name is removed.
        """
        if self.has_lines:
            with write_lines(folder / self.paths[0].name) as write:
                for line, kept in zip(read_lines(self.paths[0]), keep, strict=True):
                    if kept:
                        write(line if line.endswith(b"\n") else line + b"\n")
            return
        for path, kept in zip(self.paths, keep, strict=True):
            if kept:
                with open(path, "rb") as source, atomic_write(folder / path.name) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            else:
                (folder / path.name).unlink(missing_ok=True)


def plan_units(input_files: Iterable[PathLike], output_directory: PathLike | None) -> list[Unit]:
    """Sort and group the inputs, and refuse those that cannot work.

    Args:
        input_files: in any order.
        output_directory: where files of the same names are to be written; None if they are only read.

    Raises:
        FileNotFoundError: an input is no file.
        ValueError: no inputs, two of one name, or outputs that would overwrite inputs.
    """
    paths = sorted(map(Path, input_files), key=lambda path: path.name)
    if not paths:
        raise ValueError("there are no input files; name at least one")
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no file at {path}")
    if output_directory is not None:
        _check_names(paths, Path(output_directory).resolve())
    groups: list[list[Path]] = []
    for path in paths:
        if groups and not is_document_file(path) and not is_document_file(groups[-1][0]):
            if len(groups[-1]) < _FILES_PER_UNIT:
                groups[-1].append(path)
                continue
        groups.append([path])
    return [Unit(number, tuple(group)) for number, group in enumerate(groups)]


def _check_names(paths: Sequence[Path], output: Path) -> None:
    for path, following in zip(paths, [*paths[1:], None], strict=True):
        if following is not None and path.name == following.name:
            raise ValueError(f"{path} and {following} have one name and would overwrite each other; rename one")
        if path.resolve().parent == output or path.resolve() == output:
            raise ValueError(f"{path} stands in the output folder {output}; choose another, inputs stay as they are")
