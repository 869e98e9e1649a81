"""The outline of a lecture: its headings, and the sections (functions) that have none, with the step where each begins.

Read next: `page.py`.
"""

from __future__ import annotations

import re
from typing import Any

from lectures.recording.trace import TraceReader

HEADING = re.compile(r"^(#{1,4})\s+(.+?)\s*#*$", re.MULTILINE)


def make_outline(reader: TraceReader, translators: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries {step, level, title, titles by language, section}, in the order of the steps.

    A heading said again by the same statement (in a loop) is one entry. `section` is the function's name.
    """
    entries: list[dict[str, Any]] = []
    seen: set[Any] = set()
    with_heading: set[int] = set()
    for step, said in sorted(reader.said.items()):
        for rendering in said:
            found = (
                HEADING.search(rendering["data"])
                if rendering["type"] == "markdown" and not rendering.get("verbatim")
                else None
            )
            if found is None:
                continue
            frame = reader.steps["frame"][step]
            with_heading.add(frame)
            key = (reader.steps["statement"][step], found[2])
            if key in seen:
                continue
            seen.add(key)
            titles = {
                code: _heading(translate(rendering.get("message", "")), found[2])
                for code, translate in translators.items()
            }
            entries.append({"step": step, "level": len(found[1]), "titles": titles, "section": _section(reader, frame)})
    entries += _sections_without_heading(reader, with_heading, translators)
    entries.sort(key=lambda entry: entry["step"])
    return _indented(entries)


def _heading(text: str, otherwise: str) -> str:
    """The heading in a text, plain."""
    found = HEADING.search(text)
    return re.sub(r"[*_`$\\]", "", found[2] if found else otherwise)


def _section(reader: TraceReader, frame: int) -> str:
    """The name of the frame's function."""
    return str(reader.functions[reader.frames["function"][frame]][0])


def _sections_without_heading(
    reader: TraceReader, with_heading: set[int], translators: dict[str, Any]
) -> list[dict[str, Any]]:
    """Functions that main() called, spoke, and gave no heading."""
    first: dict[int, int] = {}
    for step, frame in enumerate(reader.steps["frame"]):
        first.setdefault(frame, step)
    speaking = {reader.steps["frame"][step] for step in reader.said}
    entries, seen = [], set()
    for frame, step in first.items():
        caller, function = reader.frames["caller"][frame], reader.frames["function"][frame]
        if caller == 0 and frame not in with_heading and frame in speaking and function not in seen:
            seen.add(function)
            name = _section(reader, frame)
            title = name.replace("_", " ").capitalize()
            entries.append({"step": step, "level": 2, "titles": dict.fromkeys(translators, title), "section": name})
    return entries


def _indented(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Levels from 1 on without gaps."""
    levels: list[int] = []
    for entry in entries:
        while levels and levels[-1] >= entry["level"]:
            levels.pop()
        levels.append(entry["level"])
        entry["level"] = len(levels)
    return entries
