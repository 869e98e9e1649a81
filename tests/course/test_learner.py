"""check, submit and doctor on a handout, blank and half filled; batch on invented reports."""

from __future__ import annotations

import ast
import csv
from pathlib import Path

import pytest

from cs336_course.cli import main
from cs336_course.grading.batch import find_submissions, grade_batch
from cs336_course.grading.report import GradeReport, SlugResult
from cs336_course.handouts.generate import handout_files, write_handout
from cs336_course.handouts.manifest import load_manifest
from cs336_course.learner.adapters import PROBLEMS, adapter_states
from cs336_course.learner.progress import ProblemState, _owners, next_step


@pytest.fixture
def folder(tmp_path) -> Path:
    write_handout(handout_files(load_manifest("basics")), tmp_path / "work")
    return tmp_path / "work"


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "tests" / "adapters.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_check_tells_filled_missing_and_wrong(folder, capsys):
    assert {state.state for state in adapter_states(folder, "basics")} == {"missing"}
    edit(folder, 'def run_softmax(in_features: Float[Tensor, "..."], dim: int)', "def run_softmax(x)")
    path = folder / "tests" / "adapters.py"
    head, tail = path.read_text().split("def run_softmax", 1)
    path.write_text(head + "def run_softmax" + tail.replace("raise NotImplementedError", "return x", 1))
    edit(folder, "def run_rope(", "def run_roped(")
    (folder / "cs336_basics" / "model.py").write_text("import torch\nx = torch.nn.Linear(2, 2)\n")
    states = {state.name: state for state in adapter_states(folder, "basics")}
    assert states["run_softmax"].state == "wrong signature" and "dim" in states["run_softmax"].note
    assert states["run_rope"].state == "missing" and "gone" in states["run_rope"].note
    assert main(["check", "basics", "--folder", str(folder)]) == 1
    assert "cs336_basics/model.py:2" in capsys.readouterr().out


def test_scaling_has_public_tests_for_every_problem(tmp_path):
    write_handout(handout_files(load_manifest("scaling")), tmp_path / "a3")
    assert set(_owners(tmp_path / "a3", "scaling").values()) == {
        s.slug for s in adapter_states(tmp_path / "a3", "scaling")
    }


@pytest.mark.parametrize("assignment", sorted(PROBLEMS))
def test_check_knows_every_adapter_of_a_blank_handout(tmp_path, assignment):
    """Save those of another edition's signature, which have no problem of their own."""
    files = handout_files(load_manifest(assignment))
    write_handout(files, tmp_path / "work")
    states = adapter_states(tmp_path / "work", assignment)
    assert {state.state for state in states} == {"missing"} and not [s for s in states if "gone" in s.note]
    blank = {n.name for n in ast.parse(files["tests/adapters.py"]).body if isinstance(n, ast.FunctionDef)}
    others = {"run_positionwise_feedforward", "run_silu", "run_gelu", "compute_per_instance_dpo_loss"}
    assert blank - {state.name for state in states} <= others


def test_every_problem_has_public_tests(folder):
    owners = _owners(folder, "basics")
    assert set(owners.values()) == {state.slug for state in adapter_states(folder, "basics")}
    assert owners["test_softmax_matches_pytorch"] == "softmax" and owners["test_roundtrip"] == "tokenizer"


def test_next_step_names_what_to_fill(folder):
    states = adapter_states(folder, "basics")
    problems = [ProblemState("train_bpe", 15, 3, 3, "1"), ProblemState("tokenizer", 15, 0, 9, "1")]
    assert "get_tokenizer" in next_step(states, problems)
    assert "submit pack" in next_step(states, problems[:1])


def test_progress_counts_what_the_public_tests_say(folder, capsys):
    """Two problems of one file of tests, one solved."""
    for path in (folder / "tests").glob("test_*.py"):
        if path.name != "test_nn_utils.py":
            path.unlink()
    path = folder / "tests" / "adapters.py"
    head, tail = path.read_text().split("def run_softmax", 1)
    path.write_text(
        head + "def run_softmax" + tail.replace("raise NotImplementedError", "return in_features.softmax(dim)", 1)
    )
    assert main(["progress", "--folder", str(folder)]) == 0
    lines = {line.split()[-7]: line for line in capsys.readouterr().out.splitlines() if line.endswith(" tests")}
    assert lines["softmax"].startswith("done")
    passed, of, total = lines["cross_entropy"].split()[-4:-1]
    assert (passed, of) == ("0", "of") and int(total) > 0 and not lines["cross_entropy"].startswith("done")


def test_pack_and_verify(folder, capsys):
    (folder / "cs336_basics" / "model.py").write_text("x = 1\n")
    (folder / "cs336_basics" / "weights.pt").write_bytes(bytes(100))
    (folder / "notes.txt").write_text("private")
    out = folder / "code.zip"
    assert main(["submit", "pack", "--folder", str(folder), "--out", str(out)]) == 0
    first = out.read_bytes()
    assert main(["submit", "pack", "--folder", str(folder), "--out", str(out)]) == 0
    assert out.read_bytes() == first
    capsys.readouterr()
    assert main(["submit", "verify", str(out)]) == 0
    listed = capsys.readouterr().out
    assert "cs336_basics/model.py" in listed and "weights" not in listed and "notes" not in listed
    (folder / "bad.zip").write_text("no")
    assert main(["submit", "verify", str(folder / "bad.zip")]) == 1


def test_batch_resumes_without_loss_or_repeat(tmp_path):
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    for name in ("ann", "bob", "cy"):
        (inbox / name).mkdir(parents=True)
    submissions, graded = find_submissions(inbox), []

    def one(submission: Path, file: Path) -> GradeReport:
        graded.append(submission.name)
        if submission.name == "cy" and len(graded) == 3:
            raise KeyboardInterrupt
        return GradeReport("basics", submission.name, suite_sha256="s", gradable=True, message="", score=1, max_score=2,
                           slugs=[SlugResult("rope", 2, 1)])  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        grade_batch(submissions, out, one, suite_sha256="s")
    assert sorted(p.stem for p in (out / "reports").glob("*.json")) == ["ann", "bob"]
    with pytest.raises(ValueError, match="--resume"):
        grade_batch(submissions, out, one, suite_sha256="s")
    reports = grade_batch(submissions, out, one, resume=True, suite_sha256="s")
    assert graded == ["ann", "bob", "cy", "cy"] and [report.submission for report in reports] == ["ann", "bob", "cy"]
    with (out / "grades.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["submission"], row["score"], row["rope"]) for row in rows] == [
        ("ann", "1", "1"),
        ("bob", "1", "1"),
        ("cy", "1", "1"),
    ]
    grade_batch(submissions, out, one, resume=True, suite_sha256="other suite")
    assert graded[4:] == ["ann", "bob", "cy"]
    with pytest.raises(ValueError, match="no folder"):
        find_submissions(tmp_path / "nothing")


def test_command_line_errors(capsys):
    assert main(["grade", "chemistry"]) == 2 and "needs an assignment" in capsys.readouterr().err
    assert main(["check"]) == 2
    assert main(["handout", "poetry", "x"]) == 1 and "basics, " in capsys.readouterr().err
    assert main(["grade", "--help"]) == 0 and "gradescope-zip" in capsys.readouterr().out
