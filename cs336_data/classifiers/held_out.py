"""The sentences and pages on which our models are measured, written by hand for this purpose.

They were written before the generators of the training data and are never trained on; the build of the models refuses
any overlap. Read next: `build.py`.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "heldout"


def harm_items() -> list[tuple[str, bool, bool]]:
    """(text, nsfw, toxic) of each sentence."""
    return [(text, nsfw == "1", toxic == "1") for nsfw, toxic, text in _rows("harm.tsv")]


def quality_items() -> list[tuple[str, bool]]:
    """(text, good) of each page."""
    return [(text.replace("\\n", "\n"), label == "wiki") for label, text in _rows("quality.tsv")]


def _rows(name: str) -> list[list[str]]:
    """Rows below the heading."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines[1:]]
