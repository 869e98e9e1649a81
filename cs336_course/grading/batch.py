"""Grade a folder of submissions and write a table; a batch that was killed goes on where it stopped.

Each submission's report is a file of its own, `reports/NAME.json`, moved into place only when it is finished. So what
is there is done, what is not there is to do, and nothing is lost or counted twice. Read next: `judge.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from cs336_basics.runs.atomic import atomic_write
from cs336_course.grading.report import GradeReport, read_report


def find_submissions(folder: Path) -> list[Path]:
    """Zip files and folders directly inside `folder`, by name."""
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; give the folder that holds one zip file or folder per submission")
    found = sorted(path for path in folder.iterdir() if path.suffix == ".zip" or path.is_dir())
    names = [path.stem if path.suffix == ".zip" else path.name for path in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two submissions are called {twice[0]!r}; rename one")
    if not found:
        raise ValueError(f"no zip file or folder in {folder}")
    return found


def grade_batch(
    submissions: list[Path],
    out: Path,
    grade_one: Callable[[Path, Path], GradeReport],
    *,
    jobs: int = 1,
    resume: bool = False,
    suite_sha256: str = "",
    progress: Callable[[Path, GradeReport, bool], None] | None = None,
) -> list[GradeReport]:
    """Reports in the order of `submissions`; `grade_one(submission, file)` makes one.

    Args:
        out: folder for `reports/` and `grades.csv`.
        jobs: submissions graded at a time.
        resume: keep finished reports of the same suite.
        progress: told each report, and whether it was there before.

    Raises:
        ValueError: reports are there and `resume` is not given.
    """
    folder = out / "reports"
    if not resume and any(folder.glob("*.json")):
        raise ValueError(f"{folder} holds reports; add --resume to go on with them, or choose another --out")
    done: dict[Path, GradeReport] = {}
    for submission in submissions:
        file = folder / f"{_name(submission)}.json"
        if file.is_file() and (report := read_report(file)).suite_sha256 == suite_sha256:
            done[submission] = report
            if progress is not None:
                progress(submission, report, True)

    def one(submission: Path) -> GradeReport:
        report = grade_one(submission, out / "unfinished" / f"{_name(submission)}.json")
        report.write(folder / f"{_name(submission)}.json")
        return report

    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(one, submission): submission for submission in submissions if submission not in done}
        for future in as_completed(waiting):
            done[waiting[future]] = future.result()
            if progress is not None:
                progress(waiting[future], future.result(), False)
    reports = [done[submission] for submission in submissions]
    write_table(out / "grades.csv", submissions, reports)
    return reports


def write_table(path: Path, submissions: list[Path], reports: list[GradeReport]) -> None:
    """One row per submission: total and points per problem."""
    slugs = [result.slug for result in reports[0].slugs] if reports else []
    with atomic_write(path, "w") as file:
        table = csv.writer(file)
        table.writerow(["submission", "gradable", "score", "max_score", "flags", *slugs, "message"])
        for submission, report in zip(submissions, reports, strict=True):
            points = {result.slug: f"{result.points:g}" for result in report.slugs}
            row = [_name(submission), report.gradable, f"{report.score:g}", f"{report.max_score:g}", len(report.flags)]
            table.writerow([*row, *(points.get(slug, "") for slug in slugs), report.message])


def _name(submission: Path) -> str:
    return submission.stem if submission.suffix == ".zip" else submission.name
