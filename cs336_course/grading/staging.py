"""From a submission, a folder or a zip file, to a clean copy: only `cs336_*` packages and `tests/adapters.py`.

Everything is decided from names and sizes before a byte is written. Refused with a reason: absolute names, `..`, links,
devices, too many or too large files, a zip that unpacks to over 100 times its size. Left out silently, because they
would steer Python or pytest: bytecode, compiled modules, .pth, sitecustomize, conftest.py, pytest's settings. Read
next: `rules.py`.
"""

from __future__ import annotations

import hashlib
import stat
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

MAX_FILES, MAX_FILE_BYTES, MAX_TOTAL_BYTES, MAX_RATIO = 5_000, 16 << 20, 128 << 20, 100
PACKAGES = ("cs336_basics", "cs336_systems", "cs336_scaling", "cs336_data", "cs336_alignment")
DROPPED_NAMES = {"conftest.py", "sitecustomize.py", "usercustomize.py", "pytest.ini", "tox.ini", "setup.cfg"}
DROPPED_SUFFIXES = {".pyc", ".pyo", ".pth", ".so", ".pyd", ".dll", ".dylib"}
KEPT_SUFFIXES = {".py", ".json", ".jsonl", ".txt", ".tsv", ".csv", ".toml", ".npz", ".npy", ".md", ".yaml", ".yml",
                 ".prompt", ".bin", ".ftz", ".safetensors"}  # fmt: skip


class SubmissionError(ValueError):
    """A submission that cannot be graded, and why."""


@dataclass(frozen=True)
class Flag:
    """Something a person should look at."""

    kind: str
    file: str
    line: int
    text: str


@dataclass
class Staged:
    """A clean copy of a submission."""

    root: Path
    sha256: str
    files: list[str] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)


def stage(submission: Path, target: Path) -> Staged:
    """Copy what counts of `submission` into the empty folder `target`.

    Raises:
        SubmissionError: not a folder or zip file, unsafe, too large, or without tests/adapters.py.
    """
    if submission.is_dir():
        files = _read_folder(_inner(submission))
    elif submission.is_file():
        files = _read_zip(submission)
    else:
        raise SubmissionError(f"no file or folder {submission}")
    staged = Staged(target, _digest(files))
    for name, data in sorted(_without_top_folder(files).items()):
        _keep(name, data, staged)
    if "tests/adapters.py" not in staged.files:
        raise SubmissionError(
            "no tests/adapters.py in the submission: it must hold the package folder and tests/ at its top, "
            "as `cs336 submit pack` makes it"
        )
    return staged


def _keep(name: str, data: bytes, staged: Staged) -> None:
    """Write one file if it belongs into the copy; flag it if it looks like a trick."""
    path = PurePosixPath(name)
    if len(path.parts) == 1 and path.suffix == ".py" and path.stem in _importable():
        staged.flags.append(Flag("shadow", name, 0, f"has the name of the module {path.stem}; it was left out"))
    if path.name in DROPPED_NAMES or path.suffix in {".pth", ".pyc"} or path.suffix in DROPPED_SUFFIXES:
        if "__pycache__" not in path.parts and name != "tests/conftest.py":  # every handout has that one
            staged.flags.append(Flag("dropped", name, 0, "may steer Python or pytest; it was left out"))
        return
    wanted = path.parts[0] in PACKAGES and path.suffix in KEPT_SUFFIXES
    if not (wanted or name in ("tests/adapters.py", "tests/__init__.py")) or "__pycache__" in path.parts:
        return
    target = staged.root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    staged.files.append(name)


def _inner(folder: Path) -> Path:
    """The folder itself, or the only folder in it where that holds everything."""
    if any((folder / name).exists() for name in (*PACKAGES, "tests")):
        return folder
    inner = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    return inner[0] if len(inner) == 1 else folder


def _read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a folder that could count; links are refused, as in a zip."""
    files: dict[str, bytes] = {}
    total = 0
    for top in [*(folder / name for name in PACKAGES), folder / "tests", *sorted(folder.glob("*.py"))]:
        if top.is_symlink():
            raise SubmissionError(f"{top.name} is a link; submit the files themselves")
        if not top.exists():
            continue
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink():
                raise SubmissionError(f"{name} is a link; submit the files themselves")
            if not path.is_file() or not _counts(name):
                continue
            total += path.stat().st_size
            _check_sizes(name, path.stat().st_size, len(files) + 1, total)
            files[name] = path.read_bytes()
    return files


def _counts(name: str) -> bool:
    """Of tests/ only the adapters count, and what pytest would load by itself."""
    parts = PurePosixPath(name).parts
    return parts[0] != "tests" or name in ("tests/adapters.py", "tests/__init__.py", "tests/conftest.py")


def _read_zip(file: Path) -> dict[str, bytes]:
    """The members of a zip, after every name and size has been checked."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            total, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
            if total > MAX_RATIO * max(packed, 10_000):
                raise SubmissionError(f"unpacks to {total:,} bytes from {packed:,}: a zip bomb")
            for member in members:
                _check_member(member)
                _check_sizes(member.filename, member.file_size, len(members), total)
            if len({member.filename for member in members}) < len(members):
                raise SubmissionError("holds one name twice")
            return {member.filename: _read_member(archive, member) for member in members}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise SubmissionError(f"{file.name} is not a readable zip file: {error}") from error


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The bytes of a member; never more than its header promised."""
    with archive.open(member) as handle:
        data = handle.read(member.file_size + 1)
    if len(data) > member.file_size:
        raise SubmissionError(f"{member.filename} is larger than the zip's index says")
    return data


def _check_member(member: zipfile.ZipInfo) -> None:
    path, mode = PurePosixPath(member.filename), member.external_attr >> 16
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in path.parts[0]:
        raise SubmissionError(f"{member.filename!r} points outside of the zip")
    if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
        raise SubmissionError(f"{member.filename!r} is a link or device; submit plain files")


def _check_sizes(name: str, size: int, count: int, total: int) -> None:
    for what, value, limit in (
        (f"{name} has", size, MAX_FILE_BYTES),
        ("the submission has", total, MAX_TOTAL_BYTES),
    ):
        if value > limit:
            raise SubmissionError(f"{what} {value:,} bytes; the limit is {limit:,}")
    if count > MAX_FILES:
        raise SubmissionError(f"the submission has {count:,} files; the limit is {MAX_FILES:,}")


def _without_top_folder(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same files with a single folder around everything taken off."""
    tops = {name.split("/", 1)[0] for name in files if not name.startswith("__MACOSX/")}
    if len(tops) != 1 or (top := tops.pop()) in (*PACKAGES, "tests"):
        return files
    return {name.split("/", 1)[1]: data for name, data in files.items() if name.startswith(f"{top}/")}


def _digest(files: dict[str, bytes]) -> str:
    """One hash over names and contents, the same for a folder and its zip."""
    digest = hashlib.sha256()
    for name, data in sorted(_without_top_folder(files).items()):
        if _counts(name) and "__pycache__" not in name:
            digest.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\n".encode())
    return digest.hexdigest()


def _importable() -> set[str]:
    """Names that a file at the top of a submission must not have."""
    installed = {"numpy", "torch", "regex", "einops", "jaxtyping", "pytest", "sitecustomize", "usercustomize"}
    return set(sys.stdlib_module_names) | installed
