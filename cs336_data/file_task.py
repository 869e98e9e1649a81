"""The unit of work: one file of a crawl in, its documents and the fate of every record out.

    filtered/NAME.jsonl.gz     documents that passed all steps
    verdicts/NAME.jsonl.gz     a line per record: id, url, scores, where it ended (step, reason) or "kept"
    samples/NAME.jsonl         some documents per verdict, drawn by hash, for people to look at
    quarantine/NAME.jsonl      records that could not be worked on, and why
    manifests/NAME.json        input, counts, checksums, models; written last, so that a file with one is done

`process_file` is a function of its arguments: neither the order of files nor the number of workers nor a kill on the
way changes a byte, save for the manifest's "measured" (seconds, host). It runs inside a process that may die (see
`guarded_worker.py`); `watch` tells its keeper which record it is about to touch. Read next: `guarded_worker.py`.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cs336_basics.corpora.corpus_files import file_sha256
from cs336_basics.runs.atomic import write_json
from cs336_data.document import Document
from cs336_data.document_files import from_line, is_document_file, json_line, read_lines, to_line, write_lines
from cs336_data.extraction import record_to_document
from cs336_data.pipeline_config import ReadingConfig
from cs336_data.sampling import BottomK
from cs336_data.steps import Step
from cs336_data.warc import read_records

FORMAT = "cs336-data-1"
SCORE_BINS = 100
_SAMPLE_CHARACTERS = 4_000
Watch = Callable[[int], None]


class UnreadableFileError(Exception):
    """The input as a whole cannot be used; the text says why."""


@dataclass(frozen=True)
class FileTask:
    """One file's work, as plain values that travel to any worker."""

    path: str
    name: str
    """distinct among the run's files; what its outputs are called"""
    output: str
    """directory of the run"""
    config: dict[str, Any]
    """`PipelineConfig` as a dictionary"""
    fingerprint: str


@dataclass
class _Tally:
    """What is counted on the way."""

    funnel: dict[str, Counter[str]]
    """step -> "in", "out" and the reasons"""
    reader: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    histograms: dict[str, list[int]] = field(default_factory=dict)
    characters: int = 0
    models: dict[str, str] = field(default_factory=dict)
    masked: Counter[str] = field(default_factory=Counter)

    def spend(self, label: str, since: float) -> float:
        """Add the CPU time of this thread from `since` to now; returns now, where the next step begins."""
        now = time.thread_time()
        self.seconds[label] += now - since
        return now


def output_paths(task: FileTask) -> dict[str, Path]:
    """Kind of output -> its path, without the manifest."""
    root = Path(task.output)
    suffixes = {"filtered": ".jsonl.gz", "verdicts": ".jsonl.gz", "samples": ".jsonl", "quarantine": ".jsonl"}
    return {kind: root / kind / f"{task.name}{suffix}" for kind, suffix in suffixes.items()}


def manifest_path(task: FileTask) -> Path:
    """Where the manifest stands."""
    return Path(task.output) / "manifests" / f"{task.name}.json"


def process_file(
    task: FileTask,
    steps: Sequence[Step],
    *,
    skip: Mapping[int, str] | None = None,
    stop: tuple[int, str] | None = None,
    watch: Watch = lambda ordinal: None,
) -> dict[str, Any]:
    """Work through one file; returns its manifest.

    Args:
        task: what to read and where to write.
        steps: built from the same configuration.
        skip: ordinal of a record (counted as handed out by the reader) -> why it is set aside unread.
        stop: (ordinal, why): give up the rest of the file there.
        watch: called with each ordinal before its record is read.

    Raises:
        UnreadableFileError: the input is no crawl file, or reading it fails.
        OSError: an output cannot be written (a full disk).
        ImportError: a step needs a package that is missing.
    """
    started = time.perf_counter(), time.process_time()
    reading = ReadingConfig(**task.config["reading"])
    tally = _Tally({label: Counter() for label in ("extract", *(step.label for step in steps))})
    with ExitStack() as stack:
        outputs = _Outputs(task, stack)
        for ordinal, found in enumerate(_documents(task.path, reading, tally, watch)):
            if stop is not None and ordinal >= stop[0]:
                outputs.set_aside(ordinal=ordinal, reason="rest_of_file", detail=stop[1])
                break
            why = (skip or {}).get(ordinal)
            outcome, detail = _judge(found, steps, tally) if why is None else _skip(why, tally)
            outputs.record(found, outcome)
            if detail:
                outputs.set_aside(id=found.identity, url=found.url, ordinal=ordinal, step=outcome[0],
                                  reason=outcome[1], detail=detail)  # fmt: skip
            if found.document is not None and outcome[0] == "kept":
                tally.characters += len(found.document.text)
        for reason, count in sorted(tally.reader.items()):
            outputs.set_aside(reason=reason, records=count)
        outputs.write_samples()
    manifest = _manifest(task, tally, started, stop)
    write_json(manifest_path(task), manifest)
    return manifest


