"""The zip for Gradescope: its layout, the same bytes each time, and a grader inside that works on its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile

import pytest

from cs336_course.cli import main
from cs336_course.grading.autograder import write_autograder
from cs336_course.grading.suite import load_suite


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    out = tmp_path_factory.mktemp("autograder") / "autograder.zip"
    write_autograder("basics", out, secret="s", term="t")
    return out


def test_layout_and_same_bytes(archive, tmp_path):
    with zipfile.ZipFile(archive) as file:
        modes = {member.filename: member.external_attr >> 16 for member in file.infolist()}
        run, setup = file.read("run_autograder").decode(), file.read("setup.sh").decode()
    assert {name for name in modes if "/" not in name} == {"setup.sh", "run_autograder", "constraints.txt"}
    assert modes["setup.sh"] == modes["run_autograder"] == 0o100755
    assert "grade basics" in run and "CS336_GRADING_SECRET='s'" in run and '{"score": 0' in run
    assert " regex " in setup and "torch>" not in setup
    assert not [name for name in modes if name.startswith(("lectures/", "tests/unit/", "tests/course/"))]
    write_autograder("basics", tmp_path / "again.zip", secret="s", term="t")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


def test_the_grader_inside_makes_the_same_suite(archive, tmp_path):
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path)
    code = (
        "import json; from cs336_course.grading.suite import load_suite; import cs336_course.misconceptions.diagnosis;"
        "suite = load_suite('basics', secret=b's', term='t');"
        "print(json.dumps([suite.sha256, suite.max_score, str(suite.problems[-1].cases[0].inputs)]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    suite = load_suite("basics", secret=b"s", term="t")
    assert json.loads(done.stdout) == [suite.sha256, suite.max_score, str(suite.problems[-1].cases[0].inputs)]


@pytest.mark.parametrize("secret", ["", "it's", "a\nb", "{x}"])
def test_a_secret_that_a_shell_cannot_hold(tmp_path, secret):
    with pytest.raises(ValueError, match="secret"):
        write_autograder("basics", tmp_path / "x.zip", secret=secret, term="t")


def test_the_verb(tmp_path, monkeypatch):
    monkeypatch.setenv("CS336_GRADING_SECRET", "abc")
    assert main(["grade", "gradescope-zip", "basics", "--out", str(tmp_path / "a.zip")]) == 0
    assert (tmp_path / "a.zip").is_file()
