"""What a lecture prints: caught step by step, within bounds.

Left out: output of C code and of child processes, which passes by sys.stdout. Read next: `recorder.py`.
"""

from __future__ import annotations

import io


class Console(io.TextIOBase):
    """A stream in place of sys.stdout and sys.stderr.

    Args:
        total: letters kept of the whole lecture.
        per_step: letters kept of one step.
    """

    def __init__(self, total: int, per_step: int):
        self._left, self._per_step = total, per_step
        self._parts: list[str] = []
        self._kept = 0
        self._dropped = 0

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, text: str) -> int:
        """Keep what fits, count the rest."""
        room = max(0, min(self._per_step - self._kept, self._left))
        kept = text[:room]
        if kept:
            self._parts.append(kept.encode("utf-8", "replace").decode())
            self._kept += len(kept)
            self._left -= len(kept)
        self._dropped += len(text) - len(kept)
        return len(text)

    def take(self) -> str:
        """What was printed since the last call."""
        if not self._kept and not self._dropped:
            return ""
        note = f"\n... {self._dropped:,} more letters not kept\n" if self._dropped else ""
        text = "".join(self._parts) + note
        self._parts, self._kept, self._dropped = [], 0, 0
        return text
