"""A whole run: files through an executor, then the steps over the corpus, tokens, funnel, report and dataset card.

    config.json manifest.json log.jsonl summary.json        as of every run (`runs/directory.py`)
    filtered/ verdicts/ samples/ quarantine/ manifests/     per input file (`file_task.py`)
    corpus/ documents/                                      steps over all documents, and their result
    tokens/                                                 with a tokenizer: a token file per document file
    funnel.json report.html report.md dataset_card.md

Everything appears whole or not at all, and the same command goes on after a kill at any moment: a file whose manifest
fits its outputs is done, any other is worked on again. The result depends on inputs and configuration alone, not on
executor, number of workers or interruptions. Handout: `filter_data`. Read next: `file_task.py`, `executors.py`.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cs336_basics.corpora.corpus_files import file_sha256
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.config import config_to_dict
from cs336_basics.runs.directory import RunDirectory
from cs336_data.corpus_steps import run_corpus_steps
from cs336_data.document_files import SUFFIXES
from cs336_data.executors import Outcome, run_tasks
from cs336_data.file_task import FORMAT, FileTask, manifest_path, output_paths
from cs336_data.funnel import build_funnel
from cs336_data.pipeline_config import PipelineConfig
from cs336_data.steps import build_steps

Say = Callable[[str], None]
_SMALL_CORPUS_BYTES = 16 << 20
_ENDINGS = (*SUFFIXES, ".warc.wet.gz", ".warc.gz", ".wet.gz", ".warc", ".wet", ".gz")


def run_pipeline(config: PipelineConfig, directory: Path, *, progress: bool = True) -> dict[str, Any]:
    """Run a pipeline, or go on with the run in `directory`; a complete run returns its summary at once.

    Files that have come or gone since are noticed.

    Args:
        config: what to do; must equal the stored one when going on (`execution` may differ).
        directory: the run's folder, in which no input may lie.
        progress: say on standard error what is going on.

    Returns:
        The summary: files, records, documents, characters, tokens, seconds, pages per CPU second.

    Raises:
        FileNotFoundError: a pattern of `inputs` matches nothing.
        ValueError: an input lies in the output directory; the directory holds another run; wrong options of a step.
        WorkerError: the run cannot go on (disk full, package missing); the same call later goes on.
        AlreadyLockedError: the run is going on in another process.
    """
    paths = find_inputs(config.inputs, directory)
    build_steps(config.steps)  # a wrong option shows before any work
    with RunDirectory.create_or_resume(directory, config, kind="data", changeable=("execution",)) as run:
        tasks = make_tasks(config, paths, directory)
        if run.is_complete and _covers(directory, tasks):
            return run.summary()
        _remove_partial_files(directory)
        _forget_other_files(directory, tasks)
        started = time.perf_counter()
        failures = _run_files(config, tasks, run, progress=progress)
        _remove_partial_files(directory)
        finished = [task for task in tasks if task.name not in failures]
        manifests = [_read(manifest_path(task)) for task in finished]
        if not manifests:
            raise ValueError(
                f"none of the {len(tasks)} input files could be read; the first: {next(iter(failures.values()))}"
            )
        filtered = [output_paths(task)["filtered"] for task in finished]
        corpus = run_corpus_steps(
            config.corpus_steps, filtered, directory, num_processes=_processes(config, filtered),
            say=_speaker(progress),
        )  # fmt: skip
        tokens = _tokenize(config, directory, progress)
        write_json(directory / "funnel.json", [asdict(row) for row in build_funnel(manifests, corpus)])
        summary = _summary(manifests, corpus, failures, tokens, time.perf_counter() - started)
        _describe(config, directory, summary)
        run.finish(summary)
        return summary


def find_inputs(patterns: Sequence[str], directory: Path) -> list[Path]:
    """All input files, sorted and distinct.

    Raises:
        FileNotFoundError: a pattern without a file. ValueError: a file inside `directory`.
    """
    found: set[Path] = set()
    for pattern in patterns:
        literal = Path(pattern)
        matches = [literal] if literal.exists() else [Path(name) for name in glob.glob(pattern, recursive=True)]
        files = [path for path in matches if path.is_file()]
        if not files:
            raise FileNotFoundError(f"no input file matches {pattern!r} (looked from {Path.cwd()})")
        found.update(files)
    root = directory.resolve()
    for path in sorted(found):
        if root == path.resolve() or root in path.resolve().parents:
            raise ValueError(f"input {path} lies in the output directory {directory}; choose another output directory")
    return sorted(found)


def make_tasks(config: PipelineConfig, paths: Sequence[Path], directory: Path) -> list[FileTask]:
    """One task per file, named as the file is; files of the same name get a part of a hash."""
    stems = [_stem(path.name) for path in paths]
    values, fingerprint = config_to_dict(config), config.fingerprint()
    tasks = []
    for path, stem in zip(paths, stems, strict=True):
        unique = stem if stems.count(stem) == 1 else f"{stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        tasks.append(FileTask(str(path.absolute()), unique, str(directory.absolute()), values, fingerprint))
    return tasks


def finished_manifest(task: FileTask) -> dict[str, Any] | None:
    """The manifest of a file that is done, if the file, the configuration and all outputs are still the same."""
    try:
        manifest = _read(manifest_path(task))
        fits = manifest["format"] == FORMAT and manifest["fingerprint"] == task.fingerprint
        if not fits or manifest["input"]["bytes"] != os.path.getsize(task.path):
            return None
        for name, facts in manifest["outputs"].items():
            if file_sha256(Path(task.output) / name) != facts["sha256"]:
                return None
    except (OSError, ValueError, KeyError):
        return None
    return manifest


def _covers(directory: Path, tasks: Sequence[FileTask]) -> bool:
    """Whether a complete run is one of these very files: none has come or gone since."""
    known = {path.stem for path in (directory / "manifests").glob("*.json")}
    return known | _read(directory / "quarantine" / "files.json").keys() == {task.name for task in tasks}


def _forget_other_files(directory: Path, tasks: Sequence[FileTask]) -> None:
    """Drop the outputs of files that are inputs no more."""
    names = {task.name for task in tasks}
    for path in (directory / "manifests").glob("*.json"):
        if path.stem not in names:
            former = replace(tasks[0], name=path.stem)
            for output in (*output_paths(former).values(), path):
                output.unlink(missing_ok=True)


def _remove_partial_files(directory: Path) -> None:
    """What killed processes left; we hold the run's lock, and no worker of ours is at work."""
    for partial in directory.rglob(".*.partial"):
        partial.unlink(missing_ok=True)


