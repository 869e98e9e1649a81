"""`cs336 grade ...`: one submission, a folder of them, the Gradescope zip, and the grader's test of itself.

Exit codes: 0 full marks, 1 points lost or not gradable, 2 wrong arguments, 3 the grader's own fault (never a student's
zero). The secret that the hidden inputs grow from comes from CS336_GRADING_SECRET or a file. Read next: `judge.py`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cs336_basics.runs.atomic import atomic_write
from cs336_basics.runs.command_line import parse, print_result

if TYPE_CHECKING:
    from cs336_course.grading.report import GradeReport
    from cs336_course.grading.suite import Suite

Assignment = Literal["basics", "systems", "scaling", "data", "alignment"]
Format = Literal["text", "json", "html", "gradescope", "classroom", "prairielearn", "junit"]
Tier = Literal["auto", "container", "namespace", "process"]
Edition = Literal["all", "2024", "2025", "2026"]
DEFAULT_SECRET = "cs336"


@dataclass(frozen=True)
class _Grading:
    """What both grading verbs need."""

    only: tuple[str, ...] = ()
    """problem slugs; all by default"""
    edition: Edition = "all"
    """problems of this edition only, where editions differ (alignment)"""
    secret_file: Path | None = None
    """file with the secret of the hidden inputs; else CS336_GRADING_SECRET, else a public default for practice"""
    term: str = "0"
    """part of the seed: new inputs for each term"""
    isolation: Tier = "auto"
    """how student code is locked in; auto takes the strongest that works here"""
    timeout_per_test: float = 30.0
    """seconds of wall clock per case"""
    mem: int = 2048
    """megabytes per problem"""
    diagnose: bool = True
    """name the misconception that a wrong answer looks like"""


@dataclass(frozen=True)
class Grade(_Grading):
    """Grade one submission with the hidden suite: student code runs locked in, answers are judged outside.

    Beside it: `cs336 grade batch` for a folder of submissions, `grade gradescope-zip`, `grade selftest`.
    """

    submission: Path = Path(".")
    """folder or zip file with the package and tests/adapters.py"""
    format: Format = "text"
    """text is for a terminal, json for staff, the others for students and platforms"""
    out: Path | None = None
    """write the result to this file instead of standard output"""


@dataclass(frozen=True)
class Batch(_Grading):
    """Grade every zip file and folder in a folder; writes reports/NAME.json and grades.csv."""

    submissions: Path = Path("submissions")
    """folder with one zip file or folder per submission"""
    out: Path = Path("grades")
    """folder for the results"""
    jobs: int = 1
    """submissions graded at the same time"""
    resume: bool = False
    """keep the finished reports in --out and go on"""


@dataclass(frozen=True)
class GradescopeZip:
    """Write the zip that Gradescope's autograder page takes. It holds the hidden suite: staff only."""

    out: Path = Path("autograder.zip")
    """the zip file"""
    secret_file: Path | None = None
    """file with the secret; else CS336_GRADING_SECRET"""
    term: str = "0"
    """part of the seed"""
    edition: Edition = "all"
    """problems of this edition only, where editions differ"""


@dataclass(frozen=True)
class Selftest:
    """The reference gets full marks, empty adapters none, and every known misconception loses its problem (minutes)."""

    only: tuple[str, ...] = ()
    """problem slugs; all by default"""
    sample: int | None = None
    """so many misconceptions, drawn by a fixed seed; all by default"""
    json: bool = False
    """print the result for machines"""


def grade(argv: list[str]) -> None:
    """`cs336 grade ASSIGNMENT`."""
    assignment, rest = _assignment(argv, "grade")
    options = parse(
        Grade, rest, f"grade {assignment}", example="grade basics --submission code.zip --format html --out report.html"
    )
    from cs336_course.grading.formats import FORMATS

    def run() -> bool:
        report = _grader(assignment, options, show=True)(options.submission, None)
        text = FORMATS[options.format](report)
        if options.out is None:
            print(text, end="")
        else:
            with atomic_write(options.out, "w") as file:
                file.write(text)
            print(f"{report.score:g} of {report.max_score:g} points, written to {options.out}", file=sys.stderr)
        return report.gradable and report.score == report.max_score

    _finish(run)


