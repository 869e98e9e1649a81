"""How far along: the public tests are run, and each adapter's problem counts when all its tests pass.

Which tests belong to which problem is read from the tests: those that name its adapters. Read next: `submission.py`.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from cs336_basics.tokenization.progress import progress_bar
from cs336_course.learner.adapters import PROBLEMS, AdapterState, adapter_states


@dataclass(frozen=True)
class ProblemState:
    """One problem of the handout."""

    slug: str
    points: float
    passed: int
    tests: int
    lecture: str

    @property
    def done(self) -> bool:
        """Whether all its public tests pass."""
        return 0 < self.tests == self.passed


def progress(folder: Path, assignment: str) -> list[ProblemState]:
    """The state of each coded problem by the public tests in `folder`."""
    states = adapter_states(folder, assignment)
    outcome = run_public_tests(folder)
    owner = {test: slug for test, slug in _owners(folder, assignment).items()}
    result = []
    for slug in dict.fromkeys(state.slug for state in states):
        mine = [state for state in states if state.slug == slug]
        counted = [passed for test, passed in outcome if owner.get(test) == slug]
        points = sum(state.points for state in mine)
        result.append(ProblemState(slug, points, sum(counted), len(counted), mine[0].lecture))
    return result


def next_step(states: list[AdapterState], problems: list[ProblemState]) -> str:
    """One sentence."""
    for problem in problems:
        if not problem.done:
            names = [state.name for state in states if state.slug == problem.slug and state.state != "filled"]
            what = f"fill {', '.join(names)} in tests/adapters.py" if names else "make its tests pass"
            return f"{problem.slug} ({problem.points:g} points): {what}; lecture {problem.lecture}"
    return "all public tests pass: cs336 submit pack"


def run_public_tests(folder: Path) -> list[tuple[str, bool]]:
    """(test function, passed) of every test that was not skipped; a bar on stderr meanwhile.

    Raises:
        ValueError: pytest made no result.
    """
    with tempfile.TemporaryDirectory(prefix="cs336-progress-") as scratch:
        out = Path(scratch) / "out.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={out}", "tests"]
        environment = {**os.environ, "PYTHONPATH": str(folder.resolve())}
        said = ""
        with (
            subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as child,
            progress_bar("public tests", enabled=True) as report,
        ):
            assert child.stdout is not None
            for line in child.stdout:
                said += line
                if percent := re.search(r"\[ *(\d+)%\]$", line):
                    report(int(percent[1]), 100)
        if not out.is_file():
            raise ValueError(f"pytest made no result in {folder}: {said.strip()[-400:]}")
        results = []
        for case in ElementTree.parse(out).iter("testcase"):
            tags = {child.tag for child in case}
            if "skipped" not in tags:
                results.append(((case.get("name") or "").partition("[")[0], not tags & {"failure", "error"}))
        return results


def _owners(folder: Path, assignment: str) -> dict[str, str]:
    """Test function -> the slug whose adapter it, or a fixture or function of its file that it uses, names."""
    slug_of = {name: values[1] for name, values in PROBLEMS[assignment].items()}
    owners: dict[str, str] = {}
    for path in sorted((folder / "tests").glob("test_*.py")):
        functions = {n.name: n for n in ast.walk(ast.parse(path.read_bytes())) if isinstance(n, ast.FunctionDef)}
        for name in functions:
            if name.startswith("test"):
                found = _first_adapter(name, functions, set(slug_of), set())
                if found is not None:
                    owners[name] = slug_of[found]
    return owners


def _first_adapter(name: str, functions: dict[str, ast.FunctionDef], adapters: set[str], seen: set[str]) -> str | None:
    """The first adapter that the function names, directly or through the functions and fixtures it uses."""
    seen.add(name)
    used = [n.attr for n in ast.walk(functions[name]) if isinstance(n, ast.Attribute)]
    for word in used:
        if word in adapters:
            return word
    others = [n.id for n in ast.walk(functions[name]) if isinstance(n, ast.Name)]
    others += [argument.arg for argument in functions[name].args.args]
    for other in others:
        if other in functions and other not in seen:
            if (found := _first_adapter(other, functions, adapters, seen)) is not None:
                return found
    return None
