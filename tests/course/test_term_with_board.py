"""A whole term at small size, by the commands alone: hand out, solve, pack, grade, enter a board, verify."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

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
    slugs = ["--only", "softmax", "linear"]
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
