<<<<<<< HEAD
"""A whole term at small size, by the commands alone: hand out, solve, pack, grade, enter a board, verify, look for copies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cs336_course.cli import main

ROOT = Path(__file__).parents[2]
ENTRYPOINT = '''"""The mean of the last budget's losses."""

import numpy as np


def predict(runs, targets):
    order = np.argsort(runs["parameters"] * runs["tokens"])
    return np.full(len(targets["tokens"]), runs["loss"][order[-7:]].min())
'''


def test_a_term(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CS336_GRADING_SECRET", "this term")
    monkeypatch.setenv("CS336_BOARD_SECRET", "this term")
    assert main(["handout", "basics", "handout"]) == 0
    shutil.copytree("handout", "student")
    shutil.copytree(ROOT / "cs336_basics", "student/cs336_basics", dirs_exist_ok=True)  # a student solves it
    shutil.copyfile(ROOT / "tests" / "adapters.py", "student/tests/adapters.py")
    Path("inbox").mkdir()
    assert main(["submit", "pack", "--folder", "student", "--out", "inbox/ada.zip"]) == 0
    assert main(["submit", "verify", "inbox/ada.zip"]) == 0
    slugs = ["--only", "softmax", "linear", "gradient_clipping"]
    assert (
        main(["grade", "basics", "--submission", "inbox/ada.zip", *slugs, "--format", "json", "--out", "ada.json"]) == 0
    )
    report = json.loads(Path("ada.json").read_text())
    assert report["gradable"] and report["score"] == report["max_score"] == sum(
        s["max_points"] for s in report["slugs"]
    )
    assert {slug["slug"] for slug in report["slugs"]} == set(slugs[1:])

    Path("boards").mkdir()
    board = (ROOT / "boards" / "scaling-prediction.toml").read_text()
    Path("boards/scaling-prediction.toml").write_text(board.replace("worlds = 40", "worlds = 4").replace("0.05", "0.5"))
    Path("entry.py").write_text(ENTRYPOINT)
    capsys.readouterr()
    arguments = ["--handle", "ada", "--description", "the last minimum", "--entrypoint", "entry.py"]
    assert main(["leaderboard", "submit", "scaling-prediction", *arguments]) == 0
    (entry,) = Path("boards/entries/scaling-prediction").iterdir()
    assert main(["leaderboard", "lint"]) == 1 and "stale" in capsys.readouterr().out
    assert main(["leaderboard", "verify", str(entry)]) == 0
    assert main(["leaderboard", "html", "site"]) == 0
    assert main(["leaderboard", "lint"]) == 0
    assert "verified" in Path("boards/README.md").read_text() and "the last minimum" in Path(
        "site/scaling-prediction.html"
    ).read_text(encoding="utf-8")
    (data,) = json.loads(Path("boards/leaderboard.json").read_text())
    assert data["rows"][0]["place"] == 1 and data["rows"][0]["value"] > 1


def test_copies_are_found(tmp_path, capsys):
    pytest.importorskip("copydetect")
    from cs336_course.similarity import compare

    inbox, base = tmp_path / "inbox", tmp_path / "handout"
    source = (ROOT / "cs336_basics" / "nn_utils.py").read_text()
    renamed = source.replace("x", "tensor").replace("logsumexp", "log_sum_exp")
    other = (ROOT / "cs336_basics" / "optimizer.py").read_text()
    shared = (ROOT / "cs336_basics" / "ema.py").read_text()
    for name, code in (("ada", source), ("bob", renamed), ("eve", other)):
        (inbox / name / "tests").mkdir(parents=True)
        (inbox / name / "cs336_basics").mkdir()
        (inbox / name / "tests" / "adapters.py").write_text("")
        (inbox / name / "cs336_basics" / "a.py").write_text(code)
        (inbox / name / "cs336_basics" / "given.py").write_text(shared)
    base.mkdir()
    (base / "given.py").write_text(shared)
    (inbox / "broken.zip").write_text("no zip")
    paths = sorted(inbox.iterdir())
    pairs, refused = compare(paths, base=base)
    assert list(refused) == ["broken.zip"] and len(pairs) == 3
    assert {pairs[0].one, pairs[0].other} == {"ada", "bob"} and pairs[0].share > 0.7 and "def " in pairs[0].excerpt
    assert max(pair.share for pair in pairs[1:]) < 0.3
    assert (
        max(pair.share for pair in compare(paths)[0][1:]) > pairs[1].share
    )  # the handout counts where it is not named
    old, _ = compare([inbox / "ada"], previous=[inbox / "bob", inbox / "eve"])
    assert {(pair.one, pair.other) for pair in old} == {("ada", "earlier/bob"), ("ada", "earlier/eve")}
    arguments = ["similarity", "--submissions", str(inbox), "--base", str(base), "--out", str(tmp_path / "page")]
    assert main(arguments) == 0
    assert "ada and bob" in capsys.readouterr().out and "no zip" not in (tmp_path / "page" / "report.md").read_text()
=======
"""A term in small: hand out, solve, pack, verify, grade, grade the whole folder."""

from __future__ import annotations

import csv
import json
import shutil

from cs336_course.cli import main
from cs336_course.handouts.generate import ROOT

ONLY = ["--only", "softmax", "rope"]


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
>>>>>>> course
