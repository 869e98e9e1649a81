"""Files with one JSON object per line, plain or gzipped: the format of most data for alignment.

A broken line is an error that names file and line; blank lines are skipped. Left out: writing (json.dumps and
`runs/atomic.py` do). Read next: `tasks/gsm8k.py`.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def read_json_lines(
    path: str | os.PathLike[str], *, required: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of each line.

    Args:
        path: UTF-8, or gzip of it if the name ends in .gz.
        required: fields that every object must have, with a string in them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is not UTF-8, not JSON or no object, a field that is missing or no string, a damaged
            gzip file.
    """
    path = Path(path)
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
        lines = enumerate(file, start=1)
        while True:
            try:
                number, line = next(lines)
            except StopIteration:
                return
            except (EOFError, gzip.BadGzipFile) as error:
                raise ValueError(f"{path} is a damaged gzip file: {error}; fetch it again") from error
            if line.strip():
                yield number, _parse(line, required, f"{path}, line {number}")


def _parse(line: bytes, required: Sequence[str], where: str) -> dict[str, Any]:
    """One object, checked."""
    try:
        value = json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object; got {line.strip()[:60]!r}")
    for field in required:
        if not isinstance(value.get(field), str):
            got = repr(value[field])[:60] if field in value else f"only {sorted(value)}"
            raise ValueError(f"{where}: the field {field!r} must be a string; got {got}")
    return value
