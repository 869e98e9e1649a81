"""Each threat of the grader's threat list, acted out by `hostile_adapters`: only its own problem fails, nothing is left."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cs336_course.grading.client import GraderError, Limits
from cs336_course.grading.isolation import choose_tier
from cs336_course.grading.judge import grade
from cs336_course.grading.suite import Case, Problem, Suite

HOSTILE = Path(__file__).parent / "hostile_adapters.py"
X = np.arange(4, dtype=np.float32) + 1
# threat -> (status of its case, words of its message)
THREATS = {
    "exits": ("error", "ended Python"),
    "sys_exits": ("error", "SystemExit"),
    "aborts": ("error", "SIGABRT"),
    "segfaults": ("error", "SIG"),
    "recurses": ("error", "RecursionError"),
    "eats_memory": ("error", "more memory"),
    "hangs": ("timeout", "longer than allowed"),
    "forks": ("error", "more processes"),
    "leaves_orphan": ("passed", ""),
    "fills_disk": ("error", "OSError"),
    "floods_stdout": ("passed", ""),
    "huge_answer": ("error", "more data"),
    "forges_results": ("failed", "differ"),
    "patches_comparisons": ("failed", "differ"),
    "returns_subclass": ("error", "SchemaError"),
    "returns_objects": ("error", ""),
    "returns_nan": ("failed", "NaN"),
    "returns_other_shape": ("failed", "shape"),
    "reads_stack": ("failed", "differ"),
    "writes_to_pipes": ("error", ""),
    "kills_parent": ("", ""),
    "imports_reference": ("error", "ModuleNotFoundError"),
    "imports_grader": ("error", "ModuleNotFoundError"),
    "finds_secrets": ("failed", "differ"),
    "reaches_network": ("failed", "differ"),
    "uses_loopback": ("passed", ""),
    "leaves_file": ("passed", ""),
    "honest": ("passed", ""),
}
NEED_NAMESPACE = {"finds_secrets", "reaches_network"}


def doubled(answer) -> str | None:
    expected, value = 2 * X.astype(float), answer["value"]
    if value.shape != expected.shape:
        return f"shape {value.shape}"
    if not np.isfinite(value).all():
        return "NaN"
    return None if np.array_equal(value, expected) else "values differ"


def problem(name: str, judge=doubled) -> Problem:
    return Problem(name, 1, [Case("only", "doubles", "call", {"function": name, "arguments": {"x": X}}, judge)])


@pytest.fixture
def submission(tmp_path) -> Path:
    folder = tmp_path / "submission"
    (folder / "tests").mkdir(parents=True)
    shutil.copyfile(HOSTILE, folder / "tests" / "adapters.py")
    return folder


def processes_with(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(str(path))
        except OSError:
            pass
    return found


@pytest.mark.slow
def test_each_threat_loses_its_own_problem_only(submission, tmp_path, monkeypatch):
    """All threats in one run, each followed by the honest function, whose points must come through every time."""
    monkeypatch.setenv("CS336_GRADING_SECRET", "canary-of-the-judge")
    (tmp_path / "canary").write_text("canary-of-the-judge")
    tier = choose_tier("auto")
    threats = [name for name in THREATS if tier != "process" or name not in NEED_NAMESPACE]
    suite = Suite("basics", [p for name in threats for p in (problem(name), problem("honest"))], "0")
    limits = Limits(case_s=5, memory_mb=900, processes=3, file_mb=8)
    report = grade(submission, suite, tier=tier, limits=limits, out=tmp_path / "report.json")
    assert report.gradable and report.isolation_tier == tier
    for name, attacked, honest in zip(threats, report.slugs[::2], report.slugs[1::2], strict=True):
        status, words = THREATS[name]
        case = attacked.cases[0]
        assert case.status == status or not status, (name, case)
        assert words in case.message, (name, case)
        assert attacked.points == (1 if status == "passed" else 0), (name, case)
        assert honest.points == 1, (name, honest)
    assert processes_with("cs336-orphan") == []


def test_nothing_of_one_submission_reaches_the_next_and_the_score_is_the_same(submission):
    """In the process tier /tmp is shared, so only the folder of the problem is clean there."""
    tier, limits = choose_tier("auto"), Limits(case_s=8, file_mb=8)
    suite = Suite("basics", [problem("leaves_file"), problem("honest"), problem("returns_nan")], "0")
    again = Suite("basics", [problem("finds_left_file"), *suite.problems], "0")
    first, second = (grade(submission, each, tier=tier, limits=limits) for each in (suite, again))
    if tier != "process":
        assert second.slugs[0].cases[0].message == "values differ"
    told = [[(case.status, case.message) for result in r.slugs for case in result.cases] for r in (first, second)]
    assert told[0] == told[1][1:] and first.submission_sha256 == second.submission_sha256


def test_an_error_of_the_judge_is_the_graders_own(submission):
    def broken(answer):
        raise ZeroDivisionError

    with pytest.raises(GraderError, match="ZeroDivisionError"):
        grade(submission, Suite("basics", [problem("honest", broken)], "0"))


def test_not_gradable_is_a_report(tmp_path):
    """No package, no zip, a path that leaves: a report that says so, no score, no exception."""
    (tmp_path / "text.zip").write_text("not a zip")
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as archive:
        archive.writestr("../tests/adapters.py", "")
    (tmp_path / "empty").mkdir()
    for name, words in (("text.zip", "not a readable zip"), ("slip.zip", "outside"), ("empty", "no tests/adapters.py")):
        report = grade(tmp_path / name, Suite("basics", [problem("honest")], "0"), out=tmp_path / "report.json")
        assert not report.gradable and words in report.message and report.score == 0
