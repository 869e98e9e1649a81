"""What a lecture can say: text, links, figures, notes, questions, exercises.

A lecture is a module with a `main()`; its sections are functions that `main()` calls. Each function here says one
thing. While the lecture is recorded, what is said goes to the record, at the statement that said it; in a plain run
nothing happens, so that `python lectures/lecture_01.py` only checks that the lecture works.

The calls and their arguments are those of the public course's lectures (`execute_util` of 2025, `edtrace` of
2026), so one of those runs unchanged. Two things differ, both for readers without a network: a picture on the web is
shown as a link and never fetched, and an arXiv address is not looked up (use a `Reference`).

Left out: `make_graph` layouts other than given positions. Read next: `README.md` for authors, `recording/recorder.py`.
"""

from __future__ import annotations

import inspect
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lectures.recording.figures import picture_of
from lectures.recording.lanes import spawn
from lectures.recording.speech import Rendering, lecture_folder, say

__all__ = [
    "Reference", "exercise", "graph", "image", "link", "make_graph", "note", "plot", "quiz", "spawn", "system_text",
    "text", "url_reference", "video",
]  # fmt: skip

Style = Mapping[str, Any] | None
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)((?:![rsa])?(?::[^{}]*)?)\}")


@dataclass(frozen=True)
class Reference:
    """A work to cite: every field may be missing."""

    title: str | None = None
    authors: Sequence[str] | None = None
    organization: str | None = None
    date: str | None = None
    url: str | None = None
    description: str | None = None
    notes: str | None = None

    def label(self) -> str:
        """[Lastname+ YEAR] where it has authors, else the title, else the address."""
        if self.authors:
            last = self.authors[0].split()[-1]
            year = re.search(r"\b(1[89]|20)\d\d\b", self.date or "")
            return f"[{last}{'+' if len(self.authors) > 1 else ''}{' ' + year.group() if year else ''}]"
        return self.title or self.url or self.organization or "[reference]"


def text(message: str, style: Style = None, verbatim: bool = False, **values: Any) -> None:
    """Say something in Markdown with `$mathematics$`.

    Args:
        message: the text. A text of several lines loses its common indentation.
        style: CSS properties by their JavaScript names, such as {"color": "gray"}.
        verbatim: show it letter by letter in a fixed-width face.
        values: what to put in place of `{name}` or `{name:.2f}` in the message: numbers, words, or what `link` takes.
            So a translation, which is found by the message, can place them too. Other braces stay as they are.
    """
    if "\n" in message and not verbatim:
        message = inspect.cleandoc(message)
    values = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
    links = {name: _link(value) for name, value in values.items() if not isinstance(value, (str, int, float))}
    words = values | {name: rendering.data for name, rendering in links.items()}
    say(Rendering("markdown", fill(message, words), style=dict(style or {}), verbatim=verbatim, message=message,
                  values=words, links={name: rendering.as_dict() for name, rendering in links.items()}))  # fmt: skip


def fill(message: str, values: Mapping[str, float | str]) -> str:
    """`message` with `{name:format}` replaced for the names in `values`; other braces are left alone."""

    def value(match: re.Match[str]) -> str:
        name, form = match.groups()
        return f"{{{name}{form}}}".format(**{name: values[name]}) if name in values else match.group()

    return _PLACEHOLDER.sub(value, message)


def image(url: str, style: Style = None, width: int | str | None = None, alt: str | None = None) -> None:
    """Show a picture: a file beside the lecture (embedded in the page), or an address on the web (shown as a link).

    Raises:
        ValueError: no such file.
    """
    _picture("image", url, style, width, alt)


def video(url: str, style: Style = None, width: int | str | None = None, alt: str | None = None) -> None:
    """Point to a film, which is never embedded."""
    _picture("video", url, style, width, alt)


def _picture(kind: str, url: str, style: Style, width: int | str | None, alt: str | None) -> None:
    """An image or video rendering."""
    look = dict(style or {}) | ({"width": width} if width is not None else {})
    path: str | None = None
    if not re.match(r"https?://", url):
        found = [p for p in (lecture_folder() / url, Path(url)) if p.is_file()]
        if not found:
            raise ValueError(f"no {kind} {url!r} beside the lecture ({lecture_folder()}) or in the current folder")
        path = str(found[0].resolve())
    say(Rendering(kind, url, style=look, path=path, alt=alt))


def link(arg: Any = None, style: Style = None, **kwargs: Any) -> None:
    """Point to a work, an address, or a function, class or module whose source the reader can open.

    Args:
        arg: a `Reference`, an address, a function, a class or a module; without it the keywords make a Reference.
        style: CSS properties.
        kwargs: the fields of a Reference.
    """
    rendering = _link(Reference(**kwargs) if arg is None else url_reference(arg) if isinstance(arg, str) else arg)
    rendering.style = dict(style or {})
    say(rendering)


