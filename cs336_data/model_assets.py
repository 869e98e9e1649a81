"""Where models come from: the official file if the user has it, else what the package brings along.

The course keeps its classifiers in a folder that differs by edition; a folder given by hand comes before these. Nothing
is ever downloaded here. Every answer of a classifier names the model that gave it, so that a number measured with a
small model of ours is never taken for one of the official model. Read next: `fasttext_model.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

COURSE_FOLDERS = (
    Path("local-shared-data/classifiers"), Path("data/classifiers"), Path("/shared-data/classifiers"),
    Path("/data/classifiers"), Path("/home/shared"),
)  # fmt: skip
"""Folders of the editions of 2024 to 2026, and their local stand-ins."""


def find_asset(names: Sequence[str], *, assets: Path | None = None) -> Path | None:
    """The first file of one of these names.

    Args:
        names: in order of preference.
        assets: the user's folder; None looks through `COURSE_FOLDERS`.

    Raises:
        FileNotFoundError: `assets` is given and no folder. That one of the files is missing is no error.
    """
    if assets is not None and not Path(assets).is_dir():
        raise FileNotFoundError(f"the folder of models {assets} does not exist; leave it out to use the models at hand")
    for folder in COURSE_FOLDERS if assets is None else (Path(assets),):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    return None
