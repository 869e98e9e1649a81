"""A lecture in the terminal: prose set by rich, code in colours, values beside it; all at once or key by key.

Read first: `notes.py`, from which the passages come.
"""

from __future__ import annotations

import sys
from typing import Any

from lectures.i18n.catalogue import translator
from lectures.pages.notes import passages
from lectures.recording.trace import TraceReader


def play(trace: dict[str, Any], *, language: str = "en", pause: bool = False) -> None:
    """Print a recorded lecture to standard output.

    Args:
        trace: the record.
        language: of the texts, where there is a catalogue.
        pause: wait for Enter after each text; "q" ends.
    """
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.syntax import Syntax

    console = Console()
    code: list[str] = []

    def flush() -> None:
        if code:
            console.print(Syntax("\n".join(code), "python", background_color="default", word_wrap=True))
            console.print()
            code.clear()

    for kind, text in passages(TraceReader(trace), translator(language, trace["meta"]["name"])):
        if kind == "code":
            code.append(text)
            continue
        flush()
        console.print(Markdown(text))
        console.print()
        if pause and input("[Enter: go on, q: stop] ").strip().lower() == "q":
            return
    flush()
    error = trace["meta"]["error"]
    if error:
        print(f"The lecture ended early at {error['where']}: {error['type']}: {error['message']}", file=sys.stderr)
