"""Exact document deduplication: of documents with the same text the first stays.

A document's text is represented by 128 bits of its hash, so that two different texts among 10^12 share one with
probability 10^-15. 16 bytes per document are in memory; with a Bloom filter instead (see `bloom.py`) some 2, at the
price of removing a stated share of documents that are unique.

Left out: normalization; `near_duplicates.py` finds copies that differ in case or spacing. Read next: `bloom.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cs336_data.deduplication.bloom import BloomFilter
from cs336_data.file_jobs import open_job, save_array
from cs336_data.units import PathLike, Unit, plan_units


@dataclass(frozen=True)
class DocumentCounts:
    """What was found."""

    documents: int
    """documents read"""
    kept: int
    """documents written"""


def deduplicate_documents(
    input_files: Iterable[PathLike],
    output_directory: PathLike,
    *,
    bloom_error_rate: float | None = None,
    num_processes: int | None = 1,
    progress: bool = False,
) -> DocumentCounts:
    """Write the documents whose text has not occurred before, in the order of file names.

    Args:
        input_files: .jsonl, .jsonl.gz or .jsonl.zst with a document per line; any other file is one document.
        output_directory: not the folder of an input. `<output_directory>.parts` holds the work; an interrupted run
            leaves it, and the same call goes on.
        bloom_error_rate: remember texts in a Bloom filter that takes at most this share of unique ones for copies;
            None remembers them exactly.
        num_processes: None takes one per CPU. The result is the same.
        progress: show a bar on stderr for each stage.

    Raises:
        FileNotFoundError, ValueError: as `plan_units`, or a damaged document file.
        ChildProcessError: a worker died; the same call goes on.
    """
    units = plan_units(input_files, output_directory)
    settings = {"job": "documents", "bloom_error_rate": bloom_error_rate}
    with open_job(output_directory, units, num_processes=num_processes, progress=progress, **settings) as job:
        sizes = job.run("hashing documents", _hash_unit, [(unit, job.folder) for unit in units])
        hashes = (np.load(_path(job.folder, unit)) for unit in units)
        if bloom_error_rate is None:
            keep = first_occurrences(np.concatenate(list(hashes)))
        else:
            seen = BloomFilter(max(1, sum(sizes)), bloom_error_rate)
            keep = ~np.concatenate([seen.add(part[:, 0]) for part in hashes])
        job.write_selection(units, [0, *accumulate(sizes)], keep)
    return DocumentCounts(len(keep), int(keep.sum()))


def first_occurrences(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which rows have not occurred before; uint64 of shape (documents, 2)."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: of equal rows the first comes first
    ordered = hashes[order]
    first = np.ones(len(hashes), dtype=np.bool_)
    first[order[1:]] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return first


def _path(folder: Path, unit: Unit) -> Path:
    return folder / f"hashes-{unit.number:06d}.npy"


def _contents(unit: Unit) -> Iterator[bytes]:
    """Each document's text so that different ones have different bytes: also what no UTF-8 can hold."""
    if unit.has_lines:
        for fields in unit.fields():
            yield fields["text"].encode("utf-8", "surrogatepass")
    else:
        for path in unit.paths:
            yield path.read_bytes()


def _hash_unit(unit: Unit, folder: Path) -> int:
    """Write two numbers per document of a unit; returns how many documents it has."""
    path = _path(folder, unit)
    if not path.exists():
        digests = b"".join(blake2b(content, digest_size=16).digest() for content in _contents(unit))
        save_array(path, np.frombuffer(digests, dtype="<u8").reshape(-1, 2))
    return len(np.load(path, mmap_mode="r"))
