"""The recorder: what a rewritten lecture calls while it runs, and the list of steps that comes of it.

A step is a statement that has run (`line`), a call about to be entered (`call`), a function that begins with its
arguments (`def`), a value returned or yielded, or an exception. It holds the frame, the statement, what has changed
among the values on show, what the lecture said and what it printed. The stack of a step follows from its frame: each
frame knows its caller and the caller's statement.

Inspected names stay on show, and are compared after every statement of their frame, so that a change through another
name or in place is seen; those of large arrays only when the array is another one or torch counted a change. Values are
numbered, equal ones once.

Bounds: `Limits`. A lecture that passes `max_steps` or `seconds` is stopped by `LectureStopped` where it is, and what
was recorded stays.

Left out: other threads of the lecture, which run unseen. Read next: `trace.py` for the format, `session.py` for
running.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lectures.recording.console import Console
from lectures.recording.frame import Frame, Silent, Unseen
from lectures.recording.instrument import FRAME
from lectures.recording.speech import Rendering
from lectures.recording.statements import Function, Problem, SourceFile, Statement
from lectures.recording.values import Snapshots, fingerprint, guarded_repr

LINE, CALL, DEF, RETURN, YIELD, ERROR = "lcdryx"  # the kinds of steps
RETURNED, YIELDED = "(returned)", "(yielded)"


class LectureStopped(BaseException):
    """Ends a lecture that passed a limit; not an Exception, so that the lecture does not catch it."""


@dataclass(frozen=True)
class Limits:
    """What a recorded lecture may use."""

    max_steps: int = 20_000
    """steps, after which the lecture is stopped"""
    max_said: int = 32_000_000
    """letters said by the lecture, pictures included, after which it is stopped"""
    seconds: float = 120.0
    """seconds, after which the lecture is stopped"""
    console: int = 100_000
    """letters of output kept; the rest is counted"""
    console_per_step: int = 4_000
    """letters of output kept of one step"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"limit {name} must be above 0; got {value}")


