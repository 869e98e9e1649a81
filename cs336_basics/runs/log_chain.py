"""A chain of hashes beside a log: what was written first cannot be changed later without changing all that follows.

    link 0 = SHA-256(config.json)        link i = SHA-256(link i-1 + line i)        one link per line in log.chain

A head published while a run is going (mailed, pushed, printed) fixes everything logged until then. Afterwards the
chain shows edited, missing and reordered lines. It does not show a log that its owner wrote anew with all its links:
on a machine of one's own anything can be forged, which is why leaderboards measure the checkpoint itself.

Left out: signatures. Read next: `evidence.py`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cs336_basics.runs.atomic import atomic_write


class LogChain:
    """The chain of a log that is being written; `follow` links what has been appended since.

    A chain that does not fit its log (killed between line and link, cut back to a checkpoint) is made to fit when it
    is opened.
    """

    def __init__(self, log: str | os.PathLike[str], config: str | os.PathLike[str]) -> None:
        self._log = Path(log)
        self._path = self._log.with_suffix(".chain")
        self._seed = first_link(Path(config).read_bytes())
        links = chain_links(self._seed, _lines(self._log, 0))
        text = "".join(f"{link}\n" for link in links)
        if not self._path.is_file() or self._path.read_text(encoding="ascii") != text:
            with atomic_write(self._path, "w") as file:
                file.write(text)
        self._head = links[-1] if links else self._seed
        self._offset = sum(map(len, _lines(self._log, 0)))

    @property
    def head(self) -> str:
        """The last link."""
        return self._head

    def follow(self) -> None:
        """Append a link for each new line of the log."""
        lines = _lines(self._log, self._offset)
        if not lines:
            return
        links = chain_links(self._head, lines)
        with open(self._path, "a", encoding="ascii") as file:
            file.writelines(f"{link}\n" for link in links)
        self._head, self._offset = links[-1], self._offset + sum(map(len, lines))


def first_link(config: bytes) -> str:
    """Link 0, which ties the chain to a configuration."""
    return hashlib.sha256(config).hexdigest()


def chain_links(link: str, lines: list[bytes]) -> list[str]:
    """The links of `lines`, which follow `link`."""
    links = []
    for line in lines:
        link = hashlib.sha256(link.encode("ascii") + line).hexdigest()
        links.append(link)
    return links


def broken_line(log: bytes, chain: str, config: bytes) -> int | None:
    """Number of the first line (from 1) whose link is not what the chain says, or None when all fit.

    Args:
        log: content of log.jsonl.
        chain: content of log.chain.
        config: content of config.json.
    """
    lines = [line + b"\n" for line in log.split(b"\n")[:-1]]
    expected, found = chain_links(first_link(config), lines), chain.split()
    for number, (ours, theirs) in enumerate(zip(expected, found, strict=False), start=1):
        if ours != theirs:
            return number
    return None if len(expected) == len(found) else min(len(expected), len(found)) + 1


def _lines(path: Path, offset: int) -> list[bytes]:
    """The whole lines from a place on."""
    if not path.exists():
        return []
    with open(path, "rb") as file:
        file.seek(offset)
        return [line + b"\n" for line in file.read().split(b"\n")[:-1]]
