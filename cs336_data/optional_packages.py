"""Packages that only some stages need: imported where they are used, with an error that says how to install them.

Read next: `warc.py`, the first user.
"""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, *, install: str) -> Any:
    """Import `module`.

    Args:
        module: dotted name.
        install: what pip calls the package.

    Raises:
        ImportError: it is not installed; names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not module.startswith(error.name or "?"):
            raise
        raise ImportError(
            f"{install} is not installed; run: pip install {install} (or 'cs336[data]' for all of this package)",
            name=module,
        ) from error
