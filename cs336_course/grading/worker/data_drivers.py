"""Drivers of assignment 4: adapters that take texts, and adapters that take files.

    each          run_mask_emails on several texts -> their answers in order
    deduplicate   files in a fresh folder -> the files that come out

Read next: `tests/hidden/data.py` (where the inputs come from).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Inputs = dict[str, Any]


def each(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """One adapter called for each item, a list of positional arguments."""
    function = getattr(adapters, inputs["function"])
    return {"values": [plain(function(*arguments)) for arguments in inputs["items"]]}


def deduplicate(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """The files that an adapter writes for given files, and the names of inputs that it changed."""
    folder = Path(tempfile.mkdtemp(dir="."))
    source, target = folder / "in", folder / "out"
    source.mkdir()
    for name, data in inputs["files"].items():
        (source / name).write_bytes(data)
    paths = [source / name for name in inputs["files"]]
    getattr(adapters, inputs["function"])(input_files=paths, output_directory=target, **inputs["settings"])
    kept = {path.name: path.read_bytes() for path in sorted(target.iterdir()) if path.is_file()}
    changed = [p.name for p in paths if not p.is_file() or p.read_bytes() != inputs["files"][p.name]]
    return {"files": kept, "changed": changed}


def plain(value: Any) -> Any:
    """Text, numbers, None and tuples of them as they are; anything else as the name of its type in brackets."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if type(value) in (tuple, list):
        return [plain(item) for item in value]
    if isinstance(value, (np.float64, np.str_)):
        return value.item()  # subclasses of float and str
    return f"<{type(value).__name__}>"


DRIVERS: dict[str, Callable[[Any, Inputs], dict[str, Any]]] = {"each": each, "deduplicate": deduplicate}
