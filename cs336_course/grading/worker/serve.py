"""The fork server: imports torch once, then runs each problem of a submission in a child of its own.

    judge --stdin--> server --fork--> child: student code --private pipe--> server --stdout--> judge

The server never imports student code and never knows an expected value. Per problem it gives the child a fresh folder,
limits (wall time per case, memory, processes, file size), and afterwards ends whatever the child left behind: inside
a PID namespace the server is process 1 and kills all others at once; elsewhere it adopts orphans and sweeps them.

Run as `python -I -B serve.py FOLDER` with FOLDER/student and FOLDER/worker; imports the standard library before torch.
Left out: expected values and comparison (`../judge.py`), isolation (`sandbox.py`). Read next: `registry.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.machinery
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

POLL_S = 0.05
NO_NEW_PRIVILEGES, CHILD_SUBREAPER, DUMPABLE = 38, 36, 4


def main() -> None:
    """Answer requests until standard input ends."""
    root = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(root))
    wire, drivers = importlib.import_module("worker.wire"), importlib.import_module("worker.registry")
    del sys.path[0]
    requests, answers = _take_over_streams()
    _prctl(CHILD_SUBREAPER, 1)
    _prctl(DUMPABLE, 0)  # no child may look into this process
    import torch

    drivers.prepare()
    importlib.import_module("torch._dynamo")  # the first step of any torch optimizer imports it: seconds, here once
    torch.set_num_threads(1)
    wire.write_frame(answers, wire.pack({"event": "ready", "torch": str(torch.__version__)}))
    reader = wire.FrameReader(1 << 30)
    while data := os.read(requests, 1 << 20):
        for frame in reader.feed(data):
            _Problem(wire, drivers, root, wire.unpack(frame), (requests, answers)).run()


def _take_over_streams() -> tuple[int, int]:
    """Private copies of standard input and output; student prints go nowhere."""
    copies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    return copies


class _Problem:
    """One request: a child, watched until it has answered all cases or broken a limit."""

    def __init__(self, wire: Any, drivers: Any, root: Path, request: dict[str, Any], private: tuple[int, int]) -> None:
        self.wire, self.drivers, self.root, self.request, self.private = wire, drivers, root, request, private
        self.peak_bytes = 0
        self.answered = 0

    def run(self) -> None:
        folder = tempfile.mkdtemp(prefix="problem-")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._child(folder, writing)
        os.close(writing)
        try:
            reason = self._watch(child, reading)
        finally:
            os.close(reading)
            _end_all(child)
            shutil.rmtree(folder, ignore_errors=True)
        self._send({"event": "end", "reason": reason, "peak_mb": self.peak_bytes / 2**20})

    def _child(self, folder: str, writing: int) -> None:
        """Answer each case; never returns."""
        try:
            os.setsid()
            _prctl(DUMPABLE, 1)  # the server watches its memory
            for descriptor in self.private:
                os.close(descriptor)
            os.chdir(folder)
            _limit_child(self.request["limits"])
            adapters: Any = None
            for case in self.request["cases"]:
                try:
                    if adapters is None:
                        adapters = _import_student(self.root / "student")
                    answer = {"value": self.drivers.run(case["driver"], adapters, case["inputs"])}
                    payload = self.wire.pack(answer)
                except BaseException as error:
                    payload = self.wire.pack(_told(error, self.root))
                self.wire.write_frame(writing, payload)
        finally:
            os._exit(0)

    def _watch(self, child: int, reading: int) -> str:
        """Pass frames on to the judge; returns why the child ended."""
        limits, reader, since = self.request["limits"], self.wire.FrameReader(), time.monotonic()
        finished: str | None = None
        while True:
            ready, _, _ = select.select([reading, self.private[0]], [], [], 0 if finished else POLL_S)
            if self.private[0] in ready:  # the judge asks one problem at a time: it is gone
                raise SystemExit
            if ready:
                data = os.read(reading, 1 << 20)
                try:
                    frames = reader.feed(data)
                except self.wire.WireError:
                    return "output"
                for frame in frames:
                    now = time.monotonic()
                    self._send({"event": "answer", "wall_s": now - since, "payload": frame})
                    since, self.answered = now, self.answered + 1
                if self.answered >= len(self.request["cases"]):
                    return "done"
                if not data:
                    return finished or _how(os.waitpid(child, 0)[1])
            elif finished:
                return finished
            finished = finished or _exit_of(child)
            if time.monotonic() - since > limits["case_s"]:
                return "timeout"
            if (broken := self._over(child, limits)) is not None:
                return broken

    def _over(self, child: int, limits: dict[str, Any]) -> str | None:
        """The limit that the child's family exceeds, if any."""
        family = [pid for pid in _family(child) if pid != os.getpid()]
        if len(family) > limits["processes"]:
            return "processes"
        used = sum(map(_resident_bytes, family))
        if len(family) > 1 or used > limits["memory_mb"] * 2**20:
            used = sum(map(_proportional_bytes, family))
        self.peak_bytes = max(self.peak_bytes, used)
        return "memory" if used > limits["memory_mb"] * 2**20 else None

    def _send(self, message: dict[str, Any]) -> None:
        self.wire.write_frame(self.private[1], self.wire.pack(message))


