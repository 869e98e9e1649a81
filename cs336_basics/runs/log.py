"""The log of a run: one JSON record per line, appended, cut back on resume.

A record is a flat dictionary; the records of a training run carry an integer "step". A process killed while it writes
can leave a torn last line (without its line end); readers pass over it and `drop_torn_line` removes it.

Left out: locking, which `directory.py` does. Read next: `directory.py`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import atomic_write


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record; it is in the operating system's hands when this returns.

    Raises:
        ValueError: the record holds nan or infinity, which JSON cannot.
        OSError: disk full and the like; the file is then as it was before.
    """
    for key, value in record.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"log record field {key!r} is {value}, which JSON cannot hold; stop the run or log None")
    rest = memoryview((json.dumps(dict(record), ensure_ascii=False, allow_nan=False) + "\n").encode())
    with open(path, "ab", buffering=0) as file:
        start = file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(start)
            raise


def read_records(path: Path) -> list[dict[str, Any]]:
    """All whole records; an absent file has none, a torn last line is passed over.

    Raises:
        ValueError: a whole line that is not a JSON record, naming file and line number.
    """
    return [_parse(line, f"{path} line {number}") for number, line in enumerate(_whole_lines(path), start=1)]


def truncate_records(path: Path, *, after_step: int) -> None:
    """Drop the records with "step" above `after_step`, those without a step that follow a dropped one, and a torn last
    line.

    The kept lines stay byte for byte as they were; the file is replaced atomically, and only if something is dropped.
    """
    kept: list[bytes] = []
    past_checkpoint = False
    lines = _whole_lines(path)
    for number, line in enumerate(lines, start=1):
        step = _parse(line, f"{path} line {number}").get("step")
        past_checkpoint = past_checkpoint or (step is not None and step > after_step)
        if step <= after_step if step is not None else not past_checkpoint:
            kept.append(line)
    if len(kept) < len(lines):
        with atomic_write(path, "wb") as file:
            file.writelines(kept)
    else:
        drop_torn_line(path)


def drop_torn_line(path: Path) -> None:
    """Cut off a last line that has no line end."""
    whole = sum(map(len, _whole_lines(path)))
    if path.exists() and path.stat().st_size > whole:
        os.truncate(path, whole)


def _whole_lines(path: Path) -> list[bytes]:
    """The lines that have their line end."""
    content = path.read_bytes() if path.exists() else b""
    return [line + b"\n" for line in content.split(b"\n")[:-1]]


def _parse(line: bytes, where: str) -> dict[str, Any]:
    """One record."""
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} is not JSON: {line[:80]!r}; the file was changed by hand or damaged") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where} is not a record (a JSON object): {line[:80]!r}")
    return record
