"""The tool of the chat models: a calculator in a process of its own, confined in time, memory and code.

    48 / 2 -> 24      "strawberry".count("r") -> 3      9 ** 9 ** 9 -> error: took longer than 1 s

The worker is started at the first use, kept for the next, and ended when it misses its time; `calculator_worker.py`
says what it accepts. A model may write anything between `<|python_start|>` and `<|python_end|>`; whatever it is, the
answer is one short text.

Left out: whole programs; on Windows, the limit of memory. Read next: `calculator_worker.py`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType

_START_S = 60.0  # for the interpreter to start on a busy machine


class Calculator:
    """Evaluates expressions; use it as a context manager, or close it.

    Args:
        seconds: wall time of one expression.
        megabytes: memory of the worker, the interpreter's own (about 20) included.

    Raises:
        ValueError: a limit too small.
    """

    def __init__(self, *, seconds: float = 1.0, megabytes: int = 256):
        if not seconds > 0 or megabytes < 64:
            raise ValueError(f"need seconds > 0 and megabytes >= 64; got {seconds} and {megabytes}")
        self.seconds, self.megabytes = seconds, megabytes
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[str] | None = None

    def __enter__(self) -> Calculator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def evaluate(self, code: str) -> str:
        """The value of an expression, or `error: ` and the reason; from any thread.

        Args:
            code: what the model wrote.
        """
        with self._lock:
            worker = self._running()
            answer = self._ask(worker, json.dumps({"code": code}) + "\n", self.seconds)
            if answer is None:
                self._end()
                return f"error: took longer than {self.seconds:g} s"
        found = json.loads(answer)
        return found["value"] if "value" in found else f"error: {found['error']}"

    def close(self) -> None:
        """End the worker."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[str]:
        """The worker, started if there is none."""
        if self._worker is None or self._worker.poll() is not None:
            self._end()
            script = Path(__file__).with_name("calculator_worker.py")
            self._worker = subprocess.Popen(
                [sys.executable, "-I", "-S", str(script), str(self.megabytes), str(self.seconds)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
                env={}, cwd=tempfile.gettempdir(),
            )  # fmt: skip
            if self._ask(self._worker, "", _START_S) is None:
                self._end()
                raise RuntimeError("the calculator's process did not start; is the machine out of memory?")
        return self._worker

    def _ask(self, worker: subprocess.Popen[str], line: str, seconds: float) -> str | None:
        """Send a line and wait for one; None if the process ended, which it does when the time is over."""
        assert worker.stdin is not None and worker.stdout is not None
        timer = threading.Timer(seconds, worker.kill)
        timer.start()
        try:
            worker.stdin.write(line)
            worker.stdin.flush()
            return worker.stdout.readline() or None
        except BrokenPipeError:
            return None
        finally:
            timer.cancel()

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.kill()
        for pipe in (worker.stdin, worker.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        worker.wait()
