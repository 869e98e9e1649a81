"""Our reference's entrypoints, one per kind of board: what baselines run, and what a participant copies to begin.

Read next: `baselines/`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cs336_course.leaderboards.board import Kind
from cs336_course.leaderboards.evidence_folder import pack_code, reference_packages

FOLDER = Path(__file__).parent / "baselines"
ENTRYPOINTS: dict[Kind, tuple[str, tuple[str, ...]]] = {
    "loss": ("loss.py", ("cs336_basics",)),
    "attention-time": ("attention.py", ("cs336_basics",)),
    "step-time": ("step.py", ("cs336_basics",)),
    "tokenizer-speed": ("tokenizer.py", ("cs336_basics",)),
    "scaling-prediction": ("scaling.py", ("cs336_scaling", "cs336_basics")),
    "accuracy": ("accuracy.py", ("cs336_alignment", "cs336_basics")),
}
"""kind -> (file in `baselines/`, packages it needs)"""


def pack_reference(kind: Kind, out: Path) -> str:
    """Write the reference's code.zip; returns its tree's hash."""
    entrypoint, packages = ENTRYPOINTS[kind]
    return pack_code(reference_packages(*packages), FOLDER / entrypoint, out)


@contextlib.contextmanager
def reference_code(kind: Kind) -> Iterator[Path]:
    """The reference's code.zip in a scratch folder."""
    with tempfile.TemporaryDirectory(prefix="cs336-reference-") as folder:
        out = Path(folder) / "code.zip"
        pack_reference(kind, out)
        yield out
