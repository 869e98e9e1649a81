"""Make a student repository; the same checkout gives the same bytes, and so the same tree hash.

    handout = texts (README, handout.md, AI policy) + empty package + blanked adapters + listed tests [+ staff code]

Editions differ in a few signatures only, which the adapters unite; the edition is named in the README. Read next:
`check.py`.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

from cs336_basics.runs.atomic import atomic_write
from cs336_course.handouts.blank import blank_adapters, without_solutions
from cs336_course.handouts.manifest import FOLDER, Manifest

ROOT = Path(__file__).parents[2]
EDITIONS = ("2024", "2025", "2026")


def handout_files(manifest: Manifest, *, edition: str = "2026", previous: str = "staff") -> dict[str, bytes]:
    """Name -> content of every file of a handout.

    Args:
        edition: 2024, 2025 or 2026; tests of the other editions' signatures are left to their markers.
        previous: "staff" adds the code of earlier assignments that the manifest reveals, "none" does not.

    Raises:
        FileNotFoundError: a listed file is missing; handouts need a checkout of the whole repository.
    """
    files = {
        f"tests/{name}": _shown(f"tests/{name}") for name in (*manifest.support, *(f"{t}.py" for t in manifest.tests))
    }
    files["tests/adapters.py"] = blank_adapters(_read("tests/adapters.py").decode(), manifest.section).encode()
    files[f"{manifest.package}/__init__.py"] = b""
    policy = (FOLDER / "texts" / "policy.md").read_bytes()
    files["AGENTS.md"] = files["CLAUDE.md"] = policy
    files["handout.md"] = _handout_text(manifest)
    files["README.md"] = _readme(manifest, edition, previous).encode()
    files["pyproject.toml"] = _pyproject(manifest).encode()
    files["LICENSE"] = _read("LICENSE")
    if previous == "staff":
        files |= {_path_of(module): _read(_path_of(module)) for module in _closure(manifest.previous)}
    return dict(sorted(files.items()))


def write_handout(files: dict[str, bytes], folder: Path) -> None:
    """Write the files into a new or empty folder.

    Raises:
        ValueError: the folder holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty; give a new folder")
    for name, data in files.items():
        with atomic_write(folder / name) as file:
            file.write(data)


def tree_hash(files: dict[str, bytes]) -> str:
    """SHA-256 over names and contents, in order of name."""
    lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read(name: str) -> bytes:
    path = ROOT / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; handouts are made from a checkout of the whole repository")
    return path.read_bytes()


def _shown(name: str) -> bytes:
    """A file of the tests without the parts that give an answer away."""
    data = _read(name)
    return without_solutions(data.decode(), name).encode() if name.endswith(".py") else data


def _closure(modules: tuple[str, ...]) -> list[str]:
    """The modules with all that they import of our packages when they are imported."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or not (ROOT / _path_of(module)).is_file():
            continue
        found.add(module)
        waiting += [module.rpartition(".")[0]] if "." in module else []
        for node in ast.walk(ast.parse(_read(_path_of(module)))):
            if isinstance(node, ast.ImportFrom) and node.module and node.col_offset == 0:
                if node.module.startswith("cs336_"):
                    waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import) and node.col_offset == 0:
                waiting += [alias.name for alias in node.names if alias.name.startswith("cs336_")]
    return sorted(found)


def _path_of(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def _handout_text(manifest: Manifest) -> bytes:
    path = FOLDER / "texts" / f"{manifest.assignment}.md"
    if not path.is_file():
        raise FileNotFoundError(f"no assignment text {path}")
    return path.read_bytes()


def _readme(manifest: Manifest, edition: str, previous: str) -> str:
    text = (FOLDER / "texts" / "readme.md").read_text(encoding="utf-8")
    earlier = ", ".join(f"`{module}`" for module in manifest.previous)
    staff = (
        f"Of the earlier assignments this repository holds the staff's {earlier} with what they import; you may replace "
        "them by your own.\n\n"
        if manifest.previous and previous == "staff"
        else ""
    )
    values = {"TITLE": manifest.title, "EDITION": edition, "PACKAGE": manifest.package, "STAFF": staff,
              "ASSIGNMENT": manifest.assignment, "FIRST": f"tests/{manifest.tests[0]}.py"}  # fmt: skip
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _pyproject(manifest: Manifest) -> str:
    dependencies = "".join(f'  "{name}",\n' for name in manifest.dependencies)
    return (
        f'[project]\nname = "{manifest.package.replace("_", "-")}-assignment"\nversion = "26.1.0"\n'
        f'requires-python = ">=3.11"\ndependencies = [\n{dependencies}]\n\n'
        '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n\n'
        '[tool.setuptools.packages.find]\ninclude = ["cs336_*"]\n\n'
        '[tool.pytest.ini_options]\ntestpaths = ["tests"]\naddopts = ["--strict-markers"]\n'
    )
