"""Pack what the grader reads, and nothing else; verify a pack the way the grader will. Read next: `cli.py`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cs336_basics.runs.atomic import atomic_write
from cs336_course.grading.autograder import zip_bytes
from cs336_course.grading.staging import PACKAGES, Staged, stage


def pack(folder: Path, out: Path) -> list[str]:
    """Write the zip; returns its names.

    Raises:
        ValueError: no package or no adapters here, or what the grader would refuse.
    """
    with tempfile.TemporaryDirectory(prefix="cs336-pack-") as scratch:
        staged = stage(folder, Path(scratch))
        if not any(name.split("/")[0] in PACKAGES for name in staged.files):
            raise ValueError(f"no package cs336_... with code in {folder}; run this from the assignment's folder")
        files = {name: (staged.root / name).read_bytes() for name in staged.files}
    with atomic_write(out) as target:
        target.write(zip_bytes(files))
    return sorted(files)


def verify(file: Path) -> Staged:
    """Unpack into a scratch folder with the grader's own rules.

    Raises:
        SubmissionError: the grader would refuse it, and why.
    """
    with tempfile.TemporaryDirectory(prefix="cs336-verify-") as scratch:
        return stage(file, Path(scratch))