def _run_files(
    config: PipelineConfig, tasks: Sequence[FileTask], run: RunDirectory, *, progress: bool
) -> dict[str, str]:
    """Work through the files that are not done; returns name -> error of those that cannot be read."""
    say = _speaker(progress)
    todo = [task for task in tasks if finished_manifest(task) is None]
    if len(todo) < len(tasks):
        say(f"{len(tasks) - len(todo)} of {len(tasks)} files are done already")
    failures: dict[str, str] = {}
    for outcome in _with_progress(config, todo, run.path, progress):
        if outcome.manifest is None:
            failures[outcome.task.name] = f"{outcome.task.path}: {outcome.error}"
            say(f"cannot use {outcome.task.path}: {outcome.error}")
        measured = (outcome.manifest or {}).get("measured", {})
        run.append_log({"file": outcome.task.name, "error": outcome.error or None, **_flat(measured)})
    write_json(run.path / "quarantine" / "files.json", dict(sorted(failures.items())))
    return failures


def _with_progress(
    config: PipelineConfig, tasks: Sequence[FileTask], output: Path, progress: bool
) -> Iterator[Outcome]:
    """The outcomes, with a bar of files and a count of records on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("files"),
        TextColumn("{task.fields[note]}"), TimeElapsedColumn(), console=Console(stderr=True), disable=not progress,
    )  # fmt: skip
    done = 0
    with bars:
        bar = bars.add_task("filtering", total=len(tasks), note="")

        def tick(records: int) -> None:
            bars.update(bar, note=f"{done + records:,} records")

        for outcome in run_tasks(tasks, config.execution, config.limits, output=output, tick=tick):
            done += sum(row.get("in", 0) for row in [(outcome.manifest or {}).get("funnel", {}).get("extract", {})])
            bars.update(bar, advance=1, note=f"{done:,} records")
            yield outcome


def _tokenize(config: PipelineConfig, directory: Path, progress: bool) -> int | None:
    """Write token files if a tokenizer is given; returns the number of tokens."""
    if config.tokenizer is None:
        return None
    from cs336_basics.tokenization.tokenizer import Tokenizer
    from cs336_data.tokenize_corpus import tokenize_files

    _speaker(progress)("tokenizing ...")
    files = sorted((directory / "documents").glob("*.jsonl.gz"))
    written = tokenize_files(
        files, directory / "tokens", Tokenizer.load(config.tokenizer), num_processes=_processes(config, files)
    )
    return written.tokens


def _processes(config: PipelineConfig, files: Sequence[Path]) -> int:
    """Processes for a step over the corpus; a small one is done sooner than others start."""
    if sum(path.stat().st_size for path in files) < _SMALL_CORPUS_BYTES:
        return 1
    return config.execution.workers or os.cpu_count() or 1


def _summary(
    manifests: Sequence[dict[str, Any]], corpus: Sequence[dict[str, Any]], failures: dict[str, str],
    tokens: int | None, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    rows = build_funnel(manifests, corpus)
    cpu = sum(manifest["measured"]["cpu_s"] for manifest in manifests)
    pages = sum(manifest["funnel"]["extract"].get("in", 0) for manifest in manifests)
    return {
        "files": len(manifests), "unreadable_files": len(failures), "records": rows[0].came,
        "filtered": rows[len(rows) - len(corpus) - 1].left,
        "documents": rows[-1].left, "characters": sum(manifest["characters"] for manifest in manifests),
        "tokens": tokens, "seconds": round(seconds, 2), "cpu_seconds_of_files": round(cpu, 2),
        "pages_per_cpu_second": round(pages / cpu, 1) if cpu else None,
    }  # fmt: skip


def _describe(config: PipelineConfig, directory: Path, summary: dict[str, Any]) -> None:
    """Dataset card and report, with what is known of the truth."""
    from cs336_data.dataset_card import write_dataset_card
    from cs336_data.report import write_pipeline_report
    from cs336_data.report_truth import truth_section
    from cs336_data.truth import measure_run

    write_dataset_card(config, directory)
    section = None
    if config.truth is not None:
        measured = measure_run(directory, config.truth)
        write_json(directory / "truth.json", measured)
        section = truth_section(measured)
    write_pipeline_report(directory, summary, truth=section)


def _stem(name: str) -> str:
    """The file's name without what says how it is packed."""
    return next((name.removesuffix(ending) for ending in _ENDINGS if name.endswith(ending)), name)


def _flat(measured: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in measured.items() if not isinstance(value, dict)}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _speaker(enabled: bool) -> Say:
    return (lambda line: print(line, file=sys.stderr, flush=True)) if enabled else (lambda line: None)
