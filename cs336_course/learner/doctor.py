"""Is this machine ready for the course? Python, packages, GPU, disk, data, isolation for the grader. Read next: `check.py`."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

GOOD, NOTE, BAD = "ok", "note", "MISSING"


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    state: str
    text: str


def examine(folder: Path) -> list[Finding]:
    """All findings, the necessary ones first."""
    version = platform.python_version()
    findings = [
        Finding("python", GOOD if sys.version_info >= (3, 11) else BAD, f"{version}; the course needs 3.11 or newer")
    ]
    for package in ("torch", "numpy", "regex", "einops", "jaxtyping", "pytest", "tiktoken"):
        findings.append(_package(package, needed=package not in ("pytest", "tiktoken")))
    findings.append(_package("triton", needed=False))
    return [*findings, _gpu(), _disk(folder), _data(folder), _adapters(folder)]


def _package(name: str, *, needed: bool) -> Finding:
    try:
        return Finding(name, GOOD, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        why = {"pytest": "runs the tests", "tiktoken": "checks the tokenizer", "triton": "assignment 2, Linux only"}
        return Finding(name, BAD if needed else NOTE, f"not installed ({why.get(name, 'needed')}): pip install {name}")


def _gpu() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("gpu", NOTE, "unknown without torch")
    if torch.cuda.is_available():
        return Finding("gpu", GOOD, torch.cuda.get_device_name())
    if torch.backends.mps.is_available():
        return Finding("gpu", GOOD, "Apple GPU (mps)")
    return Finding("gpu", NOTE, "none; everything in the course also runs on the CPU, with smaller models")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 2**30
    return Finding("disk", GOOD if free > 20 else NOTE, f"{free:.0f} GiB free; all data of assignment 1 takes about 20")


def _data(folder: Path) -> Finding:
    found = sorted({path.name for path in (folder / "data").glob("*/*")}) if (folder / "data").is_dir() else []
    text = ", ".join(found[:6]) if found else "none yet: cs336 data get tinystories, or cs336 data stories"
    return Finding("data", GOOD if found else NOTE, text)


def _adapters(folder: Path) -> Finding:
    there = (folder / "tests" / "adapters.py").is_file()
    text = "tests/adapters.py found: cs336 check basics" if there else "no assignment here: cs336 handout basics DIR"
    return Finding("next step", GOOD if there else NOTE, text)
