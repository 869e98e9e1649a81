"""The way from a content call to whoever listens: a recorder while one is running, nobody otherwise.

The listener is a context variable, so that several recorders in one process (tests) do not hear each other and other
threads of a lecture are not heard at all. Read next: `recorder.py`.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass
class Rendering:
    """One thing said by a lecture.

    Attributes:
        type: markdown, image, video, link, plot, note, quiz, exercise or graph.
        data: the text, the address, the label of a link, the drawing as SVG, or a graph.
        message: the text as the author wrote it, before values were put in: the key of its translations.
        values: what was put in; of links their labels.
        links: the links among them, as renderings.
    """

    type: str
    data: Any
    style: dict[str, Any] = field(default_factory=dict)
    verbatim: bool = False
    message: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    links: dict[str, Any] = field(default_factory=dict)
    path: str | None = None
    alt: str | None = None
    reference: dict[str, Any] | None = None
    target: dict[str, Any] | None = None
    test: str = ""
    answer: str = ""
    answer_message: str = ""
    spec: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields that are not empty, for the trace."""
        return {key: value for key, value in vars(self).items() if value or key in ("type", "data")}


class Listener(Protocol):
    """Who hears what a lecture says."""

    folder: Path

    def hear(self, rendering: Rendering) -> None:
        """Take one rendering."""


LISTENER: ContextVar[Listener | None] = ContextVar("LISTENER", default=None)


def say(rendering: Rendering) -> None:
    """Hand a rendering to the listener, if any."""
    listener = LISTENER.get()
    if listener is not None:
        listener.hear(rendering)


def lecture_folder() -> Path:
    """Where the lecture's own files are looked for."""
    listener = LISTENER.get()
    return listener.folder if listener is not None else Path(__file__).parents[1]
