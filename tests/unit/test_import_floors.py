"""The house has floors: imports go down only, nothing happens at import, and every module says what it is."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = {
    "cs336_basics": 0,
    "cs336_systems": 1,
    "cs336_scaling": 2,
    "cs336_data": 2,
    "cs336_alignment": 2,
    "cs336_course": 3,
    "lectures": 4,
}
PACKAGES = [name for name in FLOORS if name.startswith("cs336_")]
FILES = sorted(path for name in FLOORS for path in (ROOT / name).rglob("*.py"))

# Runs in a fresh interpreter and an empty folder. Prints what importing every module has left behind.
IMPORT_EVERYTHING = """
import importlib, json, os, pkgutil, random, sys
import numpy, torch

def state():
    return {
        "torch seed": torch.random.get_rng_state().tolist(),
        "numpy seed": str(numpy.random.get_state()),
        "random seed": random.getstate(),
        "default dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "CUDA in use": torch.cuda.is_initialized(),
        "process group": torch.distributed.is_available() and torch.distributed.is_initialized(),
        "environment": dict(os.environ),
        "files": os.listdir("."),
    }

before = state()
found = [package for package in sys.argv[1:]]
for package in sys.argv[1:]:
    module = importlib.import_module(package)
    found += [m.name for m in pkgutil.walk_packages(module.__path__, package + ".") if not m.name.endswith("__main__")]
loaded = {}
for name in sorted(found, key=lambda name: (name.endswith(".cli"), name)):
    importlib.import_module(name)
    for heavy in ("tyro", "matplotlib", "tensorboard", "wandb", "pyarrow", "transformers", "triton"):
        if heavy in sys.modules:
            loaded.setdefault(heavy, name)
after = state()
print(json.dumps({"changed": [key for key in before if before[key] != after[key]], "loaded": loaded, "found": found}))
"""


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    """All files, parsed once."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def imported_modules(path: Path, tree: ast.Module) -> set[str]:
    """Absolute names of all modules that a file imports, at the top or inside functions."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: -node.level]) if node.level else ""
            names.add(f"{base}.{node.module or ''}".strip("."))
    return names


def test_the_files_are_found():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= set(PACKAGES)


def wrong_imports(path: Path, tree: ast.Module) -> list[str]:
    """What a file must not import, as lines for its author."""
    room, wrong = path.relative_to(ROOT).parts[0], []
    for module in imported_modules(path, tree):
        other = module.split(".")[0]
        if other == "tests":
            wrong.append(f"{path} imports {module}; nothing shipped may import the tests")
        elif other in FLOORS and other != room and FLOORS[other] >= FLOORS[room]:
            wrong.append(
                f"{path} imports {module}: {room} is on floor {FLOORS[room]}, {other} on floor {FLOORS[other]}, and "
                "imports go down only; move what both need one floor down, under the name of its concept"
            )
    return wrong


def test_imports_go_down_only(trees):
    wrong = [line for path, tree in trees.items() for line in wrong_imports(path, tree)]
    assert not wrong, "\n".join(wrong)


def test_every_module_has_a_docstring(trees):
    without = [path for path, tree in trees.items() if not ast.get_docstring(tree)]
    assert not without, f"{', '.join(map(str, without))} need a docstring on the first line"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed_and_described(package):
    assert (ROOT / package / "__init__.py").is_file()
    assert (ROOT / package / "py.typed").is_file()
    assert (ROOT / package / "README.md").is_file()


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """What a fresh interpreter reports after importing every module of every package."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_EVERYTHING, *PACKAGES],
        cwd=tmp_path_factory.mktemp("empty"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, f"importing every module failed:\n{result.stderr}"
    lines = result.stdout.splitlines()
    assert len(lines) == 1, f"a module prints at import: {lines[:-1]}"
    return json.loads(lines[0])


def test_importing_changes_nothing(imported):
    assert imported["changed"] == [], "importing a module changed global state or wrote a file"


@pytest.mark.parametrize("heavy", ["matplotlib", "tensorboard", "wandb", "pyarrow", "transformers", "triton"])
def test_importing_loads_no_optional_package(imported, heavy):
    assert heavy not in imported["loaded"], f"import {heavy} inside the function that needs it, not in a module's head"


def test_only_command_lines_load_tyro(imported):
    loader = imported["loaded"].get("tyro", "x.cli")
    assert loader.endswith(".cli"), f"{loader} imports tyro; only cli.py may, so that the library runs without it"
