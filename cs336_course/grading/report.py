"""The result of grading one submission: plain data with a published schema, from which every other format is made.

A report is written as "not gradable" before anything runs and replaced atomically after each problem, so that there is
a true result whatever happens. `schema.json` beside this file is its JSON Schema. Read next: `formats.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import write_json
from cs336_course.grading.staging import Flag

SCHEMA = "cs336-grade-report-1"
STATUSES = ("passed", "failed", "error", "timeout", "not_run")


@dataclass
class CaseResult:
    """One case: what was tested and how it went."""

    id: str
    status: str
    property: str
    message: str = ""
    """for the student: the property and the kind of mistake, never a hidden input"""
    detail: str = ""
    """for staff: the text of an exception, which may quote the input"""
    diagnosis: str = ""
    wall_s: float = 0.0


@dataclass
class SlugResult:
    """One problem; its points are given when every case passes."""

    slug: str
    max_points: float
    points: float = 0.0
    peak_mb: float = 0.0
    visibility: str = "visible"
    cases: list[CaseResult] = field(default_factory=list)

    @property
    def status(self) -> str:
        """The worst status of its cases."""
        return max((case.status for case in self.cases), key=STATUSES.index, default="not_run")


@dataclass
class GradeReport:
    """All that is known about one submission."""

    assignment: str
    submission: str
    submission_sha256: str = ""
    suite_sha256: str = ""
    schema: str = SCHEMA
    grader_version: str = ""
    isolation_tier: str = ""
    machine: str = ""
    started: str = ""
    wall_s: float = 0.0
    gradable: bool = False
    message: str = "grading has not finished"
    score: float = 0.0
    max_score: float = 0.0
    slugs: list[SlugResult] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)

    def write(self, path: Path | None) -> None:
        """Replace the report's file."""
        if path is not None:
            write_json(path, asdict(self))


def read_report(path: Path) -> GradeReport:
    """A report from its file.

    Raises:
        ValueError: not a report of this schema.
    """
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a grade report: {error}") from error


def from_dict(values: dict[str, Any]) -> GradeReport:
    """The inverse of `dataclasses.asdict`."""
    if values.get("schema") != SCHEMA:
        raise ValueError(f"a grade report has the schema {SCHEMA!r}; got {values.get('schema')!r}")
    slugs = [
        SlugResult(**{**slug, "cases": [CaseResult(**case) for case in slug["cases"]]}) for slug in values["slugs"]
    ]
    return GradeReport(**{**values, "slugs": slugs, "flags": [Flag(**flag) for flag in values["flags"]]})
