"""Every format of a report against its platform's fields, and the report against its published schema."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

import cs336_course.grading.report as report_module
from cs336_course.grading.formats import FORMATS
from cs336_course.grading.report import CaseResult, GradeReport, SlugResult, read_report
from cs336_course.grading.staging import Flag

SECRET = "secret-input-41"


@pytest.fixture
def report() -> GradeReport:
    right = SlugResult("softmax", 1, 1, 10.0, cases=[CaseResult("last", "passed", "sums to 1", wall_s=0.25)])
    wrong = SlugResult("rope", 2, 0, 10.0, cases=[
        CaseResult("in-order", "failed", "turns pairs", "50% differ", "", "Your output is what you get if <halves>"),
        CaseResult("heads", "error", "free axes", "ValueError at cs336_basics/x.py:3", SECRET),
        CaseResult("zero", "not_run", "position 0"),
    ])  # fmt: skip
    return GradeReport("basics", "a&b.zip", "ab", "cd", isolation_tier="namespace", gradable=True, message="",
                       score=1, max_score=3, wall_s=12.5, slugs=[right, wrong],
                       flags=[Flag("from-scratch", "cs336_basics/x.py", 7, "torch.nn.Linear")])  # fmt: skip


def test_json_round_trip_and_schema(report, tmp_path):
    """Fields required by the schema are those of the dataclasses, no more and no fewer."""
    path = tmp_path / "report.json"
    report.write(path)
    assert read_report(path) == report == read_report(path)
    assert json.loads(FORMATS["json"](report)) == asdict(report)
    schema = json.loads((Path(report_module.__file__).parent / "schema.json").read_text())
    for part, value in (
        (schema, asdict(report)),
        (schema["$defs"]["slug"], asdict(report.slugs[0])),
        (schema["$defs"]["case"], asdict(report.slugs[0].cases[0])),
        (schema["$defs"]["flag"], asdict(report.flags[0])),
    ):
        assert set(part["required"]) == set(part["properties"]) == set(value)
    assert tuple(schema["$defs"]["case"]["properties"]["status"]["enum"]) == report_module.STATUSES


def test_schema_by_jsonschema(report):
    schema = json.loads((Path(report_module.__file__).parent / "schema.json").read_text())
    jsonschema.validate(json.loads(FORMATS["json"](report)), schema)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "cs336-grade-report-1"}', '{"schema": "other"}'])
def test_a_file_that_is_no_report(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match="report"):
        read_report(tmp_path / "x.json")


def test_gradescope(report):
    value = json.loads(FORMATS["gradescope"](report))
    assert value["score"] == 1 and value["stdout_visibility"] == "hidden"
    assert [t["score"] for t in value["tests"]] == [1, 0] and [t["max_score"] for t in value["tests"]] == [1, 2]
    assert [t["status"] for t in value["tests"]] == ["passed", "failed"]
    assert [t["number"] for t in value["tests"]] == ["1", "2"] and "halves" in value["tests"][1]["output"]


def test_classroom(report):
    value = json.loads(base64.b64decode(FORMATS["classroom"](report)))
    assert (value["version"], value["status"], value["max_score"]) == (1, "fail", 3)
    assert [t["status"] for t in value["tests"]] == ["pass", "error"] and value["tests"][0]["duration"] == 250


def test_prairielearn(report):
    value = json.loads(FORMATS["prairielearn"](report))
    assert value["gradable"] is True and value["score"] == pytest.approx(1 / 3)
    assert [t["points"] for t in value["tests"]] == [1, 0]
    report.gradable, report.message = False, "no tests/adapters.py"
    value = json.loads(FORMATS["prairielearn"](report))
    assert value["gradable"] is False and value["score"] == 0 and value["format_errors"] == ["no tests/adapters.py"]


def test_junit(report):
    root = ElementTree.fromstring(FORMATS["junit"](report).split("\n", 1)[1])
    suites = {suite.get("name"): suite for suite in root}
    counts = {key: suites["rope"].get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "3", "failures": "1", "errors": "1", "skipped": "1"}
    assert [[child.tag for child in case] for case in suites["rope"]] == [["failure"], ["error"], ["skipped"]]


def test_html_escapes_and_text_names_the_place(report):
    page = FORMATS["html"](report)
    assert "a&amp;b.zip" in page and "&lt;halves&gt;" in page and "<halves>" not in page and "<script" not in page
    text = FORMATS["text"](report)
    assert "cs336_basics/x.py:7" in text and "1 of 3 points" in text


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"json"}))
def test_no_format_for_students_quotes_hidden_inputs(report, name):
    text = FORMATS[name](report)
    if name == "classroom":
        text = base64.b64decode(text).decode()
    assert SECRET not in text and SECRET in FORMATS["json"](report)
