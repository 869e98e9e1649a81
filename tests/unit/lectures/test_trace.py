"""The format of the trace: its schema, a golden sample, the public form, and what a step costs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import jsonschema
import pytest

from lectures.execute import main as execute
from lectures.recording import trace as trace_module
from lectures.recording.public_format import public_value, to_public
from lectures.recording.trace import TraceReader

GOLDEN = Path(__file__).parent / "golden_trace.json"
SAMPLE = """
    '''A sample.'''
    import torch
    from lectures.content import exercise, link, quiz, text
    def main():
        text("# Sample of {n}", n=3)
        x = torch.ones(2, 2)  # @inspect x
        for i in range(2):  # @inspect i
            x += half(i)
        text("see "), link(title="Paper", authors=["Ann Ox", "Bo Li"], date="2020", url="https://example.org")
        quiz("Why?", "Because.")
        print("done")
        words = {"a": [1, (2.5, None)]}  # @inspect words
        return words
    def half(i):  # @inspect i
        return i / 2
"""


def without_changing_parts(trace: dict) -> dict:
    """The trace without times and versions."""
    return trace | {"meta": {k: v for k, v in trace["meta"].items() if k not in ("seconds", "versions")}}


def schema() -> dict:
    return json.loads((Path(trace_module.__file__).parent / "trace.schema.json").read_text())


def test_golden_trace(record_source):
    """Made by this very sample; a change of it needs a new version number or a good reason."""
    trace = without_changing_parts(record_source(SAMPLE).trace)
    assert json.loads(json.dumps(trace)) == json.loads(GOLDEN.read_text())


def test_traces_keep_to_the_schema(record_source):
    jsonschema.validate(record_source(SAMPLE).trace, schema())
    failing = record_source("def main():\n    x = 1  # @inspect x @unknown\n    raise ValueError('x')").trace
    jsonschema.validate(json.loads(json.dumps(failing)), schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(failing | {"v": 2}, schema())
    with pytest.raises(ValueError, match="version 2"):
        TraceReader(failing | {"v": 2})


def test_public_format(record_source):
    trace = record_source(SAMPLE)
    public = to_public(trace.trace)
    assert set(public) == {"files", "hidden_line_numbers", "steps"} and len(public["steps"]) == len(trace)
    assert all(set(s) == {"stack", "env", "renderings", "stdout", "stderr"} for s in public["steps"])
    first = public["steps"][0]
    assert first["renderings"][0]["data"] == "# Sample of 3"
    assert first["stack"] == [{"path": "demo.py", "line_number": 5, "function_name": "main",
                               "code": 'text("# Sample of {n}", n=3)'}]  # fmt: skip
    inside = next(s for s in public["steps"] if len(s["stack"]) == 2)
    assert [level["function_name"] for level in inside["stack"]] == ["main", "half"]
    env = {name: value for s in public["steps"] for name, value in s["env"].items()}
    assert env["x"] == {"type": "Tensor", "contents": [[1.5, 1.5], [1.5, 1.5]], "dtype": "float32", "shape": [2, 2]}
    assert env["words"]["contents"]["a"]["contents"][1]["type"] == "tuple"
    link = next(r for s in public["steps"] for r in s["renderings"] if r["type"] == "link")
    assert link["data"] == "[Ox+ 2020]" and link["external_link"]["title"] == "Paper"
    assert "".join(s["stdout"] for s in public["steps"]) == "done\n"
    assert public_value(None)["type"] == "NoneType"


def test_a_step_costs_little(record_source):
    trace = record_source("""
        def main():
            total = 0  # @inspect total
            for i in range(3000):
                total = add(total, i)
        def add(a, b):  # @inspect a b
            return a + b
    """).trace
    steps = len(trace["steps"]["kind"])
    assert steps > 14_000
    text = json.dumps({k: trace[k] for k in ("frames", "steps", "changes", "values")}, separators=(",", ":"))
    assert len(text) / steps <= 150
    assert len(gzip.compress(text.encode(), 9)) / steps <= 40


def test_execute_writes_both_formats(write_lecture, tmp_path, capsys):
    path = write_lecture("def main():\n    x = 2  # @inspect x\n    raise ValueError('stop here')")
    assert execute(["-m", str(path), "-o", str(tmp_path / "traces")]) == 1
    assert "demo.py:3: ValueError: stop here" in capsys.readouterr().err
    ours = json.loads((tmp_path / "traces" / "demo.trace.json").read_text())
    public = json.loads((tmp_path / "traces" / "demo.json").read_text())
    assert ours["v"] == 1 and len(public["steps"]) == len(ours["steps"]["kind"]) == 2
    assert execute(["-m", "no_such_lecture", "-o", str(tmp_path)]) == 1
