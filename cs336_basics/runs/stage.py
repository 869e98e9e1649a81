"""Stages: a long job cut into named parts that make files and tell about them in a report.

A stage has three plain parts: options (a frozen dataclass), `run`, which makes files, and `section`, which reads these
files and nothing else. `run_stages` goes through a list of them in a run directory:

    for each stage:   run it, unless its outputs are there and whole;   write the report of all stages so far

A stage owns the folder of its own name and writes nowhere else; it reads the files of earlier stages that it names as
inputs. Its marker, `stages/<name>.json`, is begun before and finished after the run:

    fingerprint   hash of the version, the options and the input files
    outputs       size and SHA-256 of each output, written last

A stage with a fitting fingerprint but without outputs was interrupted: `run` goes on from what it finds. One whose
fingerprint or outputs no longer fit is stale or damaged: its folder is removed and it starts afresh. So a job killed at
any moment goes on where it was, one with a lost file repairs itself, and a report of what is done is there from the
first stage on.

Left out: stages side by side. Read next: `report.py`; `cs336_course/tour.py`, which lists the stages of the tour.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.config import config_to_dict
from cs336_basics.runs.report import Paragraph, Report, Section, write_report

FREE_OPTIONS = frozenset({"device"})
"""Options that say where work is done, not what comes out: changing them does not make a stage stale."""


@dataclass(frozen=True)
class Stage:
    """One part of a job; see the module docstring."""

    name: str
    """short and unique; also the name of the stage's folder"""
    title: str
    """what it does, for the progress line"""
    options: Any
    """frozen dataclass that is handed to `run`"""
    inputs: tuple[str, ...]
    """files of earlier stages it depends on, relative to the job's directory"""
    outputs: tuple[str, ...]
    """files it makes, relative to the job's directory, all in the folder `name`"""
    run: Callable[[Path, Any], None]
    """makes the outputs from (job's directory, options); goes on from what an interrupted run has left"""
    section: Callable[[Path], Section]
    """tells about the outputs, from files in the job's directory alone"""
    version: int = 1
    """raised when `run` comes to make other outputs than it did, so that those of old are stale"""

    def __post_init__(self) -> None:
        strange = [path for path in self.outputs if not path.startswith(f"{self.name}/")]
        if strange or not self.outputs:
            raise ValueError(f"stage {self.name!r} needs outputs in its own folder {self.name}/; got {strange}")


def run_stages(
    stages: Sequence[Stage],
    directory: Path,
    *,
    title: str,
    introduction: str = "",
    say: Callable[[str], None] | None = None,
) -> tuple[Report, list[str]]:
    """Run what is not done yet, writing report.html and report.md after each stage.

    Args:
        stages: in order; their names are distinct.
        directory: where they work; the caller holds its lock (see `RunDirectory`).
        title: the report's title.
        introduction: Markdown at its beginning.
        say: takes a line of progress; prints to standard error by default.

    Returns:
        The report, and the names of the stages that ran.

    Raises:
        ValueError: two stages share a name. FileNotFoundError: an input is missing. RuntimeError: a stage ended
        without one of its outputs. Otherwise whatever a stage raises; what is done stays done.
    """
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise ValueError(f"stages need distinct names; got {names}")
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    report, ran, started = Report(title, [Paragraph(introduction)] if introduction else []), [], time.monotonic()
    for number, stage in enumerate(stages, start=1):
        prefix = f"[{number}/{len(stages)}] {stage.title}"
        if is_done(stage, directory):
            say(f"{prefix}: already done")
        else:
            say(f"{prefix} ...")
            _run(stage, directory)
            ran.append(stage.name)
            say(f"{prefix}: done after {time.monotonic() - started:.0f} s in all")
        report.add(stage.section(directory))
        write_report(report, directory)
    return report, ran


def is_done(stage: Stage, directory: Path) -> bool:
    """Whether the stage was finished with these options and inputs, and its outputs are as it left them."""
    marker = _read_marker(stage, directory)
    outputs = marker.get("outputs", {})
    return (
        marker.get("fingerprint") == _fingerprint(stage, directory)
        and outputs.keys() == set(stage.outputs)
        and all((directory / path).is_file() for path in outputs)
        and all(_describe(directory / path) == description for path, description in outputs.items())
    )


def _run(stage: Stage, directory: Path) -> None:
    """Run one stage between the two writings of its marker."""
    fingerprint, former = _fingerprint(stage, directory), _read_marker(stage, directory)
    resumes = former.get("fingerprint") == fingerprint and "outputs" not in former
    if not resumes and (directory / stage.name).exists():
        shutil.rmtree(directory / stage.name)
    marker = {"fingerprint": fingerprint}
    write_json(_marker_path(stage, directory), marker)
    started = time.monotonic()
    stage.run(directory, stage.options)
    missing = [path for path in stage.outputs if not (directory / path).is_file()]
    if missing:
        raise RuntimeError(f"stage {stage.name!r} ended without its outputs {missing}")
    outputs = {path: _describe(directory / path) for path in stage.outputs}
    seconds = round(time.monotonic() - started, 1)
    write_json(_marker_path(stage, directory), {**marker, "seconds": seconds, "outputs": outputs})


def _fingerprint(stage: Stage, directory: Path) -> str:
    """Hash of what the outputs depend on."""
    options = {key: value for key, value in config_to_dict(stage.options).items() if key not in FREE_OPTIONS}
    inputs = {}
    for path in stage.inputs:
        if not (directory / path).is_file():
            raise FileNotFoundError(
                f"stage {stage.name!r} reads {directory / path}, which is missing; put the stage that makes it before"
            )
        inputs[path] = _describe(directory / path)
    return hashlib.sha256(json.dumps([stage.version, options, inputs], sort_keys=True).encode()).hexdigest()


def _describe(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _marker_path(stage: Stage, directory: Path) -> Path:
    return directory / "stages" / f"{stage.name}.json"


def _read_marker(stage: Stage, directory: Path) -> dict[str, Any]:
    """The marker; empty when the stage never began."""
    path = _marker_path(stage, directory)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
