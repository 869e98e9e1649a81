"""Running a lecture under the recorder: finding its file, loading it rewritten, calling `main()`, stopping it in time.

A lecture may name further modules to step into, one of its own beside it or one of the library:

    __lecture_visible__ = ["cs336_basics.nn_utils"]

They are rewritten when they are first imported, which is why `record` works in a process of its own.

The public course's module names for the content calls, `execute_util` and `edtrace`, lead to `lectures.content` while a
lecture runs. The network is out of reach: a lecture must not depend on it.

Read next: `trace.py`.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lectures.recording.instrument import HOOK, instrument
from lectures.recording.recorder import LectureStopped, Limits, Recorder
from lectures.recording.speech import LISTENER
from lectures.recording.statements import Problem, read_statements

FOLDER = Path(__file__).parents[1]
VISIBLE = "__lecture_visible__"
PATIENCE = 5  # times a time limit, for a lecture on a busy machine


def find_lecture(name: str | int) -> Path:
    """The file of a lecture: from its number, its module name (with or without ".py"), or a path.

    Raises:
        FileNotFoundError: there is none.
    """
    words = str(name)
    if words.isdigit():
        words = f"lecture_{int(words):02d}"
    file = words if words.endswith(".py") else f"{words}.py"
    for path in (Path(file), FOLDER / Path(file).name):
        if path.is_file():
            return path.resolve()
    known = ", ".join(path.stem for path in all_lectures()) or "none yet"
    raise FileNotFoundError(f"no lecture {words!r}: neither a file {file} nor one of {known}")


def all_lectures() -> list[Path]:
    """The files of all lectures, in order."""
    return sorted(FOLDER.glob("lecture_[0-9][0-9]*.py"))


def load_module(path: Path, recorder: Recorder | None, name: str | None = None) -> types.ModuleType:
    """Import a file under `name` (by default its own), rewritten if there is a recorder.

    Raises:
        SyntaxError: the file is no Python.
    """
    name = name or path.stem
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    if recorder is None:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    else:
        _execute(module, path, recorder)
    return module


def _execute(module: types.ModuleType, path: Path, recorder: Recorder) -> None:
    """Run a file's rewritten code as the body of `module`."""
    file = read_statements(
        path.read_text(encoding="utf-8"), shown_path(path, recorder.folder), file=len(recorder.files)
    )
    offset, function_offset = recorder.add_file(file, module.__dict__)
    tree = instrument(file, offset=offset, function_offset=function_offset)
    module.__dict__[HOOK] = recorder
    exec(compile(tree, str(path), "exec"), module.__dict__)


def load_function(path: Path, name: str, recorder: Recorder | None) -> Callable[..., Any]:
    """A function at the top level of a file."""
    with _visible_modules(path, recorder):
        return getattr(load_module(path, recorder), name)


def shown_path(path: Path, folder: Path) -> str:
    """A path as the reader sees it: relative to the repository, or to the lecture's folder."""
    for base in (FOLDER.parent, folder):
        with contextlib.suppress(ValueError):
            return path.resolve().relative_to(base.resolve()).as_posix()
    return path.name


def record(path: Path, *, limits: Limits | None = None, method: str = "spawn") -> dict[str, Any]:
    """Run a lecture in a process of its own and return its trace (see `trace.py`).

    What goes wrong in the lecture is in the trace: `meta.error`, `meta.problems`.

    Args:
        limits: what it may use.
        method: how multiprocessing starts the process; "fork" is for a caller that has loaded what lectures import,
            but none of the modules they step into, and was itself started with PYTHONHASHSEED=0.

    Raises:
        RuntimeError: the process died or hung beyond its limit.
        SyntaxError: the lecture is no Python.
    """
    limits = limits or Limits()
    context: Any = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_record_main, args=(sender, str(path), limits))
    with _environment(PYTHONHASHSEED="0"):  # else the order of a set of words differs from run to run
        process.start()
    sender.close()
    try:
        result = _received(receiver, process, PATIENCE * limits.seconds + 30)
    finally:
        if process.is_alive():
            process.kill()
        process.join()
    if isinstance(result, BaseException):
        raise result
    return result


def _received(receiver: Any, process: Any, seconds: float) -> Any:
    """What the process sends."""
    if not receiver.poll(seconds):
        raise RuntimeError(f"the lecture did not stop {seconds:.0f} seconds after it began, not even when asked to")
    try:
        return receiver.recv()
    except EOFError:
        process.join(10)
        raise RuntimeError(
            f"the lecture's process ended with exit code {process.exitcode} (-9: out of memory?) before its record did"
        ) from None


def _record_main(sender: Any, path: str, limits: Limits) -> None:
    """The process that records."""
    try:
        sender.send(record_here(Path(path), limits=limits))
    except (SyntaxError, OSError, ValueError) as error:
        sender.send(error)