def batch(argv: list[str]) -> None:
    """`cs336 grade batch ASSIGNMENT`."""
    assignment, rest = _assignment(argv, "grade batch")
    options = parse(
        Batch, rest, f"grade batch {assignment}", example="grade batch basics --submissions inbox --out grades --resume"
    )
    from cs336_course.grading.batch import find_submissions, grade_batch

    if options.jobs < 1:
        raise ValueError(f"--jobs must be at least 1; got {options.jobs}")
    submissions = find_submissions(options.submissions)

    def told(submission: Path, report: object, before: bool) -> None:
        score = f"{report.score:g} of {report.max_score:g}" if report.gradable else report.message  # type: ignore[attr-defined]
        print(f"{submission.name}: {score}{' (from before)' if before else ''}", file=sys.stderr, flush=True)

    def run() -> bool:
        suite = _suite(assignment, options)
        reports = grade_batch(
            submissions,
            options.out,
            _grader(assignment, options, show=False),
            jobs=options.jobs,
            resume=options.resume,
            suite_sha256=suite.sha256,
            progress=told,
        )
        graded = [report for report in reports if report.gradable]
        mean = sum(report.score for report in graded) / max(1, len(graded))
        values = {"submissions": len(reports), "graded": len(graded), "mean_score": mean}
        print_result({**values, "table": str(options.out / "grades.csv")}, as_json=False)
        return True

    _finish(run)


def gradescope_zip(argv: list[str]) -> None:
    """`cs336 grade gradescope-zip ASSIGNMENT`."""
    assignment, rest = _assignment(argv, "grade gradescope-zip")
    options = parse(
        GradescopeZip,
        rest,
        f"grade gradescope-zip {assignment}",
        example="grade gradescope-zip basics --out autograder.zip",
    )
    from cs336_course.grading.autograder import write_autograder

    secret = _secret(options.secret_file).decode()
    if secret == DEFAULT_SECRET:
        raise ValueError("a Gradescope zip needs a secret of your own: set CS336_GRADING_SECRET or give --secret-file")
    files = write_autograder(assignment, options.out, secret=secret, term=options.term, edition=options.edition)
    print_result({"zip": str(options.out), "files": len(files), "keep_secret": "holds the hidden suite"}, as_json=False)


def selftest(argv: list[str]) -> None:
    """`cs336 grade selftest ASSIGNMENT`."""
    assignment, rest = _assignment(argv, "grade selftest")
    options = parse(Selftest, rest, f"grade selftest {assignment}", example="grade selftest basics --only rope softmax")
    from cs336_course.misconceptions.selftest import run_selftest

    def run() -> bool:
        result = run_selftest(assignment, only=list(options.only), sample=options.sample, progress=_show_slug)
        print_result(result.summary(), as_json=options.json)
        return result.passed

    _finish(run)


def _show_slug(slug: str) -> None:
    print(f"  {slug}", file=sys.stderr, flush=True)


def _suite(assignment: str, options: _Grading) -> Suite:
    """The hidden suite that the options ask for."""
    from cs336_course.grading.suite import load_suite

    secret = _secret(options.secret_file)
    return load_suite(assignment, secret=secret, term=options.term, only=list(options.only), edition=options.edition)


def _grader(assignment: str, options: _Grading, *, show: bool) -> Callable[[Path, Path | None], GradeReport]:
    """Function (submission, file for the growing report) with the options filled in."""
    from cs336_course.grading.client import Limits
    from cs336_course.grading.isolation import choose_tier
    from cs336_course.grading.judge import grade as grade_one

    suite = _suite(assignment, options)
    tier = choose_tier(options.isolation)
    if tier == "process":
        print("warning: isolation `process` protects from accidents, not from malice", file=sys.stderr)
    limits = Limits(case_s=options.timeout_per_test, memory_mb=options.mem)
    from cs336_course.misconceptions.diagnosis import diagnose

    progress = _show_slug if show else None
    return lambda submission, out: grade_one(
        submission,
        suite,
        tier=tier,
        limits=limits,
        out=out,
        diagnose=diagnose if options.diagnose else None,
        progress=progress,
    )


def _assignment(argv: list[str], verb: str) -> tuple[str, list[str]]:
    """The first argument, which names the assignment; help and errors are the parser's."""
    names = Assignment.__args__  # type: ignore[attr-defined]
    if argv and argv[0] in names:
        return argv[0], argv[1:]
    if argv and argv[0] in ("-h", "--help"):
        return "basics", argv
    given = f"got {argv[0]!r}" if argv else "got nothing"
    print(f"error: cs336 {verb} needs an assignment ({', '.join(names)}); {given}", file=sys.stderr)
    raise SystemExit(2)


def _secret(file: Path | None) -> bytes:
    if file is not None:
        text = file.read_text(encoding="utf-8").strip()
        if not text:
            raise ValueError(f"{file} is empty; it must hold the secret")
        return text.encode()
    return os.environ.get("CS336_GRADING_SECRET", DEFAULT_SECRET).encode()


def _finish(run: Callable[[], bool]) -> None:
    """Exit 0 or 1 by the result; a fault of the grader is told with its traceback and exits 3."""
    try:
        good = run()
    except (ValueError, FileNotFoundError):
        raise  # the caller's arguments
    except Exception:
        traceback.print_exc()
        print("error: the grader's own fault; no score was made", file=sys.stderr)
        raise SystemExit(3) from None
    raise SystemExit(0 if good else 1)
