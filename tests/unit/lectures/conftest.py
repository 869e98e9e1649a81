"""Small lectures written by the tests, recorded in this process."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from lectures.recording.recorder import Limits
from lectures.recording.session import record_here
from lectures.recording.trace import TraceReader


class Recorded(TraceReader):
    """A trace, with what the tests ask about it."""

    @property
    def error(self):
        return self.trace["meta"]["error"]

    @property
    def problems(self):
        return self.trace["meta"]["problems"]

    def lines(self, kinds: str = "lcdryx") -> list[int]:
        """First line of each step."""
        return [self.place(s)[1] for s in range(len(self)) if self.steps["kind"][s] in kinds]

    def shown(self, step: int) -> dict:
        """The values that changed at a step, by name; None: no longer shown."""
        return {name: self.values[value] if value >= 0 else None for name, value in self.changes.get(step, [])}

    def history(self, name: str) -> list:
        """All values that a name took, in order."""
        return [self.shown(s)[name] for s in sorted(self.changes) if name in self.shown(s)]

    def texts(self) -> list[str]:
        """All that was said, in order."""
        return [r["data"] for _, said in sorted(self.said.items()) for r in said]

    def names(self, step: int) -> list[str]:
        """Functions on the stack of a step."""
        return [self.functions[self.frames["function"][frame]][0] for frame, _ in self.stack(step)]


@pytest.fixture
def write_lecture(tmp_path):
    """Function (source, name) that writes a lecture and returns its path."""

    def write(source: str, name: str = "demo") -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(source).strip("\n") + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def record_source(write_lecture):
    """Function (source, **limits) that records a lecture in this process."""
    before = set(sys.modules)

    def run(source: str, **limits) -> Recorded:
        return Recorded(record_here(write_lecture(source), limits=Limits(**limits)))

    yield run
    for name in set(sys.modules) - before:
        if name.startswith("demo"):
            del sys.modules[name]
