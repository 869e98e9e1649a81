"""The steps over all documents at once: duplicates, near duplicates, repeated lines, evaluation sets, short leftovers.

Each step reads the folder of the step before and writes one of its own, a file per input file, and lists what it
dropped, so that every document's end can be told:

    corpus/01-dedup_documents/NAME.jsonl.gz      corpus/01-dedup_documents.dropped.jsonl.gz      corpus/01-....json

The json, written last, holds counts and a fingerprint of what went in; a step with a fitting one is not done again.
The steps themselves are in `deduplication/` and `decontamination.py`. Read next: those, then `pipeline.py`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import write_json
from cs336_data.document_files import from_line, read_lines, write_lines
from cs336_data.pipeline_config import CorpusStepConfig

CorpusStep = Callable[..., dict[str, Any]]
"""(input files, output folder, num_processes, **options) -> facts for the report"""


def run_corpus_steps(
    steps: Sequence[CorpusStepConfig],
    files: Sequence[Path],
    output: Path,
    *,
    num_processes: int,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Run the steps that are not done; returns one record per step: name, in, out, facts.

    Args:
        steps: in order.
        files: document files of the file steps.
        output: directory of the run; `documents/` in it gets the final files.
        num_processes: for steps that use several.
        say: takes a line of progress.

    Raises:
        ValueError, TypeError: what a step says of its options.
        OSError: a full disk; what is done stays.
    """
    root, records = output / "corpus", []
    fingerprint = hashlib.sha256(json.dumps([[f.name, f.stat().st_size, _sha256(f)] for f in files]).encode())
    for number, step in enumerate(steps, 1):
        fingerprint.update(json.dumps([step.name, step.options], sort_keys=True).encode())
        folder = root / f"{number:02d}-{step.name}"
        marker = root / f"{folder.name}.json"
        record = json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else {}
        if record.get("fingerprint") != fingerprint.hexdigest():
            say(f"{step.name} ...")
            shutil.rmtree(folder, ignore_errors=True)
            marker.unlink(missing_ok=True)
            facts = _call(step, files, folder, num_processes)
            counts = _write_dropped(files, folder, root / f"{folder.name}.dropped.jsonl.gz")
            record = {"step": step.name, **counts, "facts": facts, "fingerprint": fingerprint.hexdigest()}
            write_json(marker, record)
        records.append(record)
        files = [folder / file.name for file in files]
    _publish(files, output / "documents", fingerprint.hexdigest())
    return records


def _call(step: CorpusStepConfig, files: Sequence[Path], folder: Path, num_processes: int) -> dict[str, Any]:
    function = STEPS[step.name]
    try:
        inspect.signature(function).bind(files, folder, num_processes, **step.options)
    except TypeError as error:
        raise TypeError(f"corpus step {step.name!r}: {error}") from error
    return function(files, folder, num_processes, **step.options)


def _write_dropped(before: Sequence[Path], folder: Path, path: Path) -> dict[str, int]:
    """List the documents that are in the former files and not in the new ones."""
    came = left = 0
    with write_lines(path) as write:
        for file in before:
            kept = {document.id for document in _documents(folder / file.name)}
            for document in _documents(file):
                came += 1
                if document.id in kept:
                    left += 1
                else:
                    fields = {"id": document.id, "url": document.url, "file": file.name}
                    write((json.dumps(fields, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
    return {"in": came, "out": left}


def _publish(files: Sequence[Path], target: Path, fingerprint: str) -> None:
    """Make hard links of (or copy) the last step's files under `documents/`."""
    marker = target / ".fingerprint"
    if marker.exists() and marker.read_text(encoding="utf-8") == fingerprint:
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in files:
        try:
            (target / file.name).hardlink_to(file)
        except OSError:  # a file system without links
            shutil.copyfile(file, target / file.name)
    marker.write_text(fingerprint, encoding="utf-8")


def _documents(path: Path) -> Iterator[Any]:
    for number, line in enumerate(read_lines(path), 1):
        yield from_line(line, path=path, number=number)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dedup_documents(files: Sequence[Path], folder: Path, num_processes: int) -> dict[str, Any]:
    from cs336_data.deduplication.exact_documents import deduplicate_documents

    deduplicate_documents(files, folder, num_processes=num_processes)
    return {}


def _dedup_near(
    files: Sequence[Path], folder: Path, num_processes: int, *, threshold: float = 0.8, ngrams: int = 5,
    num_hashes: int = 112, num_bands: int = 14, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    from cs336_data.deduplication.minhash import MinHashConfig
    from cs336_data.deduplication.near_duplicates import deduplicate_near

    config = MinHashConfig(num_hashes=num_hashes, num_bands=num_bands, ngrams=ngrams, threshold=threshold, seed=seed)
    found = deduplicate_near(
        files, folder, config, num_processes=num_processes, clusters_file=clusters_path(folder)
    )  # fmt: skip
    return {
        "clusters": found.clusters, "largest_cluster": found.largest_cluster, "identical": found.identical,
        "candidates": found.candidates, "compared": found.compared,
    }  # fmt: skip


def clusters_path(folder: Path) -> Path:
    """Where a near-duplicate step lists its clusters."""
    return folder.with_name(f"{folder.name}.clusters.jsonl")


def _dedup_lines(files: Sequence[Path], folder: Path, num_processes: int) -> dict[str, Any]:
    from cs336_data.deduplication.exact_lines import deduplicate_lines

    counts = deduplicate_lines(files, folder, num_processes=num_processes)
    return {"lines": counts.lines, "lines_kept": counts.kept_lines}


def _decontaminate(
    files: Sequence[Path], folder: Path, num_processes: int, *, evaluation: Sequence[str], n: int = 13
) -> dict[str, Any]:
    from cs336_data.decontamination import decontaminate

    paths = [Path(path) for path in evaluation]
    hits = folder.with_name(f"{folder.name}.hits.jsonl")
    found = decontaminate(files, folder, paths, n=n, hits_file=hits, num_processes=num_processes)
    return {"items": found.items, "found_items": found.found_items, "evaluation": [path.name for path in paths]}


def _min_words(files: Sequence[Path], folder: Path, num_processes: int, *, words: int = 50) -> dict[str, Any]:
    """Drop what line removal has left too short."""
    for file in files:
        with ExitStack() as stack:
            write = stack.enter_context(write_lines(folder / file.name))
            for number, line in enumerate(read_lines(file), 1):
                if len(from_line(line, path=file, number=number).text.split()) >= words:
                    write(line)
    return {"words": words}


STEPS: dict[str, CorpusStep] = {
    "dedup_documents": _dedup_documents, "dedup_near": _dedup_near, "dedup_lines": _dedup_lines,
    "decontaminate": _decontaminate, "min_words": _min_words,
}  # fmt: skip
