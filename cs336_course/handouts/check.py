"""Proof of a handout: blank, every test fails with NotImplementedError and nothing else; with the reference, all pass.

And nothing that should stay here has left: no hidden test, no body of a reference function (compared as syntax trees,
names of variables and docstrings aside, from three statements on). Read next: `generate.py`.
"""

from __future__ import annotations

import ast
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from cs336_course.handouts.generate import ROOT, write_handout
from cs336_course.handouts.manifest import Manifest

PACKAGES = ("cs336_basics", "cs336_systems", "cs336_scaling", "cs336_data", "cs336_alignment", "cs336_course")
ORACLES = ("tests/hidden", "tests/naive_bpe.py", "tests/fixtures/numpy_transformer.py")
"""what the staff's tests compare with: as good as the reference"""
MIN_STATEMENTS = 3


def problems_of(files: dict[str, bytes], manifest: Manifest) -> list[str]:
    """What is wrong with a handout, in sentences; empty if nothing is."""
    found = leaks(files, revealed=[name for name in files if name.startswith("cs336_") and files[name]])
    with tempfile.TemporaryDirectory(prefix="cs336-handout-") as folder:
        blank = Path(folder) / "blank"
        write_handout(files, blank)
        found += [
            f"blank: {test} {how}"
            for test, how in run_tests(blank).items()
            if how not in ("NotImplementedError", "skipped")
        ]
        solved = Path(folder) / "solved"
        write_handout(files, solved)
        shutil.copyfile(ROOT / "tests" / "adapters.py", solved / "tests" / "adapters.py")
        for package in PACKAGES[:5]:
            shutil.copytree(ROOT / package, solved / package, dirs_exist_ok=True)
        found += [
            f"solved: {test} {how}" for test, how in run_tests(solved).items() if how not in ("passed", "skipped")
        ]
    return found


def run_tests(folder: Path) -> dict[str, str]:
    """Test -> passed, skipped, NotImplementedError or another exception, by pytest in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHON"))}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "--junitxml=out.xml",
    ]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**environment, "PYTHONPATH": str(folder)}
    )
    if not (folder / "out.xml").is_file():
        return {"pytest": f"made no result: {(done.stdout + done.stderr)[-500:]}"}
    cases = ElementTree.parse(folder / "out.xml").iter("testcase")
    return {f"{case.get('classname')}.{case.get('name')}": _how(case) for case in cases}


def _how(case: ElementTree.Element) -> str:
    """What became of one test."""
    for child in case:
        text = f"{child.get('message') or ''}\n{child.text or ''}"
        if child.tag == "skipped":
            return "skipped"
        if child.tag in ("failure", "error"):
            return "NotImplementedError" if "NotImplementedError" in text else f"failed: {text.strip()[:200]}"
    return "passed"


def leaks(files: dict[str, bytes], *, revealed: list[str]) -> list[str]:
    """Hidden files, and reference functions outside of what is revealed on purpose."""
    found = [f"{name} belongs to the hidden suite" for name in files if "hidden" in name]
    bodies = reference_bodies()
    for name, data in files.items():
        if name.endswith(".py") and name not in revealed:
            for function, body in function_bodies(data.decode()).items():
                if body in bodies:
                    found.append(f"{name}: {function} has the body of the reference's {bodies[body]}")
    return found


@functools.cache
def reference_bodies() -> dict[str, str]:
    """Normalised body -> where it stands, for all functions of our packages and oracles."""
    bodies: dict[str, str] = {}
    for part in (*PACKAGES, *ORACLES):
        for path in [ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py")):
            for function, body in function_bodies(path.read_text(encoding="utf-8")).items():
                bodies[body] = f"{path.relative_to(ROOT)}:{function}"
    return bodies


def function_bodies(source: str) -> dict[str, str]:
    """Function -> its body as a syntax tree without docstring and without the names of variables."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if sum(isinstance(part, ast.stmt) for statement in body for part in ast.walk(statement)) >= MIN_STATEMENTS:
                found[node.name] = ast.dump(_Anonymous().visit(ast.Module(body=body, type_ignores=[])))
    return found


class _Anonymous(ast.NodeTransformer):
    """Replaces the names of variables, so that renaming hides nothing."""

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(id="_", ctx=node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(arg="_", annotation=None)
