"""What a hidden suite is: per problem slug, points and cases; a case is fresh inputs, a driver and a judgement.

The suites themselves live in `tests/hidden/`, which no handout contains. Their inputs are drawn from a generator whose
seed is HMAC-SHA256(secret, "term/assignment/slug"): the same for all students of a term, unknown to them, and new when
the secret changes. Judgements compare with oracles (float64 loops, brute force, torch), not with the reference
implementation. Read next: `tests/hidden/__init__.py`, `judge.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Answer = dict[str, Any]
ASSIGNMENTS = ("basics", "systems", "scaling", "data", "alignment")


class BadAnswer(ValueError):
    """An answer without the form that its driver gives it: the submission's fault."""


@dataclass(frozen=True)
class Case:
    """One question to a submission."""

    id: str
    property: str
    """what is tested, in words that a student may read"""
    driver: str
    inputs: dict[str, Any]
    judge: Callable[[Answer], str | None]
    """None if the answer is right, else what is wrong, without a number of the hidden input"""
    compared: Callable[[Answer], Any] | None = None
    """what a diagnosis compares, where other programs rightly differ: scores of a classifier, which copy stays"""


@dataclass(frozen=True)
class Problem:
    """A problem of the handout."""

    slug: str
    points: float
    cases: list[Case] = field(repr=False)
    assignment: str = "basics"


@dataclass(frozen=True)
class Suite:
    """All problems of an assignment, with a hash of the code and seed they were made from."""

    assignment: str
    problems: list[Problem]
    sha256: str

    @property
    def max_score(self) -> float:
        """Points of all problems."""
        return sum(problem.points for problem in self.problems)


def load_suite(
    assignment: str, *, secret: bytes, term: str = "0", only: list[str] | None = None, edition: str = "all"
) -> Suite:
    """The hidden suite of an assignment, with inputs for this secret and term.

    Args:
        only: some slugs.
        edition: "all", or a year, which has its own problems and points where editions differ.

    Raises:
        ValueError: an unknown assignment or slug.
        FileNotFoundError: no hidden suite beside this package.
    """
    if assignment not in ASSIGNMENTS:
        raise ValueError(f"assignment must be one of {', '.join(ASSIGNMENTS)}; got {assignment!r}")
    module = _hidden_module(assignment)
    table: dict[str, tuple[float, Callable[[np.random.Generator], list[Case]]]] = module.PROBLEMS
    if edition != "all":
        points_of = getattr(module, "EDITIONS", {}).get(edition, {slug: points for slug, (points, _) in table.items()})
        table = {slug: (points, table[slug][1]) for slug, points in points_of.items()}
    unknown = sorted(set(only or ()) - set(table))
    if unknown:
        raise ValueError(f"no problem {unknown[0]!r} in {assignment}; there are {', '.join(table)}")
    problems = [
        Problem(slug, points, make(generator(secret, f"{term}/{assignment}/{slug}")), assignment)
        for slug, (points, make) in table.items()
        if not only or slug in only
    ]
    return Suite(assignment, problems, _hash(assignment, secret, term if edition == "all" else f"{term}/{edition}"))


def generator(secret: bytes, label: str) -> np.random.Generator:
    """The random numbers of one problem."""
    digest = hmac.new(secret, label.encode(), hashlib.sha256).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def suite_folder() -> Path:
    """Where the hidden suites lie: tests/hidden beside the packages."""
    folder = Path(__file__).parents[2] / "tests" / "hidden"
    if not folder.is_dir():
        raise FileNotFoundError(f"no hidden suites in {folder}; grading needs a checkout of the whole repository")
    return folder


def available() -> list[str]:
    """Assignments that have a hidden suite."""
    return [name for name in ASSIGNMENTS if (suite_folder() / f"{name}.py").is_file()]


def _hidden_module(assignment: str) -> ModuleType:
    """tests/hidden/ASSIGNMENT.py, imported as part of a package of a private name: a submission also has a `tests`."""
    path = suite_folder() / f"{assignment}.py"
    if not path.is_file():
        raise ValueError(f"{assignment} has no hidden suite yet; there are {', '.join(available())}")
    if "cs336_hidden" not in sys.modules:
        _load("cs336_hidden", suite_folder() / "__init__.py")
    name = f"cs336_hidden.{assignment}"
    return sys.modules.get(name) or _load(name, path)


def _load(name: str, path: Path) -> ModuleType:
    tests = path.parents[1]  # the oracles of the public suite, which know no package, serve here too
    folders = [str(path.parent), str(tests), str(tests / "fixtures")] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _hash(assignment: str, secret: bytes, term: str) -> str:
    digest = hashlib.sha256(hmac.new(secret, f"{term}/{assignment}".encode(), hashlib.sha256).digest())
    for path in sorted(suite_folder().glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
