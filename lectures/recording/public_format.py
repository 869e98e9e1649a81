"""The trace in the public course's format (`var/traces/NAME.json`), for its viewer.

    {"files": {path: source}, "hidden_line_numbers": {path: [line]},
     "steps": [{"stack": [{path, line_number, function_name, code}], "env": {name: {type, contents, dtype, shape}},
                "renderings": [{type, data, style, external_link, internal_link}], "stdout", "stderr"}]}

What the format cannot say is put into text: questions, exercises and drawings become Markdown or embedded pictures,
exceptions a line of text. A tensor's contents are the numbers that our trace keeps. Read next: `trace.py`.
"""

from __future__ import annotations

import base64
from typing import Any

from lectures.recording.trace import HIDE, TraceReader


def to_public(trace: dict[str, Any]) -> dict[str, Any]:
    """The same lecture in the public format."""
    reader = TraceReader(trace)
    lines = [file["source"].splitlines() for file in reader.files]
    return {
        "files": {file["path"]: file["source"] for file in reader.files},
        "hidden_line_numbers": {
            file["path"]: [n for s in file["statements"] if s[3] & HIDE for n in range(s[0], s[1] + 1)]
            for file in reader.files
        },
        "steps": [_step(reader, lines, step) for step in range(len(reader))],
    }


def _step(reader: TraceReader, lines: list[list[str]], step: int) -> dict[str, Any]:
    """One step."""
    changes = reader.changes.get(step, [])
    return {
        "stack": [_level(reader, lines, frame, statement) for frame, statement in reader.stack(step)],
        "env": {name: public_value(reader.values[value]) for name, value in changes if value >= 0 and name[0] != "("},
        "renderings": [r for said in reader.said.get(step, []) for r in _renderings(said)]
        + [_markdown(f"**{reader.values[value]}**") for name, value in changes if name == "(exception)"],
        "stdout": reader.output.get(step, ""),
        "stderr": "",
    }


def _level(reader: TraceReader, lines: list[list[str]], frame: int, statement: int) -> dict[str, Any]:
    """One level of the stack."""
    file, first = reader.file_of(statement), reader.statements[statement][0]
    name = reader.functions[reader.frames["function"][frame]][0].rpartition(".")[2]
    path = reader.files[file]["path"]
    return {"path": path, "line_number": first, "function_name": name, "code": lines[file][first - 1].strip()}


def public_value(value: Any) -> dict[str, Any]:
    """A value as {type, contents, dtype, shape}."""
    if not isinstance(value, dict):
        kind = "NoneType" if value is None else type(value).__name__
        return {"type": kind, "contents": value, "dtype": None, "shape": None}
    contents: Any = value.get("x")
    if "n" in value and isinstance(value["n"], list) or "s" in value:
        contents = value.get("n")
    elif "v" in value:
        contents = [public_value(item) for item in value["v"]]
    elif "k" in value:
        contents = {_key(key): public_value(item) for key, item in value["k"]}
    elif "f" in value:
        contents = {name: public_value(item) for name, item in value["f"]}
    elif value["t"] == "float":
        contents = value["x"]
    return {"type": value["t"], "contents": contents, "dtype": value.get("d"), "shape": value.get("s")}


def _key(key: Any) -> str:
    """A dict's key, which JSON wants as a string."""
    if isinstance(key, dict):
        return str(key.get("x") or [_key(item) for item in key.get("v", [])])
    return str(key)


def _renderings(said: dict[str, Any]) -> list[dict[str, Any]]:
    """One thing said, as renderings of the public format."""
    kind = said["type"]
    if kind == "markdown":
        style = said.get("style", {}) | (
            {"fontFamily": "monospace", "whiteSpace": "pre"} if said.get("verbatim") else {}
        )
        return [_rendering("markdown", said["data"], style)]
    if kind == "link":
        return [_link(said)]
    if kind == "quiz":
        return [_markdown(f"**Question.** {said['data']}"), _markdown(f"**Answer.** {said['answer']}")]
    if kind == "exercise":
        return [_markdown(f"**Exercise.** {said['data']}" + (f" Test: `{said['test']}`" if said.get("test") else ""))]
    if kind == "plot":
        if said.get("spec"):
            return [_rendering("plot", said["spec"], said.get("style"))]
        encoded = base64.b64encode(said["data"].encode()).decode()
        return [_rendering("image", f"data:image/svg+xml;base64,{encoded}", said.get("style"))]
    return [_rendering(kind, said["data"], said.get("style"))]


def _link(said: dict[str, Any]) -> dict[str, Any]:
    """A link, to a work or to a place in the source."""
    result = _rendering("link", said["data"], said.get("style"))
    target = said.get("target")
    if target:
        result["internal_link"] = {"path": target["path"], "line_number": target["line"]}
    elif said.get("reference"):
        result["external_link"] = said["reference"]
    return result


def _markdown(text: str) -> dict[str, Any]:
    """Text."""
    return _rendering("markdown", text, None)


def _rendering(kind: str, data: Any, style: Any) -> dict[str, Any]:
    """A rendering with all the keys of the public format."""
    return {"type": kind, "data": data, "style": style or {}, "external_link": None, "internal_link": None}
