"""Near duplicates in files of any size: MinHash, LSH and verification in bounded memory, on several cores, resumable.

    1 signatures    each unit: band keys and a fingerprint per document        120 bytes each, the signature is not kept
    2 candidates    equal fingerprints are joined; per band, documents that share a key with another
    3 sets          each unit: the shingle sets of the candidates, read again
    4 clusters      per band, verified by the true Jaccard similarity, joined by union-find
    5 kept          each unit: the documents that come first in their cluster, copied byte for byte

Stages 1, 3 and 5 run in processes. In memory are a few numbers per document and the band being sorted; shingle sets
are mapped from disk. The first document of a cluster, in the order of file names, is the one that stays, so order the
files by preference. Small inputs take the readable path of `clusters.py`, with the same result.

Source: handout problem `minhash_deduplication`; Penedo et al., FineWeb (2024), for the parameters. Left out: a band
larger than memory (8 bytes per document). Read next: `compiled_shingles.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, compress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cs336_basics.runs.atomic import atomic_write
from cs336_basics.tokenization.compilation import Engine, use_compiled
from cs336_data.deduplication.clusters import cluster_texts
from cs336_data.deduplication.lsh import buckets
from cs336_data.deduplication.minhash import DEFAULT, MinHashConfig
from cs336_data.file_jobs import Job, open_job, save_array
from cs336_data.units import PathLike, Unit, plan_units

_BATCH_BYTES = 1 << 20


@dataclass(frozen=True)
class NearDuplicates:
    """What was found."""

    documents: int
    """documents read"""
    kept: int
    """documents written"""
    clusters: int
    """clusters of more than one document"""
    largest_cluster: int
    """documents in the largest"""
    identical: int | None
    """documents equal to an earlier one after normalization; like the next two not counted by the readable path"""
    candidates: int | None
    """others that share a band with another"""
    compared: int | None
    """pairs whose similarity was computed"""
    seconds: dict[str, float] = field(compare=False)
    """wall time of each stage"""


def deduplicate_near(
    input_files: Iterable[PathLike],
    output_directory: PathLike,
    config: MinHashConfig = DEFAULT,
    *,
    num_processes: int | None = 1,
    engine: Engine = "auto",
    clusters_file: PathLike | None = None,
    progress: bool = False,
) -> NearDuplicates:
    """Write the documents without near duplicates of earlier ones, under the same file names.

    Args:
        input_files: .jsonl, .jsonl.gz or .jsonl.zst with a document per line; any other file is one document.
        output_directory: not the folder of an input. `<output_directory>.parts` holds the work; an interrupted run
            leaves it, and the same call goes on.
        config: shingles, hash functions, bands and threshold.
        num_processes: None takes one per CPU. The result is the same.
        engine: "plain" for the readable path, which holds all texts in memory; "auto" takes it below 1 MB.
        clusters_file: where to list the clusters, one JSON object per line: "kept" and "removed".
        progress: show a bar on stderr for each stage.

    Raises:
        FileNotFoundError, ValueError: as `plan_units`, or a damaged document file.
        ChildProcessError: a worker died; the same call goes on.
    """
    units = plan_units(input_files, output_directory)
    settings = {"job": "near duplicates", "config": asdict(config)}
    compiled = use_compiled(engine, 16 * sum(path.stat().st_size for unit in units for path in unit.paths))
    with open_job(output_directory, units, num_processes=num_processes, progress=progress, **settings) as job:
        search = _Search(units, config, job)
        roots = search.compiled_roots() if compiled else search.plain_roots()
        keep = roots == np.arange(len(roots))
        job.write_selection(units, search.starts, keep)
        if clusters_file is not None:
            _write_clusters(Path(clusters_file), units, search.starts, roots)
        counts = np.bincount(roots, minlength=1)
        return NearDuplicates(
            documents=len(roots), kept=int(keep.sum()), clusters=int((counts > 1).sum()),
            largest_cluster=int(counts.max(initial=0)), identical=search.identical, candidates=search.candidates,
            compared=search.compared, seconds=job.seconds,
        )  # fmt: skip


class _Search:
    """The stages up to the clusters, and what they count."""

    def __init__(self, units: Sequence[Unit], config: MinHashConfig, job: Job):
        self.units, self.config, self.job, self.folder = units, config, job, job.folder
        self.identical: int | None = None
        self.candidates: int | None = None
        self.compared: int | None = None
        self.starts: list[int] = [0]

    def plain_roots(self) -> npt.NDArray[np.int64]:
        """The first document of each document's cluster, by the readable path."""
        with self.job.stage("clustering"):
            texts: list[str] = []
            for unit in self.units:
                texts += [text.decode("utf-8") for text in unit.texts()]
                self.starts.append(len(texts))
            return np.array(cluster_texts(texts, self.config), dtype=np.int64)

    def compiled_roots(self) -> npt.NDArray[np.int64]:
        """The same by way of files."""
        sizes = self.job.run("signatures", _sign_unit, [(unit, self.folder, self.config) for unit in self.units])
        self.starts = [0, *accumulate(sizes)]
        with self.job.stage("candidates") as report:
            parent = _first_of_equals(self._band(self.config.num_bands))
            first = parent == np.arange(len(parent))
            candidate = np.zeros(len(parent), dtype=np.bool_)
            for band in range(self.config.num_bands):
                candidate[self._buckets(band, first)[0]] = True
                report(band + 1, self.config.num_bands)
            self.identical, self.candidates = int((~first).sum()), int(candidate.sum())
            save_array(self.folder / "candidates.npy", candidate)
        sets, begins = self._sets()
        with self.job.stage("clusters") as report:
            from cs336_data.deduplication.compiled_clusters import CompiledClusters

            clusters = CompiledClusters(
                parent, sets=sets, begins=begins, position=np.cumsum(candidate) - 1, threshold=self.config.threshold
            )
            for band in range(self.config.num_bands):
                clusters.join(*self._buckets(band, first))
                report(band + 1, self.config.num_bands)
            self.compared = clusters.compared
            return clusters.roots()

    def _band(self, band: int) -> npt.NDArray[np.uint64]:
        """The keys of one band for all documents; those after the last band are the fingerprints."""
        return np.concatenate([np.load(_path(self.folder, "keys", u), mmap_mode="r")[band] for u in self.units])

    def _buckets(self, band: int, first: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Buckets of a band without the documents that are equal to an earlier one."""
        documents = np.flatnonzero(first)
        members, begins = buckets(self._band(band)[documents])
        return documents[members], begins

    def _sets(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """The shingle sets of all candidates in one file, and where each begins."""
        places = zip(self.units, self.starts, strict=False)
        self.job.run("shingle sets", _write_sets, [(unit, start, self.folder, self.config) for unit, start in places])
        sizes = [np.load(_path(self.folder, "sizes", unit)) for unit in self.units]
        begins = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)
        if begins[-1] == 0:
            return np.empty(0, dtype=np.uint64), begins
        joined = self.folder / "sets.bin"
        with atomic_write(joined) as target:
            for unit in self.units:
                with open(_path(self.folder, "sets", unit), "rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)
        return np.asarray(np.memmap(joined, dtype=np.uint64, mode="r")), begins


def _first_of_equals(fingerprints: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """For each document the first that has the same fingerprint."""
    _, first, inverse = np.unique(fingerprints, return_index=True, return_inverse=True)
    return first.astype(np.int64)[inverse]


def _path(folder: Path, kind: str, unit: Unit) -> Path:
    return folder / f"{kind}-{unit.number:06d}.npy"


def _sign_unit(unit: Unit, folder: Path, config: MinHashConfig) -> int:
    """Write the band keys and fingerprints of a unit, shape (num_bands + 1, documents); returns the documents."""
    from cs336_data.deduplication.compiled_shingles import CompiledShingles

    path = _path(folder, "keys", unit)
    if not path.exists():
        kernels = CompiledShingles(config)
        parts = [np.empty((config.num_bands + 1, 0), dtype=np.uint64)]
        parts += [np.vstack(kernels.keys(batch)) for batch in _batches(unit.texts())]
        save_array(path, np.hstack(parts))
    return int(np.load(path, mmap_mode="r").shape[1])


def _write_sets(unit: Unit, start: int, folder: Path, config: MinHashConfig) -> None:
    """Write the shingle sets of the candidates in a unit, and their sizes."""
    from cs336_data.deduplication.compiled_shingles import CompiledShingles

    done = _path(folder, "sizes", unit)
    if done.exists():
        return
    kernels, sizes = CompiledShingles(config), [np.empty(0, dtype=np.int64)]
    candidate = np.load(folder / "candidates.npy", mmap_mode="r")[start:]
    with atomic_write(_path(folder, "sets", unit)) as file:
        for batch in _batches(compress(unit.texts(), candidate)):
            hashes, counts = kernels.sets(batch)
            file.write(hashes.tobytes())
            sizes.append(counts)
    save_array(done, np.concatenate(sizes))


def _batches(texts: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Texts in lists of about a megabyte."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write_clusters(path: Path, units: Sequence[Unit], starts: Sequence[int], roots: npt.NDArray[np.int64]) -> None:
    """List each cluster: where the document that stays stands, and those that go."""
    counts = np.bincount(roots)
    order = np.argsort(roots, kind="stable")
    order = order[counts[roots[order]] > 1]
    places = []
    for document in order.tolist():
        unit = int(np.searchsorted(starts, document, side="right")) - 1
        places.append(units[unit].place(document - starts[unit]))
    with atomic_write(path, "w") as file:
        begin = 0
        for size in counts[counts > 1].tolist():
            kept, *removed = places[begin : begin + size]
            file.write(json.dumps({"kept": kept, "removed": removed}, ensure_ascii=False) + "\n")
            begin += size
