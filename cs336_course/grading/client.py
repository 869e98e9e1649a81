"""The judge's end of the fork server: start it on a stage, send a problem, collect the answers, survive its death.

Limits are enforced twice: by the server on its child, and here on the server, which student code of the weakest tier
could stop or kill. A server that died or fell silent is killed with its whole session and started again for the next
problem. Read next: `judge.py`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cs336_course.grading import isolation
from cs336_course.grading.worker import wire

START_S = 600
GRACE_S = 10


class GraderError(RuntimeError):
    """The grader's own fault: never a student's zero."""


@dataclass(frozen=True)
class Limits:
    """What a submission may use, per problem."""

    case_s: float = 30.0
    memory_mb: int = 2048
    processes: int = 64
    file_mb: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be positive; got {value}")


@dataclass
class Outcome:
    """What came back for one problem."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    """per answered case: {"value": tree} or {"error", "message", "where"}, with "wall_s"; in the order of the cases"""
    reason: str = "done"
    """how it ended: done, timeout, memory, processes, output, server, `exit N` or `signal NAME`"""
    peak_mb: float = 0.0


class Worker:
    """A fork server on one staged submission; a context manager."""

    def __init__(self, stage: Path, tier: str, limits: Limits) -> None:
        self.stage, self.tier, self.limits = stage, tier, limits
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def ask(self, cases: list[dict[str, Any]]) -> Outcome:
        """Run cases {"driver", "inputs"} in one child of the server.

        Raises:
            GraderError: the server cannot be started.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        limits = {**vars(self.limits), "cpu_s": self.limits.case_s * (len(cases) + 1)}
        try:
            wire.write_frame(self._process.stdin.fileno(), wire.pack({"cases": cases, "limits": limits}))
        except BrokenPipeError:
            self._stop()
            return Outcome(reason="server")
        return self._collect(len(cases))

    def _collect(self, count: int) -> Outcome:
        """Read messages until the end of the problem."""
        outcome = Outcome()
        while True:
            message = self._message(self.limits.case_s + GRACE_S)
            if message is None or message.get("event") not in ("answer", "end"):
                self._stop()
                outcome.reason = "server"
                return outcome
            if message["event"] == "end":
                outcome.reason, outcome.peak_mb = str(message["reason"]), float(message["peak_mb"])
                return outcome
            if len(outcome.answers) < count:
                outcome.answers.append(_checked(message))

    def _start(self) -> None:
        """Start the server and wait until it has imported torch."""
        self._stop()
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            isolation.server_command(self.tier, self.stage),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**isolation.environment(), **self._temporary_folder()},
            cwd=self.stage,
            start_new_session=True,
        )
        self._reader = wire.FrameReader(2 * wire.MAX_FRAME_BYTES)
        self._frames: list[bytes] = []
        message = self._message(START_S)
        if message is None or message.get("event") != "ready":
            told = os.pread(self._errors.fileno(), 20_000, 0)[-2000:].decode(errors="replace").strip()
            self._stop()
            raise GraderError(f"the worker did not start in isolation {self.tier}: {told or 'no message'}")

    def _temporary_folder(self) -> dict[str, str]:
        """Outside a namespace or container, /tmp is shared: use a folder of the stage."""
        if self.tier != "process":
            return {}
        folder = self.stage / "tmp"
        folder.mkdir(exist_ok=True)
        return {"TMPDIR": str(folder), "HOME": str(folder)}

    def _message(self, timeout_s: float) -> dict[str, Any] | None:
        """The next message of the server; None when it is silent, gone or speaks nonsense."""
        assert self._process is not None and self._process.stdout is not None
        deadline, descriptor = time.monotonic() + timeout_s, self._process.stdout.fileno()
        while not self._frames:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(descriptor, 1 << 20) if ready else b""
            if not data:
                return None
            try:
                self._frames += self._reader.feed(data)
            except wire.WireError:
                return None
        try:
            message = wire.unpack(self._frames.pop(0))
        except wire.WireError:
            return None
        return message if isinstance(message, dict) else None

    def _stop(self) -> None:
        """Kill the server with everything in its session and group."""
        if self._process is None:
            return
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        self._errors.close()


def _checked(message: dict[str, Any]) -> dict[str, Any]:
    """An answer of the child, which may be anything, as {"value"} or {"error"}."""
    wall_s = float(message["wall_s"])
    try:
        answer = wire.unpack(message["payload"])
    except wire.WireError as error:
        return {"error": "SchemaError", "message": str(error), "where": "", "wall_s": wall_s}
    if isinstance(answer, dict) and isinstance(answer.get("value"), dict):
        return {"value": answer["value"], "wall_s": wall_s}
    if isinstance(answer, dict) and all(isinstance(answer.get(key), str) for key in ("error", "message", "where")):
        return {key: answer[key] for key in ("error", "message", "where")} | {"wall_s": wall_s}
    return {"error": "SchemaError", "message": "an answer of unknown form", "where": "", "wall_s": wall_s}
