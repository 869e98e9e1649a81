"""Every lecture runs, plainly and recorded, within its bounds; and the commands around them."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import re
import runpy
import sys
import traceback
import warnings
from pathlib import Path

import jsonschema
import pytest

from cs336_course.cli import main
from lectures.cli import notes, run
from lectures.pages.page import make_page
from lectures.recording import session
from lectures.recording.session import all_lectures, record
from tests.processes import PRELOADED

ROOT = Path(__file__).parents[3]
LECTURES = all_lectures()


def seconds_allowed(share: float) -> float:
    """Sixty seconds, and more where the machine is shared: the limit of the course is for a quiet one."""
    return 60 * share * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def record_all(connection) -> None:
    """Records the lectures that are asked for, in processes forked from this one, which imports for all of them."""
    import matplotlib.backends.backend_svg  # noqa: F401
    import torch._dynamo  # noqa: F401

    for path in iter(connection.recv, None):
        try:
            connection.send(record(path, method="fork"))
        except BaseException as error:
            connection.send(error)


@pytest.fixture(scope="module")
def recorded():
    """Function (path) that records a lecture; `record` alone would import torch for each, and is tested elsewhere."""
    if sys.platform == "win32":
        yield record
        return
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=record_all, args=(theirs,))
    with session._environment(PYTHONHASHSEED="0"):
        process.start()
    theirs.close()

    def ask(path: Path):
        mine.send(path)
        return mine.recv()

    yield ask
    mine.send(None)
    process.join(10)
    process.kill()
    process.join()


@pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)
def test_a_recorded_lecture_is_whole_and_small(path, recorded):
    trace = recorded(path)
    assert isinstance(trace, dict), trace
    assert trace["meta"]["error"] is None and trace["meta"]["problems"] == []
    schema = Path(session.__file__).with_name("trace.schema.json").read_text(encoding="utf-8")
    jsonschema.validate(trace, json.loads(schema))
    html, problems = make_page(trace)
    assert problems == []
    assert len(html.encode()) < 2_000_000
    assert not re.search(r'(?:src|href|url\()\s*=?\s*["\']?https?://[^"\']*\.(?:js|css|woff2?|png|jpg|svg)', html)


def run_plainly(path: Path, sender) -> None:
    """As `python lecture.py` does, in a process that has torch already; sends what it printed, or its error."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("error", SyntaxWarning)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(str(path), run_name="__main__")
        sender.send(printed.getvalue())
    except BaseException:
        sender.send(traceback.format_exc())


@pytest.mark.long  # the recorded run makes the same assertions
@pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)
def test_a_lecture_runs_plainly(path):
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_plainly, args=(path, sender))
    process.start()
    sender.close()
    try:
        assert receiver.poll(seconds_allowed(4)), "no end"
        assert receiver.recv() == ""
    finally:
        process.join(10)
        process.kill()
        process.join()


@pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)
def test_a_lecture_is_written_as_agreed(path):
    source = path.read_text(encoding="utf-8")
    assert source.isascii(), "write other letters as escapes"
    for folder, test in re.findall(r'test="(tests/[^":]*)([^"]*)"', source):
        assert (ROOT / folder).is_file(), f"{path.name} names {folder}{test}, which is not there"


def test_notes_and_the_terminal(write_lecture, capsys, tmp_path):
    lecture = write_lecture("""
        from lectures.content import link, quiz, text
        def main():
            text("# A *title*")
            text("see "), link(title="Paper", url="https://example.org"), text(" now")
            for i in range(9):  # @inspect i
                text("turn {i}", i=i)
            quiz("Why?", "So.")
    """)
    notes([str(lecture), "--out", str(tmp_path / "notes.md")])
    text = (tmp_path / "notes.md").read_text(encoding="utf-8")
    assert text.startswith("# A *title*\n\nsee [Paper](https://example.org) now\n")
    assert "```python\nfor i in range(9):\n# i = 0\n```" in text and "turn 2" in text and "turn 8" not in text
    assert "> **Answer.** So." in text
    capsys.readouterr()
    run([str(lecture)])
    assert "turn 1" in capsys.readouterr().out


def test_the_course_command_knows_the_verbs(capsys, tmp_path):
    assert main(["lectures", "--help"]) == 0
    shown = capsys.readouterr().out
    for verb in ("build", "serve", "run", "notes", "messages"):
        assert f"lectures {verb}" in shown
    assert main(["lectures", "build"]) == 1 and "name a lecture" in capsys.readouterr().err
    assert main(["lectures", "build", "77"]) == 1 and "lecture_77" in capsys.readouterr().err
    assert main(["lectures", "serve", "--out", str(tmp_path)]) == 1 and "build them first" in capsys.readouterr().err
