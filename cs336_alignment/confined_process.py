"""A worker process that answers one JSON line per JSON line, within limits of time and memory.

What a model wrote may ask for 9**9**9. So whatever evaluates it runs in a process of its own that is ended when its time is
over and started again for the next question. The worker limits its own memory (`limit_memory`); it gets no
environment, and Python's isolated mode keeps it from reading the folder it was started in.

Left out: on Windows, the limit of memory. Read next: `symbolic.py`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

_START_S = 60.0  # for the interpreter and its imports on a busy machine


class ConfinedProcess:
    """Runs `python -I <arguments>`, which must print a line once it is ready; safe to use from several threads.

    Args:
        arguments: what stands behind the interpreter, such as ("-m", "module") or a script and its arguments.
        seconds: wall time of one answer.

    Raises:
        ValueError: seconds not positive.
    """

    def __init__(self, arguments: Sequence[str], *, seconds: float):
        if not seconds > 0:
            raise ValueError(f"seconds must be positive; got {seconds}")
        self.arguments, self.seconds = list(arguments), seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, question: dict[str, Any]) -> dict[str, Any] | None:
        """The worker's answer; None if it took too long or died over it."""
        with self._lock:
            process = self._running()
            answer = self._exchange(process, json.dumps(question) + "\n", self.seconds)
            if answer is None:
                self._end()
                return None
            return json.loads(answer)

    def close(self) -> None:
        """End the worker; the next question starts another."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-I", *self.arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, encoding="utf-8", env={}, cwd=tempfile.gettempdir(),
            )  # fmt: skip
            if self._exchange(self._process, "", _START_S) is None:
                self._end()
                raise RuntimeError(
                    f"the worker {' '.join(self.arguments)} did not start; is the machine out of memory?"
                )
        return self._process

    def _exchange(self, process: subprocess.Popen[str], line: str, seconds: float) -> str | None:
        """Send a line, wait for one; the process is ended when the time is over."""
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(line)
                process.stdin.flush()
            return process.stdout.readline() or None
        finally:
            timer.cancel()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            process.wait()
