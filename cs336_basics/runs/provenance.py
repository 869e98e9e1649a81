"""Where a result came from: versions, machine and commit, as one JSON-ready dictionary.

Left out: accelerators (whoever uses one adds its name) and the list of every installed package. Read next:
`directory.py`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path


def describe_environment() -> dict[str, str | int | None]:
    """Versions of python, torch, numpy and cs336 (None where not installed), platform, CPU count, git commit."""
    return {
        "python": platform.python_version(),
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "cs336": _version("cs336"),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "git_commit": git_commit(Path(__file__)),
    }


def _version(distribution: str) -> str | None:
    """Installed version, without importing the package."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit(file: str | os.PathLike[str]) -> str | None:
    """Commit of the checkout that tracks `file`, with "-dirty" where tracked files were changed; None outside a
    checkout.

    A file that lies inside a checkout but is not tracked by it (an installed package in a `.venv`) has no commit
    either.
    """
    folder, name = os.path.split(os.path.abspath(file))
    if _git(folder, "ls-files", "--error-unmatch", name) is None:
        return None
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: str, *arguments: str) -> str | None:
    """Output of one git command, None when git is missing or says no."""
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
