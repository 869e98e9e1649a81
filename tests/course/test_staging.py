"""Staging: crafted zips are refused, and what would steer Python or pytest is left out."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from cs336_course.grading.staging import SubmissionError, stage

GOOD = {"tests/adapters.py": b"", "cs336_basics/__init__.py": b"", "cs336_basics/model.py": b"x = 1\n"}


def make_zip(path: Path, files: dict[str, bytes], **modes: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = modes.get(name.replace(".", "_"), stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, data)
    return path


@pytest.mark.parametrize("top", ["", "student-42/"])
def test_a_good_zip_and_its_folder_are_the_same_submission(tmp_path, top):
    file = make_zip(tmp_path / "a.zip", {top + name: data for name, data in GOOD.items()})
    for name, data in GOOD.items():
        target = tmp_path / "folder" / top / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    first, second = stage(file, tmp_path / "one"), stage(tmp_path / "folder", tmp_path / "two")
    assert first.sha256 == second.sha256
    assert sorted(first.files) == sorted(second.files) == sorted(GOOD)
    assert (tmp_path / "one" / "cs336_basics" / "model.py").read_bytes() == b"x = 1\n"


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.py", "cs336_basics/../../up.py", "c:/x.py", "a\\b.py"])
def test_names_that_lead_outside(tmp_path, name):
    with pytest.raises(SubmissionError, match="outside"):
        stage(make_zip(tmp_path / "a.zip", {**GOOD, name: b""}), tmp_path / "out")
    assert not (tmp_path / "up.py").exists()


def test_links_are_refused(tmp_path):
    file = make_zip(tmp_path / "a.zip", {**GOOD, "link": b"/etc/passwd"}, link=stat.S_IFLNK | 0o777)
    with pytest.raises(SubmissionError, match="link"):
        stage(file, tmp_path / "out")
    folder = tmp_path / "folder" / "tests"
    folder.mkdir(parents=True)
    (folder / "adapters.py").symlink_to("/etc/passwd")
    with pytest.raises(SubmissionError, match="link"):
        stage(tmp_path / "folder", tmp_path / "out")


def test_bombs_and_large_files(tmp_path):
    with pytest.raises(SubmissionError, match="bomb"):
        stage(make_zip(tmp_path / "a.zip", {"cs336_basics/x.py": bytes(10 << 20)}), tmp_path / "out")
    many = {f"cs336_basics/f{i}.py": b"" for i in range(5001)}
    with pytest.raises(SubmissionError, match="files"):
        stage(make_zip(tmp_path / "b.zip", many), tmp_path / "out")


def test_one_name_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning):
        archive.writestr("tests/adapters.py", "a")
        archive.writestr("tests/adapters.py", "b")
    with pytest.raises(SubmissionError, match="twice"):
        stage(tmp_path / "a.zip", tmp_path / "out")


def test_what_steers_python_or_pytest_is_left_out(tmp_path):
    evil = ["conftest.py", "pytest.ini", "numpy.py", "sitecustomize.py", "evil.pth", "cs336_basics/conftest.py",
            "cs336_basics/__pycache__/model.cpython-311.pyc", "cs336_basics/fast.so", "tests/conftest.py",
            "tests/test_model.py", "other/x.py"]  # fmt: skip
    staged = stage(make_zip(tmp_path / "a.zip", {**GOOD, **dict.fromkeys(evil, b"")}), tmp_path / "out")
    assert sorted(staged.files) == sorted(GOOD)
    assert sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()
    ) == sorted(GOOD)
    assert {flag.file for flag in staged.flags} >= {"numpy.py", "evil.pth", "cs336_basics/fast.so", "conftest.py"}