def _link(arg: Any) -> Rendering:
    """A link to a Reference or to something with a source."""
    if isinstance(arg, Reference):
        fields = {key: value for key, value in vars(arg).items() if value}
        return Rendering("link", arg.label(), reference=fields)
    if not callable(arg) and not inspect.ismodule(arg):
        raise TypeError(
            f"link takes a Reference, an address, a function, a class or a module; got {type(arg).__name__}"
        )
    return Rendering("link", getattr(arg, "__name__", str(arg)), target=_place(arg))


def url_reference(url: str) -> Reference:
    """A reference of which only the address is known."""
    return Reference(url=url)


def _place(target: Any) -> dict[str, Any]:
    """Where a function, class or module is defined, and its source."""
    target = inspect.unwrap(target)
    try:
        lines, first = inspect.getsourcelines(target)
        path = inspect.getsourcefile(target) or ""
    except (OSError, TypeError) as error:
        raise ValueError(f"link to {target!r}: its source is not to be found ({error})") from error
    return {"path": path, "line": max(first, 1), "source": "".join(lines[:400])}


def plot(spec: Any, style: Style = None, alt: str | None = None) -> None:
    """Draw a matplotlib figure, or a Vega-Lite specification (a dict) by way of the package vl-convert-python.

    Args:
        spec: the figure or the specification.
        style: CSS properties.
        alt: what the drawing shows, in words, for readers who cannot see it.
    """
    say(
        Rendering(
            "plot", picture_of(spec), style=dict(style or {}), alt=alt, spec=spec if isinstance(spec, dict) else None
        )
    )


def note(message: str, style: Style = None) -> None:
    """Something for the presenter, which the page shows on demand."""
    say(Rendering("note", inspect.cleandoc(message), style=dict(style or {}), message=inspect.cleandoc(message)))


def system_text(command: Sequence[str]) -> None:
    """Run a command and show what it prints, without colours; a failing command shows its exit status too."""
    result = subprocess.run(list(command), capture_output=True, text=True, errors="replace", timeout=60)
    output = _ANSI.sub("", result.stdout + result.stderr).rstrip("\n")
    failed = f"\n(exit status {result.returncode})" if result.returncode else ""
    text(output + failed, verbatim=True)


def quiz(question: str, answer: str, **values: float | str) -> None:
    """A question whose answer the reader opens. Both are Markdown; `values` as in `text`."""
    question, answer = inspect.cleandoc(question), inspect.cleandoc(answer)
    say(Rendering("quiz", fill(question, values), answer=fill(answer, values), message=question, answer_message=answer,
                  values=dict(values)))  # fmt: skip


def needs(what: str, recorded: str = "") -> None:
    """Stands where a machine cannot run a branch: what it lacks, and what was recorded on another, with its date."""
    text("**Needs {what}**, which the machine that made this page lacks. {recorded}", what=what,
         recorded=f"Recorded elsewhere: {recorded}" if recorded else "Nothing is recorded yet.")  # fmt: skip


def exercise(
    task: str, *, function: Callable[..., Any] | type | None = None, test: str = "", **values: float | str
) -> None:
    """Something to do, with the function of the assignment that it prepares and the test that checks it.

    Args:
        task: what to do, in Markdown.
        function: our solution, which the page can open.
        test: path of a test in the repository, such as "tests/test_tokenizer.py".
        values: as in `text`.
    """
    task = inspect.cleandoc(task)
    place = {"name": function.__name__, **_place(function)} if function is not None else None
    say(Rendering("exercise", fill(task, values), message=task, values=dict(values), target=place, test=test))


def make_graph(
    nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, Any]], layout: str = "preset",
    stylesheet: Any = None, width: int | str = 500, height: int | str = 200,
) -> dict[str, Any]:  # fmt: skip
    """A graph as Cytoscape has it: nodes {"data": {"id", "label"}, "position": {"x", "y"}}, edges {"data": {...}}."""
    elements = {"nodes": [dict(n) for n in nodes], "edges": [dict(e) for e in edges]}
    return {"elements": elements, "layout": layout, "stylesheet": stylesheet, "width": width, "height": height}


def graph(spec: Mapping[str, Any] | None = None, style: Style = None, alt: str | None = None) -> None:
    """Draw a graph from `make_graph`; nodes without a position stand on a circle."""
    if spec is not None:
        say(Rendering("graph", dict(spec), style=dict(style or {}), alt=alt))