class _Outputs:
    """The files of a task; they appear whole when `stack` is left without an error."""

    def __init__(self, task: FileTask, stack: ExitStack) -> None:
        self._config, self._paths = task.config, output_paths(task)
        self._keep, self._verdict, self._quarantine = (
            stack.enter_context(write_lines(self._paths[kind])) for kind in ("filtered", "verdicts", "quarantine")
        )
        self._samples: dict[str, BottomK] = {}

    def write_samples(self) -> None:
        """Write what was drawn."""
        with write_lines(self._paths["samples"]) as write:
            for label in sorted(self._samples):
                for sample in self._samples[label].items():
                    write(json_line(sample))

    def record(self, found: _Found, outcome: tuple[str, str]) -> None:
        """Write a record's verdict and, if it is kept, its document; consider it as a sample."""
        step, reason = outcome
        scores = _scores(found.document)
        self._verdict(
            json_line({"id": found.identity, "url": found.url, "step": step, "reason": reason, "scores": scores})
        )
        document = found.document
        if document is None:
            return
        label = "kept" if step == "kept" else f"{step}: {reason}"
        if label not in self._samples:
            self._samples[label] = BottomK(self._config["samples"], seed=self._config["seed"])
        self._samples[label].offer(document.id, lambda: _sample(document, label))
        if step == "kept":
            self._keep(to_line(document))

    def set_aside(self, **facts: Any) -> None:
        """Note what could not be worked on."""
        self._quarantine(json_line(facts))


def _skip(why: str, tally: _Tally) -> tuple[tuple[str, str], str]:
    """The verdict on a record at which workers died."""
    tally.funnel["extract"]["in"] += 1
    tally.funnel["extract"][why] += 1
    return ("extract", why), why


@dataclass
class _Found:
    """Something the reader handed out; `load` makes a document of it or says why not."""

    identity: str
    url: str
    load: Callable[[], Document | str]
    document: Document | None = None


def _documents(path: str, reading: ReadingConfig, tally: _Tally, watch: Watch) -> Iterator[_Found]:
    """What the input holds, one at a time; any failure to read it is an UnreadableFileError."""
    source = _lines(path) if is_document_file(path) else _records(path, reading, tally)
    ordinal = 0
    while True:
        watch(ordinal)
        began = time.thread_time()
        try:
            found = next(source, None)
        except (OSError, ValueError, EOFError) as error:
            raise UnreadableFileError(str(error)) from error
        tally.spend("read", began)
        if found is None:
            return
        yield found
        ordinal += 1


def _records(path: str, reading: ReadingConfig, tally: _Tally) -> Iterator[_Found]:
    limit = reading.max_page_bytes + 100_000  # headers come on top
    for record in read_records(path, counts=tally.reader, max_record_bytes=limit):

        def load(record: Any = record) -> Document | str:
            return record_to_document(record, method=reading.extractor, max_page_bytes=reading.max_page_bytes)

        yield _Found(record.record_id, record.url, load)


def _lines(path: str) -> Iterator[_Found]:
    for number, line in enumerate(read_lines(path), 1):

        def load(line: bytes = line, number: int = number) -> Document | str:
            return from_line(line, path=path, number=number)

        try:
            document = from_line(line, path=path, number=number)
            yield _Found(document.id, document.url, functools.partial(_same, document))
        except ValueError:
            yield _Found(f"{Path(path).name}:{number}", "", load)  # which will say what is wrong with the line


