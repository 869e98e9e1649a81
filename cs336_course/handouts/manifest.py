"""What a handout contains: one TOML file per assignment, an allow-list. What it does not name is not handed out.

Read next: `generate.py`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Manifest:
    """The fields of a manifest file."""

    assignment: str
    title: str
    package: str
    section: str
    """heading of the assignment's part of tests/adapters.py"""
    tests: tuple[str, ...]
    """public test modules"""
    support: tuple[str, ...]
    """files of tests/ that those need"""
    dependencies: tuple[str, ...]
    previous: tuple[str, ...]
    """modules of earlier assignments that are revealed, with what they import"""


def manifests() -> list[str]:
    """Assignments with a handout."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_manifest(assignment: str) -> Manifest:
    """The manifest of an assignment.

    Raises:
        ValueError: there is none, or a wrong key.
    """
    path = FOLDER / f"{assignment}.toml"
    if assignment not in manifests():
        raise ValueError(f"no handout for {assignment!r}; there are {', '.join(manifests())}")
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    try:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return Manifest(assignment, **fields)
    except TypeError as error:
        raise ValueError(f"{path.name}: {error}") from error
