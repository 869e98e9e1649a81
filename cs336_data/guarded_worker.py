"""A worker process that may die, and its keeper, who finds out at which document it did.

A parser of hostile pages can loop for ever, take all memory, or crash in native code where no exception is raised. So
the work is done by a child process, one per worker and not one per document:

    CPU time   before each record the child sets a timer; the kernel ends it (SIGPROF) if the record takes longer, even
               in the middle of native code. CPU time, not wall time: a busy machine does not change the result.
    memory     the address space is limited (RLIMIT_AS) to what the loaded models take and `document_memory_mb` more;
               Python raises MemoryError, native code dies.
    which one  the child writes the ordinal of the record it is about to read into a page of shared memory.

The keeper starts another child. A record that takes too long, or at which `strikes` children died, is set aside with
its reason; if the file still cannot be passed there, the rest of the file is given up. A child that somebody killed is
simply replaced and begins the file again. POSIX only. Read next: `executors.py`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cs336_data.file_task import FileTask, UnreadableFileError, process_file
from cs336_data.pipeline_config import LimitsConfig
from cs336_data.steps import StepConfig, build_steps

_WORD = struct.Struct("<q")
_MAX_DEATHS = 60  # at one file: whatever is wrong, it is not the documents
CPU_REASON, CRASH_REASON = "cpu_time_limit", "worker_died"


class WorkerError(RuntimeError):
    """The work cannot go on, for a reason that is not a document's: a full disk, a missing package, a wrong option."""


class GuardedWorker:
    """Keeps one child process; `run` works through one file. Used by one thread; `kill` may come from another."""

    def __init__(self, limits: LimitsConfig) -> None:
        if sys.platform == "win32":
            raise OSError("the pipeline's workers need timers and limits of POSIX; use Linux, macOS or WSL")
        self.limits = limits
        self._page_file = tempfile.TemporaryFile()
        self._page_file.write(bytes(mmap.PAGESIZE))
        self._page_file.flush()
        self._page = mmap.mmap(self._page_file.fileno(), mmap.PAGESIZE)
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = threading.Event()

    @property
    def ordinal(self) -> int:
        """The record the child is at."""
        return _WORD.unpack_from(self._page)[0]

    @property
    def pid(self) -> int | None:
        """The child's process id, if there is one."""
        return None if self._child is None else self._child.pid

    def run(self, task: FileTask) -> dict[str, Any]:
        """Work through a file, whatever happens to the child; returns the manifest.

        Raises:
            UnreadableFileError: the file cannot be read; others may.
            WorkerError: going on with other files would fail too.
        """
        skip: dict[int, str] = {}
        stop: tuple[int, str] | None = None
        deaths: Counter[int] = Counter()
        while not self._closed.is_set():
            reply = self._ask({"task": asdict(task), "skip": list(skip.items()), "stop": stop})
            if reply is not None:
                return _unpack(reply, task)
            at, code = self.ordinal, self._bury()
            reason = CPU_REASON if code == -signal.SIGPROF else CRASH_REASON
            deaths[at] += 1
            if sum(deaths.values()) >= _MAX_DEATHS:
                raise UnreadableFileError(
                    f"{_MAX_DEATHS} workers died at it, the last at record {at} (exit code {code})"
                )
            if reason == CRASH_REASON and deaths[at] < self.limits.strikes:
                continue
            deaths[at] = 0
            if at in skip:
                stop = (at, f"reading record {at} fails: {reason}")
            else:
                skip[at] = reason
        raise WorkerError("the worker was closed")

    def _ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The child's answer; None if it died."""
        child = self._child or self._start()
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except (BrokenPipeError, ValueError):
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def _start(self) -> subprocess.Popen[bytes]:
        _WORD.pack_into(self._page, 0, 0)
        root = str(Path(__file__).resolve().parents[1])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        command = [sys.executable, "-m", "cs336_data.guarded_worker", str(self._page_file.fileno()), str(os.getpid())]
        self._child = subprocess.Popen(
            [*command, json.dumps(asdict(self.limits))], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            pass_fds=[self._page_file.fileno()], env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is the keeper's business
        )  # fmt: skip
        return self._child

    def _bury(self) -> int:
        """Exit code of the dead child; the next one starts afresh."""
        child, self._child = self._child, None
        assert child is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()  # type: ignore[union-attr]
        child.stdout.close()  # type: ignore[union-attr]
        try:
            return child.wait(timeout=10)
        except subprocess.TimeoutExpired:  # it lives, but its pipe is gone
            child.kill()
            return child.wait()

    def kill(self) -> None:
        """End the child at once, from any thread; a `run` under way ends with WorkerError."""
        self._closed.set()
        child = self._child
        if child is not None:
            child.kill()

    def close(self) -> None:
        """End the child and give everything back; not during a `run`."""
        self.kill()
        if self._child is not None:
            self._bury()
        self._page.close()
        self._page_file.close()

    def __enter__(self) -> GuardedWorker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _unpack(reply: dict[str, Any], task: FileTask) -> dict[str, Any]:
    """The manifest, or the error that the child met."""
    if "manifest" in reply:
        return reply["manifest"]
    if reply["kind"] == "file":
        raise UnreadableFileError(reply["text"])
    raise WorkerError(reply["text"])