class Recorder:
    """Writes down what a lecture does. The lecture reaches it under the name `__lecture__`.

    Args:
        limits: when to stop.
        folder: where the lecture lies.
    """

    def __init__(self, *, limits: Limits, folder: Path):
        self.limits, self.folder = limits, folder
        self.files: list[SourceFile] = []
        self.statements: list[Statement] = []
        self.functions: list[tuple[int, Function]] = []
        self.offsets: list[int] = []
        self.function_offsets: list[int] = []
        self.globals: list[Mapping[str, Any]] = []
        self.problems: list[Problem] = []
        self.frames: list[list[int]] = []
        self.steps: list[tuple[int, int, str]] = []
        self.changes: dict[int, list[tuple[str, int]]] = {}
        self.values: list[Any] = []
        self.said: dict[int, list[Rendering]] = {}
        self.output: dict[int, str] = {}
        self.clocks: list[int] = []
        self.messages = 0
        self.console = Console(limits.console, limits.console_per_step)
        self.stack: list[Frame] = []
        self.silent = 0
        self.quiet = 0
        self._pending: list[Rendering] = []
        self._letters = 0
        self._numbers: dict[str, int] = {}
        self._snapshots = Snapshots()
        self._thread = threading.get_ident()
        self._raised: BaseException | None = None

    def add_file(self, file: SourceFile, names: Mapping[str, Any]) -> tuple[int, int]:
        """Take a parsed file and its module's names; returns the offsets of its statements and functions."""
        offsets = len(self.statements), len(self.functions)
        self.offsets.append(offsets[0])
        self.function_offsets.append(offsets[1])
        self.functions += [(len(self.files), function) for function in file.functions]
        self.files.append(file)
        self.statements += file.statements
        self.globals.append(names)
        self.problems += file.problems
        return offsets

    def hear(self, rendering: Rendering) -> None:
        """Take what the lecture says; it belongs to the next step."""
        self._pending.append(rendering)
        self._letters += len(str(rendering.data)) + 200
        if self._letters > self.limits.max_said:
            raise LectureStopped(f"the lecture said more than {self.limits.max_said:,} letters")

    # What the rewritten lecture calls. `number` is a statement's.

    def call(self, function: int, names: Mapping[str, Any] | None = None) -> Frame | Silent | Unseen:
        """A function's body begins."""
        if threading.get_ident() != self._thread:
            return Unseen()
        if self.silent or self.quiet:
            return Silent(self)
        caller = self.announce_call()
        frame = self._new_frame(caller, function, names)
        self.stack.append(frame)
        file, entry = self.functions[function]
        if entry.has_arguments:
            self._step(DEF, frame, self.offsets[file] + entry.statement, names)
        return frame

    def announce_call(self) -> Frame | None:
        """The step before a call, once per statement; returns the calling frame."""
        caller = self.stack[-1] if self.stack else None
        if caller and not caller.announced:
            self._step(CALL, caller, caller.current, None)
            caller.announced = True
        return caller

    def _new_frame(self, caller: Frame | None, function: int, names: Mapping[str, Any] | None) -> Frame:
        """Note a frame: its caller, the caller's statement, its function."""
        self.frames.append([caller.number if caller else -1, caller.current if caller else -1, function, 0])
        return Frame(self, len(self.frames) - 1, function, names)

    def _deaf(self) -> bool:
        """Whether this is not the recorded thread, or inside something not recorded."""
        return self.silent > 0 or threading.get_ident() != self._thread

    def before(self, number: int) -> None:
        """A statement begins."""
        if self._deaf():
            return
        frame = self.stack[-1]
        frame.current, frame.announced = number, False
        self.quiet = frame.quiet + self.statements[number].stepover

    def after(self, number: int, names: Mapping[str, Any] | None = None) -> None:
        """A statement has run."""
        if self._deaf():
            return
        frame = self.stack[-1]
        frame.current, frame.announced = number, False
        self.quiet = frame.quiet
        if not frame.quiet:
            self._step(LINE, frame, number, names)

    def tested(self, number: int, value: Any, names: Mapping[str, Any] | None = None) -> Any:
        """A condition has been evaluated."""
        self.after(number, names)
        return value

    def returned(self, number: int, value: Any, names: Mapping[str, Any] | None = None) -> Any:
        """A function returns a value."""
        if not self._deaf():
            frame = self.stack[-1]
            self.quiet = frame.quiet
            if not frame.quiet:
                self._step(RETURN, frame, number, names, (RETURNED, value))
            frame.current = -1
        return value

    def turn(self, number: int) -> None:
        """A turn of a loop begins: with @every, most are not recorded."""
        if self._deaf():
            return
        frame, every = self.stack[-1], self.statements[number].every
        if every > 1:
            count = frame.turns.get(number, -1) + 1
            frame.turns[number] = count
            (frame.muted.discard if count % every == 0 else frame.muted.add)(number)
            frame.quiet = len(frame.muted)

    def left(self, number: int) -> None:
        """A loop is over."""
        if not self._deaf():
            frame = self.stack[-1]
            frame.muted.discard(number)
            frame.turns.pop(number, None)
            self.quiet = frame.quiet = len(frame.muted)

    def caught(self, names: Mapping[str, Any] | None = None) -> None:
        """A handler has caught an exception."""
        if self._deaf():
            return
        frame = self.stack[-1]
        self.quiet = frame.quiet
        self._error(frame, sys.exception(), names)

    def suspend(self, frame: Frame, value: Any) -> None:
        """A generator yields."""
        if frame.current >= 0 and not self.quiet:
            self._step(YIELD, frame, frame.current, None, (YIELDED, value))
        if frame in self.stack:
            self.stack.remove(frame)
        if self.stack:
            self.quiet = self.stack[-1].quiet

    def resume(self, frame: Frame) -> None:
        """A generator goes on, perhaps for another caller: a new frame with the same values."""
        caller = self.stack[-1] if self.stack else None
        self.frames.append([caller.number if caller else -1, caller.current if caller else -1, frame.function, 0])
        frame.number, frame.announced = len(self.frames) - 1, False
        frame.shown = {name: (None, -2) for name in frame.shown}
        self.stack.append(frame)

    def leave(self, frame: Frame, error: BaseException | None) -> None:
        """A function is left, by an exception or not."""
        if frame not in self.stack:  # a generator that was never finished
            return
        if error is not None and not isinstance(error, (GeneratorExit, LectureStopped)):
            self._error(frame, error, frame.names)
        elif self._pending and frame.current >= 0:
            self._step(LINE, frame, frame.current, None)
        del self.stack[self.stack.index(frame) :]
        if self.stack:
            self.quiet = self.stack[-1].quiet + self.statements[self.stack[-1].current].stepover

    # How steps come about.

    def _error(self, frame: Frame, error: BaseException | None, names: Mapping[str, Any] | None) -> None:
        """A step for an exception, at the statement that raised it in its innermost recorded frame."""
        if error is None or error is self._raised:
            return
        self._raised = error
        number = frame.current
        if error.__traceback__ is not None:
            number = self._statement_at(frame.function, error.__traceback__.tb_lineno, number)
        self._step(ERROR, frame, number, names, ("(exception)", f"{type(error).__name__}: {guarded_str(error)}"))

    def _statement_at(self, function: int, line: int, default: int) -> int:
        """The number of the statement of a function that holds a line."""
        file, entry = self.functions[function]
        for number, statement in reversed(list(enumerate(self.statements))):
            if (
                statement.file == file
                and statement.first <= line <= statement.last
                and entry.first <= line <= entry.last
            ):
                return number
        return default

    def _step(
        self,
        kind: str,
        frame: Frame,
        number: int,
        names: Mapping[str, Any] | None,
        extra: tuple[str, Any] | None = None,
    ) -> None:
        """Write down one step."""
        if len(self.steps) >= self.limits.max_steps:
            self.stop(
                f"more than {self.limits.max_steps:,} steps; mark long loops with @every N or calls with @stepover"
            )
        said, self._pending = self._pending, []
        statement = self.statements[number]
        if statement.animate and len(said) > 1:
            for rendering in said[:-1]:
                self.said[len(self.steps)] = [rendering]
                self._append(frame, number, LINE)
            said = said[-1:]
        step = len(self.steps)
        self.silent += 1  # a repr of the lecture's own class is no part of the lecture
        try:
            changes = self._changed(frame, statement, names, kind) if names is not None else []
            if extra is not None:
                changes.append((extra[0], self.intern(self._snapshots.snapshot(extra[1]))))
        finally:
            self.silent -= 1
        if changes:
            self.changes[step] = changes
        if said:
            self.said[step] = said
        printed = self.console.take()
        if printed:
            self.output[step] = printed
        self._append(frame, number, kind)

    def _append(self, frame: Frame, number: int, kind: str) -> None:
        """One more step, at the present clock."""
        self.steps.append((frame.number, number, kind))
        self.clocks.append(self.messages)

    def stop(self, reason: str) -> None:
        """End the lecture here.

        Raises:
            LectureStopped: always.
        """
        raise LectureStopped(reason)

    def _changed(
        self, frame: Frame, statement: Statement, names: Mapping[str, Any], kind: str
    ) -> list[tuple[str, int]]:
        """The values on show in this frame that are not as they were."""
        shown, changes = frame.shown, []
        asked = set(statement.inspect) if kind in (LINE, DEF, RETURN) else set()
        for name in statement.clear:
            if shown.pop(name, None) is not None:
                changes.append((name, -1))
        for name in statement.inspect if asked else ():
            shown.setdefault(name, (None, -2))
        for name, (mark, number) in list(shown.items()):
            found, value = self._look_up(name, names, frame.function)
            if not found:
                if name in asked:
                    self._unknown(name, statement)
                if number >= 0:
                    changes.append((name, -1))
                shown[name] = (None, -2)
                continue
            new_mark = fingerprint(value)
            if new_mark is not None and new_mark == mark and name not in asked:
                continue
            new = self.intern(self._snapshots.snapshot(value))
            shown[name] = (new_mark, new)
            if new != number:
                changes.append((name, new))
        return changes

    def _look_up(self, name: str, names: Mapping[str, Any], function: int) -> tuple[bool, Any]:
        """A name with attributes, among the locals and then the module's names."""
        first, *attributes = name.split(".")
        scope = names if first in names else self.globals[self.functions[function][0]]
        if first not in scope or first == FRAME:
            return False, None
        value = scope[first]
        for attribute in attributes:
            try:
                value = getattr(value, attribute)
            except Exception:  # a missing attribute, or a property of the lecture that fails
                return False, None
        return True, value

    def _unknown(self, name: str, statement: Statement) -> None:
        """Note an inspected name that has no value."""
        path = self.files[statement.file].path
        problem = Problem(path, statement.first, f"@inspect {name}: it has no value after this statement")
        if not any(
            p.path == path and p.line == statement.first and f"@inspect {name}:" in p.text for p in self.problems
        ):
            self.problems.append(problem)

    def intern(self, value: Any) -> int:
        """The number of a value; equal values have one."""
        key = json.dumps(value, ensure_ascii=False)
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(value)
        return self._numbers[key]


def guarded_str(error: BaseException) -> str:
    """An error's text; an error in that is shown in its place."""
    try:
        return str(error)[:2000]
    except Exception:
        return guarded_repr(error)