def record_here(path: Path, *, limits: Limits) -> dict[str, Any]:
    """Run a lecture in this process and return its trace. Global seeds are set; use `record` but in tests."""
    from lectures.recording.trace import make_trace

    error: dict[str, Any] | None = None
    sys.path.insert(0, str(path.parent))
    _seed()
    begun = time.perf_counter()
    with recording(path, limits) as recorder:
        try:
            with quiet_output(recorder), no_network(), time_limit(limits.seconds), _visible_modules(path, recorder):
                module = load_module(path, recorder)
                _seed()  # again, for the libraries that the lecture has loaded
                main = getattr(module, "main", None)
                if not callable(main):
                    raise ValueError(f"{path.name} has no function main()")
                main()
        except LectureStopped as stop:
            error = {"type": "stopped", "message": str(stop), "where": _where(recorder), "traceback": ""}
        except SyntaxError:
            raise
        except BaseException as raised:
            tail = "".join(traceback.format_exception(raised, limit=-8))
            error = {"type": type(raised).__name__, "message": str(raised), "traceback": tail,
                     "where": _where(recorder, raised)}  # fmt: skip
        finally:
            sys.path.remove(str(path.parent))
    return make_trace(recorder, path, seconds=time.perf_counter() - begun, error=error)


def _where(recorder: Recorder, error: BaseException | None = None) -> str:
    """File and line of the last step, or of the innermost line of the lecture in a traceback."""
    names = {str(FOLDER.parent / f.path): f.path for f in recorder.files} | {
        str(recorder.folder / f.path): f.path for f in recorder.files
    }
    frames = traceback.extract_tb(error.__traceback__) if error else []
    for frame in reversed(frames):
        if frame.filename in names:
            return f"{names[frame.filename]}:{frame.lineno}"
    if recorder.steps:
        statement = recorder.statements[recorder.steps[-1][1]]
        return f"{recorder.files[statement.file].path}:{statement.first}"
    return ""


@contextlib.contextmanager
def recording(path: Path, limits: Limits) -> Iterator[Recorder]:
    """A recorder that hears the content calls of the block."""
    recorder = Recorder(limits=limits, folder=path.parent)
    token = LISTENER.set(recorder)
    try:
        yield recorder
    finally:
        LISTENER.reset(token)


@contextlib.contextmanager
def quiet_output(recorder: Recorder) -> Iterator[None]:
    """sys.stdout and sys.stderr go to the recorder's console."""
    with contextlib.redirect_stdout(recorder.console), contextlib.redirect_stderr(recorder.console):
        yield


@contextlib.contextmanager
def no_network() -> Iterator[None]:
    """Connections of Python code beyond this machine fail, so that a lecture that needs one is found out."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1"):
            raise OSError(f"lectures run without a network; this one tried to reach {host}")
        connect(self, address)

    socket.socket.connect = local_only  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop the block with LectureStopped after some seconds, if the system has alarms and this is the main thread.

    A process that got less than half a processor meanwhile is not to blame, and has up to PATIENCE times as long.
    """
    begun, rings = time.process_time(), 0

    def ring(*_: object) -> None:
        nonlocal rings
        rings += 1
        if rings < PATIENCE and time.process_time() - begun < seconds / 2:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            return
        raise LectureStopped(f"more than {seconds:g} seconds")

    try:
        before = signal.signal(signal.SIGALRM, ring)
    except (AttributeError, ValueError):
        yield
        return
    others = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *others)  # a test runner's own alarm goes on


def _seed() -> None:
    """The same random numbers in every run, of the libraries that are loaded."""
    random.seed(0)
    for name, seed in (("numpy.random", "seed"), ("torch", "manual_seed")):
        if name in sys.modules:
            getattr(sys.modules[name], seed)(0)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables that hold in the block, for the process it starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@contextlib.contextmanager
def _visible_modules(path: Path, recorder: Recorder | None) -> Iterator[None]:
    """Let the modules that the lecture names be rewritten on import, and the public names of the content calls work."""
    import lectures.content

    aliases = [name for name in ("execute_util", "edtrace") if importlib.util.find_spec(name) is None]
    for name in aliases:
        sys.modules[name] = lectures.content
    finder = _Finder(visible_names(path), recorder) if recorder is not None else None
    if finder is not None and recorder is not None:
        for name in sorted(finder.names & set(sys.modules)):
            text = f"{VISIBLE} names {name}, which was imported before the lecture began"
            recorder.problems.append(Problem(shown_path(path, recorder.folder), 1, text))
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder is not None:
            sys.meta_path.remove(finder)
        for name in aliases:
            sys.modules.pop(name, None)


def visible_names(path: Path) -> set[str]:
    """The modules that a lecture wants stepped into.

    Raises:
        ValueError: `__lecture_visible__` is not a list of names.
    """
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == VISIBLE for t in node.targets):
            try:
                names = ast.literal_eval(node.value)
            except ValueError:
                names = None
            if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(n, str) for n in names):
                raise ValueError(f"{path.name}:{node.lineno}: {VISIBLE} must be a list of module names in quotes")
            return set(names)
    return set()


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the named modules rewritten."""

    def __init__(self, names: set[str], recorder: Recorder | None):
        self.names, self.recorder = names, recorder

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The usual place, with this loader."""
        if fullname not in self.names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            return None
        return importlib.util.spec_from_file_location(fullname, spec.origin, loader=_SourceOf(self, spec.origin))


class _SourceOf(importlib.abc.Loader):
    """Loads one file rewritten."""

    def __init__(self, finder: _Finder, origin: str):
        self.finder, self.origin = finder, origin

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the rewritten file."""
        assert self.finder.recorder is not None
        _execute(module, Path(self.origin), self.finder.recorder)
