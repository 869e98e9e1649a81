"""Atomic files: a reader sees the old file or the whole new one, never a part.

Every file that matters is written under a temporary name beside its target, flushed to disk, and renamed over the
target; a rename within one folder is atomic on every file system we use. A process killed at any moment, or a disk
that fills up, leaves the former file as it was and at most a stray `.<name>.<random>.partial`.

Left out: locking between two writers (see `directory.py`). Read next: `directory.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success rename it to `path`, on any error delete it.

    Args:
        path: final name; missing parent folders are created.
        mode: "wb" for bytes or "w" for UTF-8 text with "\\n" line ends.

    Raises:
        ValueError: another mode.
        OSError: what the file system says (a full disk, a missing permission); `path` is then as it was before.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"atomic_write mode must be 'wb' or 'w'; got {mode!r}")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    text_options: dict[str, Any] = {} if mode == "wb" else {"encoding": "utf-8", "newline": "\n"}
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    try:
        with os.fdopen(descriptor, mode, **text_options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes private files; results are for everyone to read
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically; NaN and infinity, no JSON, are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path, "w") as file:
        file.write(text)
