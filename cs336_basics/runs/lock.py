"""One writer at a time: an exclusive lock on a file, held by the process and given back by the operating system.

The lock is advisory (`flock` on POSIX, `msvcrt.locking` on Windows). The kernel drops it when the process ends in
whatever way, so a killed run never leaves a stale lock behind, only a file with an old pid in it, which means nothing
by itself.

Left out: waiting for the lock (a second writer is told to go elsewhere at once) and locks across machines. A worker
forked while the lock is held shares it until it ends too. Read next: `directory.py`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_WINDOWS_LOCK_OFFSET = (
    1 << 30
)  # Windows forbids reading locked bytes: lock one far behind the pid, which others want to read


class AlreadyLockedError(RuntimeError):
    """Another process (or another part of this one) holds the lock."""


@contextlib.contextmanager
def exclusive_lock(
    path: str | os.PathLike[str], *, what: str, remedy: str, delete_after: bool = False
) -> Iterator[None]:
    """Hold the lock file `path` exclusively inside the `with` block.

    Args:
        path: the lock file; created where missing. It holds the pid of the last holder, for messages only.
        what: what the lock protects, as the error names it ("run directory runs/a").
        remedy: what the second comer should do, as a sentence for the error.
        delete_after: remove the lock file on release (for locks beside other people's files).

    Raises:
        AlreadyLockedError: somebody else holds it; names `what`, the holder's pid and `remedy`.
    """
    target = Path(path)
    descriptor = _open_locked(target, what, remedy)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        if delete_after and sys.platform != "win32":
            target.unlink(missing_ok=True)  # before the lock is released, so that nobody can lock the dying file unseen
        os.close(descriptor)
        if delete_after and sys.platform == "win32":
            with contextlib.suppress(OSError):  # Windows: a next holder may have it open already
                target.unlink()


def _open_locked(target: Path, what: str, remedy: str) -> int:
    """Open and lock `target`; start over when the holder before us deleted the file between our open and our lock."""
    while True:
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor)
        except OSError as error:
            pid = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise AlreadyLockedError(f"{what} is in use by process {pid}; {remedy}") from error
        if target.exists() and os.path.samestat(os.fstat(descriptor), os.stat(target)):
            return descriptor
        os.close(descriptor)


if sys.platform == "win32":

    def _lock(descriptor: int) -> None:
        import msvcrt

        os.lseek(descriptor, _WINDOWS_LOCK_OFFSET, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)

else:

    def _lock(descriptor: int) -> None:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
