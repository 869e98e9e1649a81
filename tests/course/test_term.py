"""A term in small: hand out, solve, pack, verify, grade, grade the whole folder."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from cs336_course.cli import main
from cs336_course.handouts.generate import ROOT

ONLY = ["--only", "softmax", "rope"]


@pytest.mark.long
def test_a_term(tmp_path, capsys):
    work, inbox = tmp_path / "work", tmp_path / "inbox"
    inbox.mkdir()
    assert main(["handout", "basics", str(work)]) == 0
    assert main(["check", "basics", "--folder", str(work)]) == 1  # nothing is filled in yet
    shutil.copyfile(ROOT / "tests" / "adapters.py", work / "tests" / "adapters.py")
    shutil.copytree(ROOT / "cs336_basics", work / "cs336_basics", dirs_exist_ok=True)
    assert main(["submit", "pack", "--folder", str(work), "--out", str(inbox / "ann.zip")]) == 0
    assert main(["submit", "verify", str(inbox / "ann.zip")]) == 0
    (work / "tests" / "adapters.py").write_text(
        "def run_softmax(in_features, dim):\n    e = in_features.exp()\n    return e / e.sum(dim, keepdim=True)\n"
    )
    assert main(["submit", "pack", "--folder", str(work), "--out", str(inbox / "bob.zip")]) == 0
    out = tmp_path / "grades"
    assert main(["grade", "batch", "basics", "--submissions", str(inbox), "--out", str(out), *ONLY]) == 0
    with (out / "grades.csv").open() as file:
        rows = {row["submission"]: (row["score"], row["softmax"], row["rope"]) for row in csv.DictReader(file)}
    assert rows == {"ann": ("3", "1", "2"), "bob": ("0", "0", "0")}
    bob = json.loads((out / "reports" / "bob.json").read_text())
    diagnoses = [case["diagnosis"] for slug in bob["slugs"] for case in slug["cases"] if case["diagnosis"]]
    assert len(diagnoses) == 1 and "maximum" in diagnoses[0]
    assert "not gradable" not in capsys.readouterr().out