class _StudentFinder:
    """Finds the course's packages in the submission and nowhere else, so that no installed reference is reached."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        top = name.partition(".")[0]
        if not (top.startswith("cs336_") or top == "tests"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, [self.root] if path is None else path)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r} in the submission", name=name)
        return spec


def _import_student(root: Path) -> Any:
    """The submission's tests/adapters.py."""
    sys.meta_path.insert(0, _StudentFinder(root))
    sys.path.append(str(root))  # last, so that a file named numpy.py shadows nothing
    return importlib.import_module("tests.adapters")


def _told(error: BaseException, root: Path) -> dict[str, Any]:
    """An exception as plain text, with the innermost line of the submission that raised it."""
    line, trace = "", error.__traceback__
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if path.startswith(str(root / "student")):
            line = f"{os.path.relpath(path, root / 'student')}:{trace.tb_lineno}"
        trace = trace.tb_next
    try:
        text = str(error)[:500]
    except BaseException:
        text = "(its message could not be made)"
    return {"error": type(error).__name__, "message": text, "where": line}


def _limit_child(limits: dict[str, Any]) -> None:
    """Resource limits; none on address space, which the course's own memory test sets itself."""
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits["file_mb"] << 20),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CPU, int(limits["cpu_s"])),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))
    _prctl(NO_NEW_PRIVILEGES, 1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _prctl(option: int, value: int) -> None:
    """prctl(2) where there is one."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _exit_of(child: int) -> str | None:
    """How the child ended, or None while it runs."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return _how(status) if pid else None


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"


def _family(child: int) -> list[int]:
    """All other processes inside a PID namespace, else the descendants of this server."""
    parents = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
    if os.getpid() == 1:
        return [pid for pid in parents if pid != 1]
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted((found | {child}) - {os.getpid()})


def _resident_bytes(pid: int) -> int:
    """Memory of its own, in which pages that forked copies share count in full: cheap, never too little."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(pages[1]) - int(pages[2])) * resource.getpagesize()  # without files mapped and memory shared
    return 0


def _proportional_bytes(pid: int) -> int:
    """Memory of its own, each page divided by the number of processes that hold it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        found = [int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))]
        if found:
            return sum(found) * 1024
    return _resident_bytes(pid)


def _end_all(child: int) -> None:
    """Kill the child and everything it started, wherever it hides, and collect them."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    for _ in range(50):
        if os.getpid() == 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        else:
            for pid in _family(child):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            time.sleep(0.01)  # some are not collected yet
            continue
        return  # no children left


if __name__ == "__main__":
    main()
