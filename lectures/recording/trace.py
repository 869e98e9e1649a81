"""The trace: a recorded lecture as JSON. `trace.schema.json` beside this file is its schema; `v` its version.

    meta        name, title, seconds, versions, error (or null), problems, number of lanes
    files       path, source, statements [first line, last line, function, flags],
                functions [name, first line, last line, statement, docstring]
    frames      columns caller, statement, function, lane: one entry per call that was stepped into; lane 0 is the
                lecture's own process, r + 1 is rank r
    steps       columns frame, statement, kind: one entry per step; kind is a string with one letter per step:
                l a statement has run   c a call is about to be entered   d a function begins   r it returns
                y it yields             x an exception
    changes     [step, [[name, value], ...]] where values on show changed; value -1: no longer shown
    values      the values themselves (see `values.py`), each once
    said        [step, [rendering, ...]]        output   [step, text]

Statements and functions are numbered through all files, in order. The stack of a step is its frame, the frame's caller
at the caller's statement, and so on; the values on show are the sum of the changes of its frame.

Read next: `public_format.py` for the format of the public course, `pages/page.py` for the page.
"""

from __future__ import annotations

import platform
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

from lectures.recording.recorder import Recorder
from lectures.recording.statements import SourceFile, Statement

VERSION = 1
SAYS, HIDE, BOILERPLATE = 1, 2, 4  # flags of a statement


def make_trace(recorder: Recorder, path: Path, *, seconds: float, error: dict[str, Any] | None) -> dict[str, Any]:
    """The trace of what `recorder` has recorded.

    Args:
        recorder: after the lecture.
        path: the lecture's file.
        seconds: how long it ran.
        error: type, message, where and traceback of what ended it early.
    """
    last = recorder.console.take()
    if last and recorder.steps:
        recorder.output[len(recorder.steps) - 1] = recorder.output.get(len(recorder.steps) - 1, "") + last
    return {
        "v": VERSION,
        "meta": {
            "name": path.stem,
            "title": _title(recorder, path),
            "seconds": round(seconds, 2),
            "versions": _versions(),
            "error": error,
            "problems": [str(problem) for problem in recorder.problems],
            "lanes": 1 + max((frame[3] for frame in recorder.frames), default=0),
        },
        "files": [_file(file, recorder, i) for i, file in enumerate(recorder.files)],
        "frames": _columns(("caller", "statement", "function", "lane"), recorder.frames),
        "steps": _columns(("frame", "statement"), [step[:2] for step in recorder.steps])
        | {"kind": "".join(kind for _, _, kind in recorder.steps)},
        "changes": [[step, [list(pair) for pair in pairs]] for step, pairs in sorted(recorder.changes.items())],
        "values": recorder.values,
        "said": [[step, [r.as_dict() for r in said]] for step, said in sorted(recorder.said.items())],
        "output": [list(pair) for pair in sorted(recorder.output.items())],
    }


def _title(recorder: Recorder, path: Path) -> str:
    """The first line of the lecture's docstring, else its name."""
    import ast

    doc = ast.get_docstring(recorder.files[0].tree) if recorder.files else None
    return (doc or path.stem.replace("_", " ")).partition("\n")[0].rstrip(".")


def _versions() -> dict[str, str]:
    """Of Python and the libraries that lectures compute with."""
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in ("torch", "numpy")}
    return {"python": platform.python_version()} | {name: version for name, version in found.items() if version}


def _file(file: SourceFile, recorder: Recorder, number: int) -> dict[str, Any]:
    """One file's entry."""
    offset = recorder.function_offsets[number]
    first = recorder.offsets[number]
    return {
        "path": file.path,
        "source": file.source,
        "statements": [
            [s.first, s.last, s.function + offset if s.function >= 0 else -1, _flags(s)] for s in file.statements
        ],
        "functions": [[f.name, f.first, f.last, f.statement + first, f.docstring] for f in file.functions],
    }


def _flags(statement: Statement) -> int:
    """The flags of a statement as one number."""
    return SAYS * statement.says + HIDE * statement.hide + BOILERPLATE * statement.boilerplate


def _columns(names: tuple[str, ...], rows: Any) -> dict[str, list[Any]]:
    """Rows as columns."""
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


class TraceReader:
    """A trace with the questions that its users ask."""

    def __init__(self, trace: dict[str, Any]):
        if trace.get("v") != VERSION:
            raise ValueError(f"this trace has version {trace.get('v')!r}; this program reads version {VERSION}")
        self.trace = trace
        self.files: list[dict[str, Any]] = trace["files"]
        self.steps, self.frames = trace["steps"], trace["frames"]
        self.values: list[Any] = trace["values"]
        self.changes: dict[int, list[list[Any]]] = dict(trace["changes"])
        self.said: dict[int, list[dict[str, Any]]] = dict(trace["said"])
        self.output: dict[int, str] = dict(trace["output"])
        self.first_statement = [0, *accumulate(len(f["statements"]) for f in self.files)]
        self.statements = [s for f in self.files for s in f["statements"]]
        self.functions = [f for file in self.files for f in file["functions"]]

    def __len__(self) -> int:
        return len(self.steps["frame"])

    def file_of(self, statement: int) -> int:
        """The index of the file that a statement is in."""
        return next(i for i, first in enumerate(self.first_statement[1:]) if statement < first)

    def place(self, step: int) -> tuple[int, int]:
        """(file, first line) of a step."""
        statement = self.steps["statement"][step]
        return self.file_of(statement), self.statements[statement][0]

    def stack(self, step: int) -> list[tuple[int, int]]:
        """(frame, statement) from the outermost call to the step's own."""
        frame, statement = self.steps["frame"][step], self.steps["statement"][step]
        found = []
        while frame >= 0:
            found.append((frame, statement))
            frame, statement = self.frames["caller"][frame], self.frames["statement"][frame]
        return found[::-1]