def _same(document: Document) -> Document:
    """What was loaded already."""
    return document


def _judge(found: _Found, steps: Sequence[Step], tally: _Tally) -> tuple[tuple[str, str], str]:
    """((step, reason) or ("kept", ""), what went wrong if something did)."""
    label = "extract"
    try:
        clock = time.thread_time()
        tally.funnel[label]["in"] += 1
        loaded = found.load()
        clock = tally.spend(label, clock)
        if isinstance(loaded, str):
            tally.funnel[label][loaded] += 1
            return (label, loaded), ""
        found.document = loaded
        tally.funnel[label]["out"] += 1
        for step in steps:
            label = step.label
            tally.funnel[label]["in"] += 1
            reason = _apply(step, found)
            clock = tally.spend(label, clock)
            _note(step, found.document, tally)
            tally.funnel[label][reason or "out"] += 1
            if reason is not None:
                return (label, reason), ""
    except (ImportError, OSError):
        raise  # of the machine, not of this document
    except MemoryError:
        reason, detail = "memory_limit", "the document needs more memory than limits.document_memory_mb"
    except Exception as error:
        reason, detail = "error", f"{type(error).__name__}: {error}"[:500]
    else:
        return ("kept", ""), ""
    tally.funnel[label][reason] += 1
    return (label, reason), detail


def _apply(step: Step, found: _Found) -> str | None:
    assert found.document is not None
    if step.kind == "filter":
        return step.apply(found.document)
    found.document = step.apply(found.document)
    return None


def _scores(document: Document | None) -> dict[str, float]:
    """The numbers by which filters judged, for threshold sweeps."""
    facts = {} if document is None else document.metadata
    return {key: round(value, 4) for key, value in facts.items() if key.endswith("_score") and isinstance(value, float)}


def _note(step: Step, document: Document, tally: _Tally) -> None:
    """Keep the score for the threshold sweep, the model's name, and what was masked."""
    facts = document.metadata
    score = facts.get(step.score)
    if isinstance(score, (int, float)):
        bins = tally.histograms.setdefault(step.score, [0] * SCORE_BINS)
        bins[min(SCORE_BINS - 1, max(0, int(score * SCORE_BINS)))] += 1
        kind = step.score.removesuffix("_score")
        tally.models[kind] = str(facts.get(f"{kind}_model", ""))
    pii = facts.get("pii")
    if step.kind == "transform" and isinstance(pii, dict):
        tally.masked.update(pii)


def _sample(document: Document, label: str) -> dict[str, Any]:
    """What people get to see of a document."""
    shown = document.text[:_SAMPLE_CHARACTERS]
    return {"verdict": label, "id": document.id, "url": document.url, "text": shown, "metadata": document.metadata}


def _manifest(
    task: FileTask, tally: _Tally, started: tuple[float, float], stop: tuple[int, str] | None
) -> dict[str, Any]:
    root = Path(task.output)
    outputs = {
        path.relative_to(root).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in output_paths(task).values()
    }
    return {
        "format": FORMAT, "status": "done", "fingerprint": task.fingerprint,
        "input": {"path": task.path, "bytes": os.path.getsize(task.path), "sha256": file_sha256(Path(task.path))},
        "given_up_at": None if stop is None else {"ordinal": stop[0], "why": stop[1]},
        "reader": dict(sorted(tally.reader.items())),
        "funnel": {label: dict(sorted(counts.items())) for label, counts in tally.funnel.items()},
        "characters": tally.characters, "masked": dict(sorted(tally.masked.items())),
        "models": dict(sorted(tally.models.items())), "histograms": tally.histograms, "outputs": outputs,
        "measured": {
            "wall_s": round(time.perf_counter() - started[0], 3), "cpu_s": round(time.process_time() - started[1], 3),
            "host": socket.gethostname(), "steps_s": {k: round(v, 4) for k, v in tally.seconds.items()},
        },
    }  # fmt: skip
