"""Notes of a lecture in Markdown: what it said, its code, and the values it showed, in the order of the run.

A function's definition is not repeated; a loop that says or shows the same thing again is told once, one that says
different things is told up to three times. Read next: `terminal.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lectures.content import fill
from lectures.i18n.catalogue import translator
from lectures.pages.briefs import brief
from lectures.recording.trace import TraceReader

MAX_TURNS = 3


def make_notes(trace: dict[str, Any], *, language: str = "en") -> str:
    """The notes, in a language that has a catalogue, else in English."""
    reader = TraceReader(trace)
    parts: list[str] = []
    code: list[str] = []
    for kind, text in passages(reader, translator(language, trace["meta"]["name"])):
        if kind == "code":
            code.append(text)
            continue
        parts += _block(code)
        code = []
        parts.append(text)
    parts += _block(code)
    error = trace["meta"]["error"]
    if error:
        parts.append(f"**The lecture ended early** at {error['where']}: {error['type']}: {error['message']}")
    return "\n\n".join(parts) + "\n"


def _block(lines: list[str]) -> list[str]:
    """Code as a fenced block."""
    return ["```python\n" + "\n".join(lines) + "\n```"] if lines else []


def passages(reader: TraceReader, translate: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """("text", Markdown) and ("code", a statement with the values it showed), in order."""
    told: dict[int, set[str]] = {}
    for step, statement in enumerate(reader.steps["statement"]):
        said = reader.said.get(step, [])
        text = "" if not said else said_markdown(said, translate)
        shown = _shown(reader, step)
        seen = told.setdefault(statement, set())
        if text + shown in seen or len(seen) >= MAX_TURNS:
            continue
        seen.add(text + shown)
        if text:
            yield "text", text
        elif reader.steps["kind"][step] in "lrx" and len(seen) == 1 or shown:
            yield "code", _code(reader, statement, shown if reader.steps["kind"][step] != "c" else "")


def _code(reader: TraceReader, statement: int, shown: str) -> str:
    """A statement's lines without directives, and its values as a comment."""
    first, last = reader.statements[statement][:2]
    lines = reader.files[reader.file_of(statement)]["source"].splitlines()[first - 1 : last]
    plain = [line.partition("  # @")[0].rstrip() for line in lines]
    margin = min((len(line) - len(line.lstrip()) for line in plain if line.strip()), default=0)
    return "\n".join(line[margin:] for line in plain) + (f"\n# {shown}" if shown else "")


def _shown(reader: TraceReader, step: int) -> str:
    """The values that a step showed."""
    pairs = [(name, value) for name, value in reader.changes.get(step, []) if value >= 0 and name[0] != "("]
    return ", ".join(f"{name} = {brief(reader.values[value])}" for name, value in pairs)


def said_markdown(said: list[dict[str, Any]], translate: Callable[[str], str]) -> str:
    """What was said, as Markdown."""
    return "".join(_markdown(rendering, translate) for rendering in said).strip("\n")


def _markdown(said: dict[str, Any], translate: Callable[[str], str]) -> str:
    """One rendering."""
    values = said.get("values", {})
    text = fill(translate(said["message"]), values) if said.get("message") else str(said["data"])
    kind = said["type"]
    if kind == "markdown":
        return f"```\n{said['data']}\n```" if said.get("verbatim") else text
    if kind == "quiz":
        return f"> **Question.** {text}\n>\n> **Answer.** {fill(translate(said['answer_message']), values)}"
    if kind == "exercise":
        test = f" (test: `{said['test']}`)" if said.get("test") else ""
        return f"> **Exercise.** {text}{test}"
    if kind == "link":
        url = said.get("reference", {}).get("url")
        title = said.get("reference", {}).get("title")
        name = f"{said['data']} *{title}*" if title and title != said["data"] else said["data"]
        return f"[{name}]({url})" if url else f"`{name}`" if said.get("target") else name
    if kind == "note":
        return ""
    return f"*({kind}: {said.get('alt') or (said['data'] if kind in ('image', 'video') else 'see the page')})*"
