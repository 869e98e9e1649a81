"""Exact line deduplication: a line that occurs more than once in the whole collection disappears everywhere.

Menus, copyright notices and cookie banners repeat from page to page and prose does not, so even the first copy goes.
Lines are compared as bytes without their line end, and written back as they were read.

    1 hashes      each unit: the 64-bit hashes of its lines, sorted, each at most twice
    2 repeated    slice by slice of the range of hashes: those that occur twice
    3 written     each unit again, without the repeated lines

In memory are the hashes of one unit or of one slice. Two different lines among n share a hash with probability
n^2 / 2^65: 0.03 for a billion, and then two lines too many are removed. (A Bloom filter of the same memory would remove
one in a thousand; see `bloom.py`.)

In a document file the lines are those of each document's text. A document whose text becomes empty stays, unless
`drop_empty` is set.

Source: handout problem `exact_deduplication`. Left out: counting a line once per document. Read next:
`exact_documents.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.tokenization.progress import Report
from cs336_data.document_files import write_lines
from cs336_data.file_jobs import open_job, save_array
from cs336_data.units import PathLike, Unit, plan_units

_SLICE_HASHES = 1 << 24  # 128 MB
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


@dataclass(frozen=True)
class LineCounts:
    """What was found."""

    lines: int
    """lines read"""
    kept_lines: int
    """lines written"""
    documents: int
    """documents read"""
    kept_documents: int
    """documents written"""
    repeated: int
    """distinct lines that occur more than once"""


def deduplicate_lines(
    input_files: Iterable[PathLike],
    output_directory: PathLike,
    *,
    drop_empty: bool = False,
    num_processes: int | None = 1,
    progress: bool = False,
) -> LineCounts:
    """Write each file without the lines that occur more than once in all files, under the same names.

    Args:
        input_files: .jsonl, .jsonl.gz or .jsonl.zst with a document per line; any other file is one document of bytes.
        output_directory: not the folder of an input. `<output_directory>.parts` holds the work; an interrupted run
            leaves it, and the same call goes on.
        drop_empty: leave documents out whose text has become blank (of document files only).
        num_processes: None takes one per CPU. The result is the same.
        progress: show a bar on stderr for each stage.

    Raises:
        FileNotFoundError, ValueError: as `plan_units`, or a damaged document file.
        ChildProcessError: a worker died; the same call goes on.
    """
    units = plan_units(input_files, output_directory)
    with open_job(
        output_directory, units, num_processes=num_processes, progress=progress, job="lines", drop_empty=drop_empty
    ) as job:
        job.run("hashing lines", _hash_unit, [(unit, job.folder) for unit in units])
        with job.stage("counting") as report:
            repeated = _repeated([np.load(_path(job.folder, unit), mmap_mode="r") for unit in units], report)
            save_array(job.folder / "repeated.npy", repeated)
        counts = job.run("writing", _write_unit, [(unit, job.folder, job.output, drop_empty) for unit in units])
    lines, kept_lines, documents, kept_documents = np.sum(counts, axis=0).tolist()
    return LineCounts(lines, kept_lines, documents, kept_documents, len(repeated))


def split_lines(data: bytes) -> list[bytes]:
    r"""The lines of `data` with their ends; only "\n" ends a line.

    >>> split_lines(b"a\r\nb\n\nc")
    [b'a\r\n', b'b\n', b'\n', b'c']
    """
    return _LINE.findall(data)


def line_hashes(lines: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    r"""A 64-bit hash of each line without its end ("\n" or "\r\n")."""
    digests = b"".join(blake2b(_content(line), digest_size=8).digest() for line in lines)
    return np.frombuffer(digests, dtype="<u8")


def _content(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


def _path(folder: Path, unit: Unit) -> Path:
    return folder / f"lines-{unit.number:06d}.npy"


def _documents(unit: Unit) -> Iterator[list[bytes]]:
    """The lines of each document."""
    if unit.has_lines:
        for text in unit.texts():
            yield split_lines(text)
    else:
        for path in unit.paths:
            yield split_lines(path.read_bytes())


def _hash_unit(unit: Unit, folder: Path) -> None:
    """Write the sorted hashes of a unit's lines, those that occur more often twice."""
    if _path(folder, unit).exists():
        return
    parts = [np.empty(0, dtype=np.uint64), *map(line_hashes, _documents(unit))]
    values, counts = np.unique(np.concatenate(parts), return_counts=True)
    save_array(_path(folder, unit), np.repeat(values, np.minimum(counts, 2)))


def _repeated(sorted_hashes: list[npt.NDArray[np.uint64]], report: Report) -> npt.NDArray[np.uint64]:
    """The hashes that occur twice in all arrays together, ascending, looking at one slice of values at a time."""
    total = sum(map(len, sorted_hashes))
    num_slices = max(1, -(-total // _SLICE_HASHES))
    edges = [np.uint64(2**64 * number // num_slices) for number in range(num_slices)]
    places = [np.append(np.searchsorted(hashes, edges), len(hashes)) for hashes in sorted_hashes]
    found = []
    for number in range(num_slices):
        parts = [hashes[place[number] : place[number + 1]] for hashes, place in zip(sorted_hashes, places, strict=True)]
        together = np.sort(np.concatenate(parts))
        found.append(np.unique(together[1:][together[1:] == together[:-1]]))
        report(number + 1, num_slices)
    return np.concatenate(found)


def _write_unit(unit: Unit, folder: Path, output: Path, drop_empty: bool) -> list[int]:
    """Write a unit without the repeated lines; returns lines and documents read and written."""
    done = folder / f"written-{unit.number:06d}.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    repeated = np.load(folder / "repeated.npy", mmap_mode="r")
    counts = np.zeros(4, dtype=np.int64)

    def unique_lines(lines: list[bytes]) -> bytes:
        kept = [line for line, drop in zip(lines, _is_in(line_hashes(lines), repeated), strict=True) if not drop]
        counts[:2] += len(lines), len(kept)
        return b"".join(kept)

    if unit.has_lines:
        with write_lines(output / unit.paths[0].name) as write:
            for fields in unit.fields():
                data = unique_lines(split_lines(fields["text"].encode("utf-8", "replace")))
                keep = not drop_empty or bool(data.strip())
                counts[2:] += 1, keep
                if keep:
                    fields["text"] = data.decode("utf-8")
                    write((json.dumps(fields, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
    else:
        for path in unit.paths:
            with atomic_write(output / path.name) as file:
                file.write(unique_lines(split_lines(path.read_bytes())))
        counts[2:] += len(unit.paths)
    write_json(done, counts.tolist())
    return counts.tolist()


def _is_in(hashes: npt.NDArray[np.uint64], ascending: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which hashes are in the ascending array, which is not read as a whole."""
    if len(ascending) == 0:
        return np.zeros(len(hashes), dtype=np.bool_)
    places = np.minimum(np.searchsorted(ascending, hashes), len(ascending) - 1)
    return ascending[places] == hashes
