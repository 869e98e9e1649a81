"""The zip that Gradescope runs: `setup.sh` and `run_autograder` at its root, the grader and one hidden suite beside them.

Gradescope unpacks it to /autograder/source of an image, runs setup.sh once with network, and run_autograder for each
submission (/autograder/submission -> /autograder/results/results.json). The zip is the same bytes for the same
repository. It holds the hidden suite and the secret: never hand it to students. Not tried on Gradescope itself.

Source: Gradescope, "Autograder specifications". Read next: `formats.py`.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

from cs336_basics.runs.atomic import atomic_write
from cs336_course.grading.suite import suite_folder
from cs336_course.handouts.manifest import load_manifest

SETUP = """#!/usr/bin/env bash
set -euo pipefail
apt-get update && apt-get install -y --no-install-recommends python3 python3-venv util-linux
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install --quiet --index-url https://download.pytorch.org/whl/cpu torch
cd /autograder/source && /autograder/venv/bin/pip install --quiet -c constraints.txt {packages}
"""
RUN = """#!/usr/bin/env bash
# A result is there before anything runs; the grader replaces it.
mkdir -p /autograder/results
echo '{{"score": 0, "output": "The autograder did not finish; this is not your fault. Tell the staff."}}' > /autograder/results/results.json
cd /autograder/source
CS336_GRADING_SECRET='{secret}' /autograder/venv/bin/python -m cs336_course.cli grade {assignment} \\
  --submission /autograder/submission --term '{term}' --edition {edition} --format gradescope --out /tmp/results.json
status=$?
if [ $status -le 1 ]; then cp /tmp/results.json /autograder/results/results.json; fi
exit 0
"""
FIXED_TIME = (1980, 1, 1, 0, 0, 0)


def write_autograder(assignment: str, out: Path, *, secret: str, term: str, edition: str = "all") -> list[str]:
    """Write the zip; returns the names in it. What it installs is what the handout lists.

    Raises:
        ValueError: a secret or term that a shell's quotes cannot hold.
    """
    for name, value in (("secret", secret), ("term", term)):
        if not value or any(char in value for char in "'\\\n{}"):
            raise ValueError(f"{name} must be plain text without quotes, braces or backslashes; got {value!r}")
    root = suite_folder().parents[1]
    wanted = (re.split("[<>=]", name)[0] for name in load_manifest(assignment).dependencies)
    packages = sorted({"numpy", "tyro", "rich", *wanted} - {"torch"})
    files = {
        "setup.sh": SETUP.format(packages=" ".join(packages)).encode(),
        "run_autograder": RUN.format(assignment=assignment, secret=secret, term=term, edition=edition).encode(),
    }
    own = (
        f"cs336_{assignment}/**/*.py",
        f"cs336_{assignment}/models/*",
    )  # some misconceptions are the reference's answers, changed
    for pattern in (*own, "cs336_basics/**/*.py", "cs336_course/**/*.py", "cs336_course/**/*.json", "cs336_course/**/*.toml",
                    "tests/hidden/*.py", "tests/naive_bpe.py", "tests/fixtures/*.py", "tests/__init__.py",
                    "constraints.txt"):  # fmt: skip
        for path in sorted(root.glob(pattern)):
            if "__pycache__" not in path.parts:
                files[path.relative_to(root).as_posix()] = path.read_bytes()
    with atomic_write(out) as target:
        target.write(zip_bytes(files, executable={"setup.sh", "run_autograder"}))
    return sorted(files)


def zip_bytes(files: dict[str, bytes], *, executable: set[str] = frozenset()) -> bytes:  # type: ignore[assignment]
    """A zip whose bytes depend on names and contents only."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, FIXED_TIME)
            entry.external_attr = (0o100755 if name in executable else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name])
    return buffer.getvalue()
