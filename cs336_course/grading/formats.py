"""One report, seven formats: text, JSON, HTML, Gradescope, GitHub Classroom, PrairieLearn, JUnit. All pure functions.

Only `json` (for staff) carries the `detail` of errors, which may quote hidden inputs; every other format shows the
failed property, the place in the student's own code and the diagnosis. Sources: Gradescope "Autograder
specifications"; PrairieLearn "External grading"; the README of classroom-resources/autograding-grading-reporter;
JUnit's de-facto schema. Read next: `report.py`.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from cs336_course.grading.report import CaseResult, GradeReport, SlugResult

MARKS = {"passed": "ok", "failed": "WRONG", "error": "ERROR", "timeout": "TIMEOUT", "not_run": "not run"}
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:left;"
    "vertical-align:top}.passed{color:#176b32}.failed,.error,.timeout{color:#a11}.not_run{color:#777}"
    "summary{cursor:pointer}td.n{text-align:right;font-variant-numeric:tabular-nums}"
    "@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}.passed{color:#6c9}.failed,.error,.timeout{color:#f88}}"
)


def explain(case: CaseResult) -> str:
    """What a student reads about a case that did not pass."""
    return ". ".join(part.rstrip(".") for part in (case.message, case.diagnosis) if part)


def to_text(report: GradeReport) -> str:
    """For a terminal."""
    lines = [f"{report.assignment}: {report.submission}"]
    if not report.gradable:
        return "\n".join([*lines, f"NOT GRADABLE: {report.message}"]) + "\n"
    width = max((len(result.slug) for result in report.slugs), default=0)
    for result in report.slugs:
        lines.append(
            f"  {result.slug:{width}}  {result.points:4g} / {result.max_points:<4g} {MARKS[result.status]}".rstrip()
        )
        for case in result.cases:
            if case.status not in ("passed", "not_run"):
                lines.append(f"      {case.id}: {case.property}")
                lines.append(f"        -> {explain(case)}")
    lines.append(f"total {report.score:g} of {report.max_score:g} points")
    if report.flags:
        lines.append(f"{len(report.flags)} places for a person to look at:")
        lines += [f"  {flag.file}:{flag.line}  {flag.text} [{flag.kind}]" for flag in report.flags]
    lines.append(f"isolation {report.isolation_tier}, {report.wall_s:.0f} s")
    return "\n".join(lines) + "\n"


def to_json(report: GradeReport) -> str:
    """Everything, for staff; `schema.json` describes it."""
    return json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n"


def to_html(report: GradeReport) -> str:
    """One page without scripts or outside resources."""
    e = html.escape
    rows = "".join(_html_row(result) for result in report.slugs)
    flags = "".join(f"<li><code>{e(f.file)}:{f.line}</code> {e(f.text)} ({e(f.kind)})</li>" for f in report.flags)
    note = "" if report.gradable else f"<p class=failed>Not gradable: {e(report.message)}</p>"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{e(report.assignment)}: {e(report.submission)}</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>"
        f"<h1>{e(report.assignment)}: {e(report.submission)}</h1>{note}"
        f"<p><strong>{report.score:g} of {report.max_score:g} points</strong></p>"
        f"<table><tr><th>Problem<th>Points<th>Result</tr>{rows}</table>"
        + (f"<h2>For a person to look at</h2><ul>{flags}</ul>" if flags else "")
        + f"<p>Isolation {e(report.isolation_tier or 'none')}, {report.wall_s:.0f} s, suite {e(report.suite_sha256[:12])}</p>"
        "</html>\n"
    )


def _html_row(result: SlugResult) -> str:
    e = html.escape
    cases = "".join(
        f"<li class={case.status}>{e(case.property)}: {MARKS[case.status]}"
        + (f"<br>{e(explain(case))}" if explain(case) else "")
        + "</li>"
        for case in result.cases
    )
    opened = "" if result.status == "passed" else " open"
    return (
        f"<tr><td>{e(result.slug)}<td class=n>{result.points:g} / {result.max_points:g}"
        f"<td><details{opened}><summary class={result.status}>{MARKS[result.status]}</summary><ul>{cases}</ul></details></tr>"
    )


def to_gradescope(report: GradeReport) -> str:
    """results.json of Gradescope."""
    value: dict[str, Any] = {
        "score": report.score if report.gradable else 0.0,
        "execution_time": round(report.wall_s),
        "output": report.message or f"isolation {report.isolation_tier}",
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "extra_data": {"suite_sha256": report.suite_sha256, "submission_sha256": report.submission_sha256},
        "tests": [
            {
                "score": result.points,
                "max_score": result.max_points,
                "status": "passed" if result.status == "passed" else "failed",
                "name": result.slug,
                "number": str(number),
                "output": _lines(result),
                "output_format": "text",
                "visibility": result.visibility,
            }
            for number, result in enumerate(report.slugs, 1)
        ],
    }
    return json.dumps(value, indent=2) + "\n"


def to_classroom(report: GradeReport) -> str:
    """The step output `result` of a GitHub Classroom grading step: base64 of JSON."""
    status = "error" if not report.gradable else "pass" if report.score == report.max_score else "fail"
    value = {
        "version": 1,
        "status": status,
        "max_score": report.max_score,
        **({"message": report.message} if report.message else {}),
        "tests": [
            {
                "name": result.slug,
                "status": {"passed": "pass", "failed": "fail"}.get(result.status, "error"),
                "message": _lines(result),
                "test_code": "",
                "filename": "",
                "line_no": 0,
                "duration": round(1000 * sum(case.wall_s for case in result.cases)),
                "score": result.points,
            }
            for result in report.slugs
        ],
    }
    return base64.b64encode(json.dumps(value).encode()).decode() + "\n"


def to_prairielearn(report: GradeReport) -> str:
    """results.json of PrairieLearn; `gradable: false` costs the student no attempt."""
    value: dict[str, Any] = {
        "gradable": report.gradable,
        "score": report.score / report.max_score if report.gradable and report.max_score else 0.0,
        "message": report.message,
        "output": "",
        "tests": [
            {
                "name": result.slug,
                "description": result.cases[0].property if len(result.cases) == 1 else f"{len(result.cases)} cases",
                "points": result.points,
                "max_points": result.max_points,
                "message": result.status,
                "output": _lines(result),
            }
            for result in report.slugs
        ],
    }
    if not report.gradable:
        value["format_errors"] = [report.message]
    return json.dumps(value, indent=2) + "\n"


def to_junit(report: GradeReport) -> str:
    """JUnit XML: a suite per problem, a case per case."""
    root = ElementTree.Element("testsuites", name=f"cs336 {report.assignment}", time=f"{report.wall_s:.3f}")
    for result in report.slugs:
        counts = {
            "tests": len(result.cases),
            "failures": sum(case.status == "failed" for case in result.cases),
            "errors": sum(case.status in ("error", "timeout") for case in result.cases),
            "skipped": sum(case.status == "not_run" for case in result.cases),
        }
        attributes = {"name": result.slug, **{key: str(value) for key, value in counts.items()}}
        suite = ElementTree.SubElement(root, "testsuite", attributes)
        for case in result.cases:
            item = ElementTree.SubElement(
                suite, "testcase", classname=result.slug, name=case.id, time=f"{case.wall_s:.3f}"
            )
            if case.status != "passed":
                tag = {"failed": "failure", "not_run": "skipped"}.get(case.status, "error")
                ElementTree.SubElement(item, tag, message=_printable(f"{case.property}: {explain(case)}"))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


FORMATS: dict[str, Callable[[GradeReport], str]] = {
    "text": to_text,
    "json": to_json,
    "html": to_html,
    "gradescope": to_gradescope,
    "classroom": to_classroom,
    "prairielearn": to_prairielearn,
    "junit": to_junit,
}


def _lines(result: SlugResult) -> str:
    """The cases of a problem that did not pass, for a student."""
    return "\n".join(
        f"{case.property}: {explain(case) or MARKS[case.status]}" for case in result.cases if case.status != "passed"
    )


def _printable(text: str) -> str:
    """Without the control characters that XML forbids."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)
