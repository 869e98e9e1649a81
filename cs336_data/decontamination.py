"""Decontamination: leave out documents that share a long n-gram with a text used for evaluation.

A model that has read the answers is not measured by them. A document is contaminated if one of its 13-grams of words,
normalized as in `deduplication/shingles.py`, is also in an evaluation item; 13 words in a row are hardly ever the same
by chance, and mostly are in quotations or copies. What is found is listed with its place and its words, so that a
person can judge.

An item shorter than n words has no n-gram. It is found only where a document consists of it, and is counted as short.

N-grams are compared by 64-bit hashes: with 10^12 in the corpus and 10^6 in the items the expected number of documents
left out by mistake is 0.05.

Source: Brown et al., GPT-3 (2020), appendix C. Left out: cutting the n-gram's surroundings out of a document that
stays; ignoring n-grams that are common in the corpus. Read next: `mixing.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.tokenization.compilation import Engine, use_compiled
from cs336_data.deduplication.minhash import MinHashConfig
from cs336_data.deduplication.shingles import normalize, shingle_hashes
from cs336_data.file_jobs import open_job, save_array
from cs336_data.units import PathLike, Unit, plan_units

_BATCH_DOCUMENTS = 256


@dataclass(frozen=True)
class Contamination:
    """What was found."""

    documents: int
    """documents read"""
    kept: int
    """documents written"""
    items: int
    """evaluation items"""
    short_items: int
    """items of fewer than n words"""
    found_items: int
    """items that a document left out shares its first listed n-gram with"""


def decontaminate(
    input_files: Iterable[PathLike],
    output_directory: PathLike,
    evaluation_files: Iterable[PathLike],
    *,
    n: int = 13,
    hits_file: PathLike | None = None,
    num_processes: int | None = 1,
    engine: Engine = "auto",
    progress: bool = False,
) -> Contamination:
    """Write the documents that share no n-gram with an evaluation item, under the same file names.

    Args:
        input_files: .jsonl, .jsonl.gz or .jsonl.zst with a document per line; any other file is one document.
        output_directory: not the folder of an input. `<output_directory>.parts` holds the work; an interrupted run
            leaves it, and the same call goes on.
        evaluation_files: the same kinds of files; an item per line, or per file.
        n: words in a row, at least 1.
        hits_file: where to list the documents left out, one JSON object per line: "document", "ngrams" (how many it
            shares), "item" and "words" of the first.
        num_processes: None takes one per CPU. The result is the same.
        engine: "plain" or "compiled"; "auto" compiles from 1 MB on.
        progress: show a bar on stderr for each stage.

    Raises:
        FileNotFoundError, ValueError: as `plan_units`, a damaged document file, or no evaluation items.
        ChildProcessError: a worker died; the same call goes on.
    """
    config = MinHashConfig(num_hashes=1, num_bands=1, ngrams=n)
    units = plan_units(input_files, output_directory)
    evaluation = plan_units(evaluation_files, None)
    items = [text.decode("utf-8") for unit in evaluation for text in unit.texts()]
    if not items:
        raise ValueError("the evaluation files hold no items; a check against nothing would pass everything")
    places = [unit.place(index) for unit in evaluation for index, _ in enumerate(unit.texts())]
    compiled = use_compiled(engine, 16 * sum(path.stat().st_size for unit in units for path in unit.paths))
    grams, owners = _ngrams_of_items(items, n)
    settings = {"job": "decontamination", "n": n, "ngrams": [len(grams), hex(int(np.bitwise_xor.reduce(grams)))]}
    with open_job(output_directory, units, num_processes=num_processes, progress=progress, **settings) as job:
        save_array(job.folder / "ngrams.npy", grams)
        save_array(job.folder / "owners.npy", owners)
        arguments = [(unit, job.folder, job.output, config, compiled) for unit in units]
        counts = job.run("checking", _check_unit, arguments)
        hits = [json.loads((job.folder / f"hits-{unit.number:06d}.json").read_text()) for unit in units]
        listed = [hit | {"item": places[hit["item"]]} for hit in chain.from_iterable(hits)]
        if hits_file is not None:
            with atomic_write(hits_file, "w") as file:
                file.writelines(json.dumps(hit, ensure_ascii=False) + "\n" for hit in listed)
    short = sum(len(normalize(item).split()) < n for item in items)
    documents = sum(counts)
    return Contamination(documents, documents - len(listed), len(items), short, len({hit["item"] for hit in listed}))


def _ngrams_of_items(items: Sequence[str], n: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The hashes of all n-grams, ascending, and the first item that has each."""
    hashes = [shingle_hashes(item, n) for item in items]
    grams, first = np.unique(np.concatenate(hashes), return_index=True)
    ends = np.cumsum(list(map(len, hashes)))
    return grams, np.searchsorted(ends, first, side="right").astype(np.int64)


def _check_unit(unit: Unit, folder: Path, output: Path, config: MinHashConfig, compiled: bool) -> int:
    """Write the clean documents of a unit and list the others; returns how many documents there are."""
    done = folder / f"written-{unit.number:06d}.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    grams, owners = np.load(folder / "ngrams.npy", mmap_mode="r"), np.load(folder / "owners.npy", mmap_mode="r")
    keep: list[bool] = []
    hits: list[dict[str, Any]] = []
    for text, hashes in _hashed(unit.texts(), config, compiled):
        places = np.minimum(np.searchsorted(grams, hashes), len(grams) - 1)
        shared = np.flatnonzero(grams[places] == hashes)
        if len(shared):
            words = normalize(text.decode("utf-8")).split()[shared[0] : shared[0] + config.ngrams]
            hits.append({
                "document": unit.place(len(keep)), "ngrams": len(np.unique(hashes[shared])),
                "item": int(owners[places[shared[0]]]), "words": " ".join(words),
            })  # fmt: skip
        keep.append(len(shared) == 0)
    unit.write_kept(np.array(keep, dtype=np.bool_), output)
    write_json(folder / f"hits-{unit.number:06d}.json", hits)
    write_json(done, len(keep))
    return len(keep)


def _hashed(
    texts: Iterator[bytes], config: MinHashConfig, compiled: bool
) -> Iterator[tuple[bytes, npt.NDArray[np.uint64]]]:
    """Each text with the hashes of its n-grams, in order."""
    if not compiled:
        for text in texts:
            yield text, shingle_hashes(text.decode("utf-8"), config.ngrams)
        return
    from cs336_data.deduplication.compiled_shingles import CompiledShingles

    kernels = CompiledShingles(config)
    while batch := list(islice(texts, _BATCH_DOCUMENTS)):
        found = kernels.shingles(batch)
        for index, text in enumerate(batch):
            yield text, found.hashes[found.begins[index] : found.begins[index + 1]]
