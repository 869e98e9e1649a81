"""Grade one submission: stage it, ask a worker, compare the answers here, write the report after every problem.

    seed -> hidden suite -> inputs ----> worker (student code) ----> answers -> judgement -> report
                 \\________________ oracles ______________________________________/

Expected values are computed in this process only, and after the answers have come back. A judgement that raises is the
grader's own fault (exit code 3, no score). Source: `otter-grader` and PrairieLearn for the flow; the split is ours.
Read next: `report.py`, `tests/hidden/basics.py`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cs336_course.grading import isolation, rules
from cs336_course.grading.client import GraderError, Limits, Outcome, Worker
from cs336_course.grading.report import CaseResult, GradeReport, SlugResult
from cs336_course.grading.staging import SubmissionError, stage
from cs336_course.grading.suite import BadAnswer, Case, Problem, Suite

UNANSWERED = "unanswered"
Diagnose = Callable[[Problem, dict[str, Any], set[str]], dict[str, str]]
"""(problem, {case id: answer or UNANSWERED}, ids of the wrong ones) -> {case id: what the answer looks like}"""
ENDINGS = {
    "timeout": "ran longer than allowed",
    "memory": "used more memory than allowed",
    "processes": "started more processes than allowed",
    "output": "returned far more data than asked for",
    "server": "ended the process that runs the submission",
    "exit 0": "ended Python instead of returning",
}


def grade(
    submission: Path,
    suite: Suite,
    *,
    tier: str = "auto",
    limits: Limits | None = None,
    out: Path | None = None,
    diagnose: Diagnose | None = None,
    progress: Callable[[str], None] | None = None,
) -> GradeReport:
    """The report on one submission; `out` is rewritten after each problem.

    Args:
        submission: a folder or zip file.
        suite: from `load_suite`.
        tier: how student code is locked in; "auto" takes the strongest that works.
        limits: per problem.
        diagnose: names what a wrong answer looks like.
        progress: told each problem's slug before it starts.

    Raises:
        GraderError: the grader's own fault.
    """
    started = time.monotonic()
    report = _blank_report(submission, suite)
    report.write(out)
    with tempfile.TemporaryDirectory(prefix="cs336-grade-") as folder:
        root = Path(folder)
        isolation.prepare(root)
        try:
            staged = stage(submission, root / "student")
        except SubmissionError as error:
            report.message = str(error)
            report.write(out)
            return report
        report.submission_sha256 = staged.sha256
        report.flags = [*staged.flags, *rules.lint(staged.root, staged.files, suite.assignment)]
        report.isolation_tier = isolation.choose_tier(tier)
        report.gradable = True
        with Worker(root, report.isolation_tier, limits or Limits()) as worker:
            for number, problem in enumerate(suite.problems):
                if progress is not None:
                    progress(problem.slug)
                report.slugs[number] = _grade_problem(worker, problem, diagnose)
                report.score = sum(result.points for result in report.slugs)
                report.wall_s = round(time.monotonic() - started, 3)
                report.write(out)
    report.message = ""
    report.write(out)
    return report


def _grade_problem(worker: Worker, problem: Problem, diagnose: Diagnose | None) -> SlugResult:
    """Ask, judge, diagnose."""
    outcome = worker.ask([{"driver": case.driver, "inputs": case.inputs} for case in problem.cases])
    result = SlugResult(problem.slug, problem.points, peak_mb=round(outcome.peak_mb, 1))
    for number, case in enumerate(problem.cases):
        case_result = _judge_case(case, number, outcome)
        result.cases.append(case_result)
    if all(case.status == "passed" for case in result.cases):
        result.points = problem.points
    failed = {case.id for case in result.cases if case.status == "failed"}
    if failed and diagnose is not None:
        answers = {
            case.id: answer.get("value", UNANSWERED)
            for case, answer in zip(problem.cases, outcome.answers, strict=False)
        }
        named = diagnose(problem, answers, failed)
        for case_result in result.cases:
            case_result.diagnosis = named.get(case_result.id, "")
    return result


def _judge_case(case: Case, number: int, outcome: Outcome) -> CaseResult:
    """The verdict on one case."""
    if number > len(outcome.answers):
        return CaseResult(case.id, "not_run", case.property, "an earlier case ended the program")
    if number == len(outcome.answers):
        status = "timeout" if outcome.reason == "timeout" else "error"
        told = ENDINGS.get(outcome.reason, f"ended the program ({outcome.reason})")
        return CaseResult(case.id, status, case.property, f"the submission {told}")
    answer = outcome.answers[number]
    wall_s = round(answer["wall_s"], 3)
    if "error" in answer:
        detail = " ".join(answer["message"].split())[:300]
        return CaseResult(case.id, "error", case.property, _told(answer), wall_s=wall_s, detail=detail)
    message = judgement(case, answer["value"])
    return CaseResult(case.id, "failed" if message else "passed", case.property, message or "", wall_s=wall_s)


def judgement(case: Case, value: dict[str, Any]) -> str | None:
    """What is wrong with an answer, None if nothing is; a missing or misshapen part of it is the answer's fault, not the grader's."""
    try:
        return case.judge(value)
    except BadAnswer as error:
        return str(error)
    except Exception as error:
        raise GraderError(f"judging {case.id} failed: {type(error).__name__}: {error}") from error


def _told(answer: dict[str, Any]) -> str:
    """One line about an exception in the submission; its own text may quote the hidden input and is for staff."""
    where = f" at {answer['where']}" if answer["where"] else ""
    if answer["error"] == "NotImplementedError":
        return f"not implemented yet{where}"
    return f"{answer['error'][:60]}{where}"


def _blank_report(submission: Path, suite: Suite) -> GradeReport:
    """The report before anything has run."""
    return GradeReport(
        assignment=suite.assignment,
        submission=submission.name,
        suite_sha256=suite.sha256,
        grader_version=_version(),
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        max_score=suite.max_score,
        slugs=[
            SlugResult(p.slug, p.points, cases=[CaseResult(c.id, "not_run", c.property) for c in p.cases])
            for p in suite.problems
        ],
    )


def _version() -> str:
    try:
        return importlib.metadata.version("cs336")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
