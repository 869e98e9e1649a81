"""One lecture as one HTML file: the static document (`flow.py`), the steps, and the viewer that walks through them.

Everything is inside: styles, script, fonts, pictures. A content security policy forbids any request. The steps are
JSON, compressed and in base64, about 20 bytes each; the script unpacks them with what every browser has.

Read next: `viewer/data.js`, `strings.py`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from html import escape
from typing import Any

from lectures.i18n.catalogue import NAMES
from lectures.pages.briefs import brief, type_of
from lectures.pages.flow import Flow
from lectures.pages.index_page import VIEWER, Entry, entry_text, fill_template
from lectures.pages.markup import colour_styles
from lectures.pages.math_font import math_font
from lectures.pages.outline import make_outline
from lectures.pages.strings import translated_strings
from lectures.recording.trace import TraceReader

POLICY = "default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'"
SCRIPTS = ("data.js", "text.js", "values.js", "view.js", "panes.js", "moves.js", "search.js", "start.js")


def make_page(
    trace: dict[str, Any], *, index: bool = False, previous: str = "", following: str = ""
) -> tuple[str, list[str]]:
    """The page of a trace, and what could not be rendered.

    Args:
        trace: as from `recording.session.record`.
        index: link to index.html in the same folder.
        previous, following: names of the neighbouring lectures in the same folder, or "".
    """
    reader = TraceReader(trace)
    flow = Flow(reader)
    contents = make_payload(reader, flow)
    payload = json.dumps(contents, ensure_ascii=False, separators=(",", ":"))
    packed = base64.b64encode(gzip.compress(payload.encode(), 9, mtime=0)).decode()
    script = "(() => {\n'use strict';\n" + "".join(_asset(name) for name in SCRIPTS) + "})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    problems = trace["meta"]["problems"] + flow.problems
    sections = [entry["titles"]["en"] for entry in contents["outline"] if entry["level"] == 2]
    meta = trace["meta"]
    entry = Entry(meta["name"], meta["title"], sections, len(reader), failed=bool(meta["error"]))
    fields = {
        "entry": entry_text(entry),
        "title": escape(trace["meta"]["title"]),
        "policy": f"{POLICY}; script-src 'sha256-{digest}'",
        "style": _style(flow) + colour_styles(),
        "notices": _notices(trace["meta"], problems),
        "flow": flow.html,
        "languages": "".join(f'<option value="{code}">{NAMES.get(code, code)}</option>' for code in flow.languages),
        "one_language": "hidden" if len(flow.languages) == 1 else "",
        "sources": _sources(flow),
        "home": _links(index, previous, following),
        "facts": _facts(trace["meta"], len(reader)),
        "lanes": "" if trace["meta"]["lanes"] > 1 else "hidden",
        "payload": packed,
        "script": script,
    }
    return fill_template(_asset("page.html"), fields), problems


def make_payload(reader: TraceReader, flow: Flow) -> dict[str, Any]:
    """What the viewer needs beside the document."""
    trace = reader.trace
    return {
        "name": trace["meta"]["name"],
        "files": [file["path"] for file in reader.files],
        "units": [[u[0], u[1], u[2]] for u in flow.units],
        "unitOf": flow.unit_of,
        "lines": [s[0] for s in reader.statements],
        "functions": [f[0] for f in reader.functions],
        "frames": trace["frames"],
        "steps": trace["steps"],
        "changes": trace["changes"],
        "values": [[value, brief(value), type_of(value)] for value in reader.values],
        "visits": flow.visits,
        "output": trace["output"],
        "outline": make_outline(reader, flow.translators),
        "lanes": trace["meta"]["lanes"],
        "strings": translated_strings(flow.languages),
    }


def _asset(name: str) -> str:
    """A file of the viewer."""
    return (VIEWER / name).read_text(encoding="utf-8")


def _style(flow: Flow) -> str:
    """The style sheet, with the font of the mathematics where there is any."""
    if not flow.markup.letters:
        return _asset("style.css")
    face = f'@font-face{{font-family:"Page Math";src:url({math_font(flow.markup.letters)}) format("woff")}}'
    return face + _asset("style.css")


def _notices(meta: dict[str, Any], problems: list[str]) -> str:
    """What went wrong, above the lecture."""
    parts = []
    if meta["error"]:
        error = meta["error"]
        parts.append(
            '<div class="notice error" role="alert"><strong data-t="This lecture ended early">This lecture ended early'
            f"</strong> <code>{escape(error['where'])}</code>: {escape(error['type'])}: {escape(error['message'])}"
        )
        if error["traceback"]:
            trace = f'<pre tabindex="0">{escape(error["traceback"])}</pre>'
            parts.append(f'<details><summary data-t="Traceback">Traceback</summary>{trace}</details>')
        parts.append("</div>")
    if problems:
        items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
        parts.append(f'<div class="notice"><strong data-t="Problems">Problems</strong><ul>{items}</ul></div>')
    return "".join(parts)


def _sources(flow: Flow) -> str:
    """What links to functions open, out of sight until then."""
    return "".join(
        f'<template id="{key}"><h3>{escape(title)}</h3><div class="code raw">{rows}</div></template>'
        for key, (title, rows) in flow.said_html.sources.items()
    )


def _links(index: bool, previous: str, following: str) -> str:
    """Ways to the index and to the neighbours."""
    links = ['<a class="home" href="index.html" data-t="All lectures">All lectures</a>'] if index else []
    links += [f'<a href="{previous}.html" data-t="Previous lecture">Previous lecture</a>'] if previous else []
    links += [f'<a href="{following}.html" data-t="Next lecture">Next lecture</a>'] if following else []
    return "".join(links)


def _facts(meta: dict[str, Any], steps: int) -> str:
    """How the page came to be."""
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    return f"{steps:,} steps, computed in {meta['seconds']:.1f} s with {escape(versions)}"
