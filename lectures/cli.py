"""The verbs `cs336 lectures ...`. Read next: `README.md`, `recording/session.py`, `pages/page.py`."""

from __future__ import annotations

import functools
import http.server
import sys
import time
import webbrowser
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from cs336_basics.runs.atomic import atomic_write
from cs336_basics.runs.command_line import parse

DEFAULT_OUT = Path("runs/lectures")


@dataclass(frozen=True)
class Build:
    """Run lectures and write a page for each, with an index: files that open in a browser without a network."""

    lectures: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """numbers, names or paths of lectures, such as 1 or lecture_01"""
    all: bool = False
    """all lectures"""
    out: Path = DEFAULT_OUT
    """folder of the pages"""
    jobs: int = 1
    """lectures that run at the same time"""
    max_steps: int = 20_000
    """steps after which a lecture is stopped"""
    seconds: float = 120.0
    """seconds after which a lecture is stopped"""


def build(argv: Sequence[str]) -> None:
    """`cs336 lectures build`.

    Raises:
        SystemExit: 1 if a lecture failed; its page shows how far it came.
    """
    options = parse(Build, argv, "lectures build", example="lectures build 1")
    from lectures.recording.session import all_lectures, find_lecture

    paths = all_lectures() if options.all else [find_lecture(name) for name in options.lectures]
    if not paths:
        raise ValueError("name a lecture, such as `cs336 lectures build 1`, or give --all")
    with ThreadPoolExecutor(max(options.jobs, 1)) as pool:  # the lectures run in processes of their own
        good = list(pool.map(functools.partial(_build_one, options=options, every=paths), paths))
    _write_index(options.out)
    print(options.out / "index.html")
    if not all(good):
        raise SystemExit(1)


def _build_one(path: Path, *, options: Build, every: Sequence[Path]) -> bool:
    """Record one lecture and write its page; whether all went well."""
    from lectures.pages.page import make_page
    from lectures.recording.recorder import Limits
    from lectures.recording.session import record

    begun = time.perf_counter()
    print(f"{path.stem}: running", file=sys.stderr)
    try:
        trace = record(path, limits=Limits(max_steps=options.max_steps, seconds=options.seconds))
    except (SyntaxError, RuntimeError, ValueError) as error:
        print(f"error: {path.stem}: {error}", file=sys.stderr)
        return False
    at = every.index(path)
    near = [every[i].stem if 0 <= i < len(every) else "" for i in (at - 1, at + 1)]
    html, problems = make_page(trace, index=True, previous=near[0], following=near[1])
    target = options.out / f"{path.stem}.html"
    with atomic_write(target, "w") as file:
        file.write(html)
    size, seconds = target.stat().st_size, time.perf_counter() - begun
    print(f"{target}  {len(trace['steps']['kind']):,} steps, {size / 1e6:.2f} MB, {seconds:.0f} s")
    return _report(trace, problems)


def _report(trace: dict[str, Any], problems: Sequence[str]) -> bool:
    """Say on standard error what was wrong; whether nothing was."""
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    error = trace["meta"]["error"]
    if error:
        print(f"error: {error['where']}: {error['type']}: {error['message']}", file=sys.stderr)
    return not (error or problems)


def _write_index(out: Path) -> None:
    """The index of the pages in a folder, from what the pages say of themselves."""
    from lectures.pages.index_page import entry_of, make_index

    entries = [entry_of(path) for path in sorted(out.glob("*.html")) if path.name != "index.html"]
    with atomic_write(out / "index.html", "w") as file:
        file.write(make_index([entry for entry in entries if entry is not None]))


@dataclass(frozen=True)
class Serve:
    """Serve the built pages on this machine, for browsers that do not open files."""

    out: Path = DEFAULT_OUT
    """folder of the pages"""
    port: int = 8336
    """port; 0 for any free one"""
    open: bool = False
    """open a browser"""


def serve(argv: Sequence[str]) -> None:
    """`cs336 lectures serve`."""
    options = parse(Serve, argv, "lectures serve", example="lectures serve --open")
    if not (options.out / "index.html").is_file():
        raise FileNotFoundError(f"no pages in {options.out}; build them first: cs336 lectures build --all")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(options.out))
    with http.server.ThreadingHTTPServer(("127.0.0.1", options.port), handler) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        print(f"{address}  (Ctrl-C ends)", flush=True)
        if options.open:
            webbrowser.open(address)
        server.serve_forever()


@dataclass(frozen=True)
class Run:
    """Play a lecture in the terminal."""

    lecture: Annotated[str, tyro.conf.Positional]
    """number, name or path"""
    pause: bool = False
    """wait for Enter after each text"""
    language: str = "en"
    """language of the texts, where there is a translation"""


def run(argv: Sequence[str]) -> None:
    """`cs336 lectures run`."""
    options = parse(Run, argv, "lectures run", example="lectures run 1 --pause")
    from lectures.pages.terminal import play

    trace = _record(options.lecture)
    play(trace, language=options.language, pause=options.pause)
    if trace["meta"]["error"]:
        raise SystemExit(1)


@dataclass(frozen=True)
class Notes:
    """Write the notes of a lecture in Markdown: what it says, its code, its values."""

    lecture: Annotated[str, tyro.conf.Positional]
    """number, name or path"""
    out: Path | None = None
    """file; standard output by default"""
    language: str = "en"
    """language of the texts, where there is a translation"""


def notes(argv: Sequence[str]) -> None:
    """`cs336 lectures notes`."""
    options = parse(Notes, argv, "lectures notes", example="lectures notes 1 --out notes.md")
    from lectures.pages.notes import make_notes

    trace = _record(options.lecture)
    text = make_notes(trace, language=options.language)
    if options.out is None:
        print(text, end="")
    else:
        with atomic_write(options.out, "w") as file:
            file.write(text)
        print(options.out)
    if trace["meta"]["error"]:
        raise SystemExit(1)


def _record(name: str) -> dict[str, Any]:
    """Record a lecture, saying so."""
    from lectures.recording.session import find_lecture, record

    path = find_lecture(name)
    print(f"{path.stem}: running", file=sys.stderr)
    return record(path)


@dataclass(frozen=True)
class Messages:
    """Bring the message catalogue of a lecture, or of the page itself, up to date for translators."""

    name: Annotated[str, tyro.conf.Positional]
    """number, name or path of a lecture, or ui for the words of the page"""
    language: str = "zh"
    """language of the catalogue"""


def messages(argv: Sequence[str]) -> None:
    """`cs336 lectures messages`."""
    options = parse(Messages, argv, "lectures messages", example="lectures messages 1 --language zh")
    from lectures.i18n.catalogue import FOLDER, extract, update
    from lectures.pages.strings import all_strings
    from lectures.recording.session import find_lecture

    if options.name == "ui":
        name, found = "ui", [(0, text) for text in all_strings()]
    else:
        path = find_lecture(options.name)
        name, found = path.stem, extract(path.read_text(encoding="utf-8"))
    target = FOLDER / options.language / f"{name}.po"
    total, missing = update(target, found, file=f"{name}.py")
    print(f"{target}: {total} texts, {missing} without a finished translation")
