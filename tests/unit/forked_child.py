"""A child process with a program of the tests in it, to be interrupted and killed: like `subprocess.Popen`, started cheaply.

It is forked from the server of `tests/processes.py`, which has imported torch: a new interpreter would take seconds for
that, each time. Its output goes to files, so that no pipe fills up.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.processes import PRELOADED


class ForkedChild:
    """A process that calls `work(*arguments)` and exits with what it returns; `work` is a function of a module."""

    def __init__(self, work: Callable[..., int | None], *arguments: Any) -> None:
        context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
        if sys.platform != "win32":
            context.set_forkserver_preload(PRELOADED)
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._outputs = [Path(folder, name) for name in ("out", "err")]
        self._process = context.Process(target=_run, args=(work, arguments, self._outputs))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """As Popen's: None while it runs, negative after a signal."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """To this process, by its id."""
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it has written.

        Raises:
            TimeoutExpired: it still runs.
        """
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
        out, err = (path.read_text(encoding="utf-8") if path.exists() else "" for path in self._outputs)
        return out, err


def _run(work: Callable[..., int | None], arguments: tuple[Any, ...], outputs: list[Path]) -> None:
    """In the child."""
    import torch

    torch.set_num_threads(1)
    for number, path in enumerate(outputs, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.exit(work(*arguments))