def child_main(argv: list[str]) -> None:
    """The child: a request per line on standard input, an answer per line on the original standard output."""
    page_fd, parent, limits = int(argv[0]), int(argv[1]), LimitsConfig(**json.loads(argv[2]))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    page = mmap.mmap(page_fd, mmap.PAGESIZE)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)

    def watch(ordinal: int) -> None:
        if os.getppid() != parent:
            os._exit(1)  # nobody waits for the answer any more
        _WORD.pack_into(page, 0, ordinal)
        signal.setitimer(signal.ITIMER_PROF, limits.document_cpu_s)

    state = _ChildState(limits)
    for line in sys.stdin.buffer:
        answer = state.answer(json.loads(line), watch)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


class _ChildState:
    """The steps, built once and kept from file to file."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits, self.key, self.steps = limits, "", []  # type: ignore[var-annotated]

    def answer(self, request: dict[str, Any], watch: Any) -> dict[str, Any]:
        """Work through the file of a request."""
        task = FileTask(**request["task"])
        skip = {int(ordinal): reason for ordinal, reason in request["skip"]}
        stop = request["stop"] and tuple(request["stop"])
        try:
            if self.key != task.fingerprint:
                self.steps = build_steps([StepConfig(**step) for step in task.config["steps"]])
                self.key = task.fingerprint
                warm_up(self.steps)
                _limit_memory(self.limits.document_memory_mb)
            return {"manifest": process_file(task, self.steps, skip=skip, stop=stop, watch=watch)}
        except UnreadableFileError as error:
            return {"kind": "file", "text": str(error)}
        except Exception as error:
            return {"kind": "machine", "text": _explain(error, task)}


def _explain(error: Exception, task: FileTask) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space left on the disk of {task.output}; what is done stays whole: free some space and give the same "
            "command again"
        )
    return str(error) if isinstance(error, (ImportError, OSError, ValueError)) else f"{type(error).__name__}: {error}"


def warm_up(steps: list[Any]) -> None:
    """Let every step load its model before memory is limited."""
    from cs336_data.document import Document
    from cs336_data.extraction import extract_html

    text = "The quick brown fox jumps over the lazy dog, and then it rests in the shade of the old tree. " * 20
    extract_html(b"<p>page</p>")
    for step in steps:
        step.apply(Document("warm-up", "", text))


def _limit_memory(extra_mb: int) -> None:
    """Forbid this process more than `extra_mb` beyond what it has now; Linux only, see `LimitsConfig`."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + extra_mb * 1_000_000
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))


if __name__ == "__main__":
    child_main(sys.argv[1:])
