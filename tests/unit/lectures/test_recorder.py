"""What the recorder writes down, against what the program is known to do and against sys.settrace."""

from __future__ import annotations

import ast
import inspect
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lectures.recording.instrument import HOOK, instrument
from lectures.recording.recorder import Limits, Recorder
from lectures.recording.session import find_lecture, record
from lectures.recording.statements import read_statements


def test_an_exception_keeps_the_trace(record_source):
    trace = record_source("""
        from lectures.content import text
        def main():
            text("before")
            divide(1, 0)
            text("after")
        def divide(a, b):
            return a / b
    """)
    assert trace.texts() == ["before"]
    assert trace.error["type"] == "ZeroDivisionError" and trace.error["where"] == "demo.py:7"
    assert trace.steps["kind"][-1] == "x" and trace.place(len(trace) - 1) == (0, 7)
    assert trace.names(len(trace) - 1) == ["main", "divide"]
    assert "return a / b" in trace.error["traceback"] and "__lecture__" not in trace.error["traceback"]


def test_a_call_over_several_lines_is_one_step_and_its_directives_count(record_source):
    trace = record_source("""
        def main():
            x = max(
                1,
                2,
            )  # @inspect x
            y = x  # @inspect y
    """)
    assert trace.lines() == [2, 6]
    assert trace.history("x") == [2] and trace.history("y") == [2]


def test_directives_stand_beside_other_comments(record_source):
    trace = record_source("""
        def main():
            x = 1  # @inspect x  # fmt: skip
            y = 2  # noqa  # @inspect y
    """)
    assert trace.problems == [] and trace.history("x") == [1] and trace.history("y") == [2]


def test_a_branch_that_the_machine_lacks_is_told(record_source):
    trace = record_source("""
        from lectures.content import needs, text
        def main():
            for result in ("", "5 ms on a chip, 2026-11-22"):
                if len(result) > 99:
                    text("run")
                else:
                    needs("a GPU", recorded=result)
    """)
    said = "**Needs a GPU**, which the machine that made this page lacks."
    assert trace.texts() == [
        f"{said} Nothing is recorded yet.",
        f"{said} Recorded elsewhere: 5 ms on a chip, 2026-11-22",
    ]


def test_a_hash_in_a_string_is_no_comment(record_source):
    trace = record_source('''
        def main():
            color = "#fff"  # @inspect color
            s = "# @inspect nothing @unknown"
            t = """
            # @clear color
            """
            color = "#000"
    ''')
    assert trace.history("color") == ["#fff", "#000"]
    assert trace.problems == []


def test_comprehensions_belong_to_their_statement(record_source):
    trace = record_source("""
        def main():
            old = {}  # @inspect old
            old = {k: square(k) for k in range(3)}  # @inspect old
            total = sum(square(k) for k in [3])  # @inspect total
        def square(k):  # @inspect k
            return k * k
    """)
    assert trace.history("old")[-1] == {"t": "dict", "n": 3, "k": [[0, 0], [1, 1], [2, 4]]}
    assert trace.history("total") == [9]
    assert {tuple(trace.names(s)) for s in range(len(trace))} == {("main",), ("main", "square")}
    assert trace.lines() == [2, 3, 5, 6, 5, 6, 5, 6, 3, 4, 5, 6, 4]


def test_each_turn_of_a_loop_has_its_own_text(record_source):
    trace = record_source("""
        from lectures.content import text
        def main():
            for i in range(3):  # @inspect i
                text("turn {i}", i=i)
    """)
    assert trace.texts() == ["turn 0", "turn 1", "turn 2"]
    assert [step for step in sorted(trace.said)] == [1, 3, 5]
    assert trace.history("i") == [0, 1, 2]


def test_output_is_caught_step_by_step(record_source):
    trace = record_source("""
        import sys
        def main():
            print("one")
            x = 1
            print("two", file=sys.stderr)
    """)
    assert [(trace.place(s)[1], text) for s, text in sorted(trace.output.items())] == [(3, "one\n"), (5, "two\n")]


def test_a_gigabyte_of_output_is_counted_not_kept(record_source):
    trace = record_source("""
        def main():
            print("x" * 10_000_000)
            for _ in range(300):
                print("y" * 5000)
    """)
    kept = sum(map(len, trace.output.values()))
    assert kept < 120_000 and "9,996,001 more letters" in trace.output[0] and trace.error is None


def test_changes_through_another_name_and_in_place_are_seen(record_source):
    trace = record_source("""
        import torch
        def main():
            a = [1]  # @inspect a
            b = a
            b.append(2)
            x = torch.zeros(4)  # @inspect x
            y = x[1:]  # @inspect y
            change(x)
        def change(t):
            t[1] = 7
    """)
    assert [v["v"] for v in trace.history("a")] == [[1], [1, 2]]
    x, y = trace.history("x"), trace.history("y")
    assert [v["n"] for v in x] == [[0, 0, 0, 0], [0, 7, 0, 0]] and [v["n"] for v in y] == [[0, 0, 0], [7, 0, 0]]
    assert x[0]["mem"] == y[0]["mem"]


def test_nothing_outside_the_lecture_is_traced(record_source):
    trace = record_source("""
        import statistics, sys
        def main():
            tracing = sys.gettrace() is not None and "coverage" not in str(sys.gettrace())  # @inspect tracing
            m = statistics.mean(helper(i) for i in range(2))  # @inspect m
        def helper(i):
            return i
    """)
    assert trace.history("tracing") == [False]
    assert {trace.files[0]["path"]} == {"demo.py"} and len(trace.files) == 1


def test_generators_wait_off_the_stack(record_source):
    trace = record_source("""
        def main():
            for x in count(2):  # @inspect x
                y = x * 10  # @inspect y
        def count(n):
            for i in range(n):
                yield i
    """)
    assert trace.error is None and trace.history("x") == [0, 1] and trace.history("y") == [0, 10]
    at_y = [s for s in range(len(trace)) if trace.place(s)[1] == 3]
    assert all(trace.names(s) == ["main"] for s in at_y)
    assert trace.history("(yielded)") == [0, 1]


def test_recursion_and_methods(record_source):
    trace = record_source("""
        class Tree:
            def __init__(self, depth):
                self.depth = depth
            def size(self):
                if self.depth == 0:
                    return 1
                return 1 + 2 * Tree(self.depth - 1).size()
        def main():
            n = Tree(3).size()  # @inspect n
    """)
    assert trace.history("n") == [15]
    assert max(len(trace.stack(s)) for s in range(len(trace))) == 5
    assert "Tree.size" in trace.names(len(trace) // 2)


def test_stepover_clear_every_hide_animate(record_source):
    trace = record_source("""
        from lectures.content import text
        def main():
            a = f(1)  # @stepover @inspect a
            a = f(2)  # @clear a
            a = 5
            for i in range(10):  # @inspect i @every 4
                b = i  # @inspect b
            text("one"), text("two")  # @animate
            secret = 1  # @hide
            g()
        def f(x):
            text("said inside")
            return x
        def g():  # @stepover
            y = 1
    """)
    assert trace.history("a") == [1, None]
    assert [v for v in trace.history("i")] == [0, 4, 8, 9]  # the last is seen after the loop
    assert trace.lines().count(12) == 1, "only the second call of f is stepped into"
    assert [r["data"] for r in trace.said[0]] == ["said inside"], "what is said inside a call shows at the call"
    assert trace.lines().count(8) == 2, "one step for each thing said"
    assert 15 not in trace.lines()
    assert [s[3] & 2 for s in trace.files[0]["statements"] if s[0] == 9] == [2]


def test_an_exception_that_is_caught_is_a_step_of_its_line(record_source):
    trace = record_source("""
        def main():
            try:
                a = 1
                b = a / 0
            except ZeroDivisionError:
                c = 2  # @inspect c
            finally:
                d = 3  # @inspect d
    """)
    assert trace.error is None
    assert [(trace.place(s)[1], trace.steps["kind"][s]) for s in range(len(trace))] == [
        (3, "l"), (4, "x"), (6, "l"), (8, "l"),
    ]  # fmt: skip


def test_compiled_async_and_delegating_functions_are_stepped_over(record_source):
    trace = record_source("""
        import asyncio
        from numba import njit
        @njit
        def fast(n):
            total = 0
            for i in range(n):
                total += i
            return total
        async def later():
            return 4
        def chain():
            yield from [1, 2]
        def main():
            a = fast(5)  # @inspect a
            b = asyncio.run(later())  # @inspect b
            c = list(chain())  # @inspect c
    """)
    assert (trace.error, trace.history("a"), trace.history("b")) == (None, [10], [4])
    assert trace.lines() == [14, 15, 16]


def test_other_threads_are_not_recorded(record_source):
    trace = record_source("""
        import threading
        def work(found):
            x = 1  # @inspect x
            found.append(x)
        def main():
            found = []
            thread = threading.Thread(target=work, args=(found,))
            thread.start()
            thread.join()
            n = len(found)  # @inspect n
    """)
    assert trace.history("n") == [1] and 3 not in trace.lines()
    assert threading.active_count() < 20


@pytest.mark.parametrize(
    ("source", "limits", "message"),
    [
        ("def main():\n    while True:\n        x = 1", {"max_steps": 500}, "more than 500 steps"),
        (
            "def main():\n    f()\ndef f():  # @stepover\n    while True: pass",
            {"seconds": 0.5},
            "more than 0.5 seconds",
        ),
        (
            "from lectures.content import text\ndef main():\n    text('x' * 10**6)",
            {"max_said": 10**5},
            "100,000 letters",
        ),
    ],
)
def test_limits_stop_a_lecture_and_keep_its_trace(record_source, source, limits, message):
    trace = record_source(source, **limits)
    assert trace.error["type"] == "stopped" and message in trace.error["message"]
    assert len(trace) <= 500


def test_wrong_directives_and_names_are_problems_with_their_place(record_source):
    trace = record_source("""
        def main():
            x = 1  # @inspect y
            z = 2  # @inpect z
            if x == 2:
                w = 1
            v = 3  # @inspect w
            # @inspect v
            for i in range(2):  # @every many
                pass
    """)
    assert trace.error is None
    text = "\n".join(trace.problems)
    for part in ("2: @inspect y: nothing", "3: unknown directive @inpect", "6: @inspect w: it has", "7: @inspect",
                 "8: @every takes one number"):  # fmt: skip
        assert f"demo.py:{part}" in text
    assert len(trace.problems) == 5


def test_a_missing_picture_stops_the_lecture_there(record_source):
    trace = record_source("""
        from lectures.content import image, text
        def main():
            text("so far")
            image("nowhere.png")
    """)
    assert trace.error["where"] == "demo.py:4" and "nowhere.png" in trace.error["message"]
    assert trace.texts() == ["so far"]


def test_the_network_is_out_of_reach(record_source):
    trace = record_source("""
        import urllib.request
        def main():
            urllib.request.urlopen("http://198.51.100.7/", timeout=1)
    """)
    assert "without a network" in trace.error["message"]


def test_modules_named_visible_are_stepped_into(record_source, write_lecture):
    write_lecture("def double(x):  # @inspect x\n    return 2 * x", "demo_helper")
    trace = record_source("""
        __lecture_visible__ = ["demo_helper"]
        def main():
            from demo_helper import double
            y = double(4)  # @inspect y
    """)
    assert [file["path"] for file in trace.files] == ["demo.py", "demo_helper.py"]
    assert trace.history("x") == [4] and trace.history("y") == [8]
    assert (1, 2) in [trace.place(s) for s in range(len(trace))]


def test_a_lecture_of_the_public_kind_runs_unchanged(record_source):
    trace = record_source("""
        import torch
        from execute_util import text, image, link
        from edtrace import note, plot, Reference
        def main():
            text("**Bold** "), link(title="A paper", url="https://example.org/x.pdf"), text(" end")
            link("https://arxiv.org/abs/1706.03762"), link(helper)
            note("for me"), text("a\\n  b", verbatim=True), text("red", style={"color": "red"})
            image("https://example.org/a.png", width=300)
            x = torch.ones(2)  # @inspect x @inspect y
            y = helper(x)  # @stepover
        def helper(x):
            return x + 1
    """)
    assert trace.error is None
    assert [r["type"] for _, said in sorted(trace.said.items()) for r in said] == [
        "markdown", "link", "markdown", "link", "link", "note", "markdown", "markdown", "image",
    ]  # fmt: skip
    assert trace.history("y")[-1]["n"] == [2, 2]


def test_a_lecture_in_a_process_of_its_own(write_lecture):
    path = write_lecture("""
        import os, random, torch
        def main():
            seed = os.environ["PYTHONHASHSEED"]  # @inspect seed
            draw = (random.random(), torch.rand(1).item())  # @inspect draw
    """)
    first, second = record(path), record(path)
    assert first["values"] == second["values"] and "0" in first["values"]


def test_a_process_that_dies_is_reported(write_lecture):
    with pytest.raises(RuntimeError, match="exit code 7"):
        record(write_lecture("import os\ndef main():\n    os._exit(7)"))


def test_unknown_lectures_and_broken_files(write_lecture):
    with pytest.raises(FileNotFoundError, match="lecture_99"):
        find_lecture(99)
    assert find_lecture("1").name == find_lecture("lecture_01.py").name == "lecture_01.py"
    with pytest.raises(SyntaxError):
        record(write_lecture("def main(:"))


# Programs at random, against sys.settrace.


def blocks(depth: int):
    """Statements of a program, as lists of lines."""
    simple = st.sampled_from(
        ["a = a + 1", "b = [a] * 2", "a, c = len(b), a", "b.append(c)", "c = helper(a)", "pass", "a = (c +\n     1)",
         "c = [helper(i) for i in range(2)][0]"]
    ).map(lambda line: line.split("\n"))  # fmt: skip
    if depth == 0:
        return st.lists(simple, min_size=1, max_size=3).map(lambda parts: sum(parts, []))
    inner = blocks(depth - 1)

    def indented(head, body):
        return [head, *("    " + line for line in body)]

    compound = st.one_of(
        simple,
        st.builds(lambda body: indented("for i in range(2):", body), inner),
        st.builds(lambda body: indented("for i in range(3):", [*body, "if i: continue", "a = a + 2"]), inner),
        st.builds(lambda body, other: indented("if a % 2:", body) + indented("else:", other), inner, inner),
        st.builds(lambda body: ["n = 2", *indented("while n > 0:", ["n = n - 1", *body])], inner),
        st.builds(
            lambda body, other: indented("try:", [*body, "a = a // (a % 2)"])
            + indented("except ZeroDivisionError:", other),
            inner, inner,
        ),
        st.builds(lambda body: indented("with open(__file__):", body), inner),
    )  # fmt: skip
    return st.lists(compound, min_size=1, max_size=3).map(lambda parts: sum(parts, []))


HEAD = ["def helper(x):", "    y = x + 1", "    return y * 2", "def main():", "    a = c = 1", "    b = []"]
HEADERS = ("for", "while", "with", "try", "else", "except", "if", "def")


def settrace_history(code, path):
    """(line, a, b, c after it) for each simple statement of main, seen by sys.settrace."""
    found, last = [], {}

    def local(frame, event, _):
        if event in ("line", "return") and last.get(frame):
            line = last.pop(frame)
            found.append((line, {k: repr(frame.f_locals.get(k)) for k in "abc"}))
        if event == "line":
            last[frame] = frame.f_lineno
        return local

    names = {"__file__": path}
    exec(code, names)
    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: local if frame.f_code.co_name == "main" else None)
    try:
        names["main"]()
    finally:
        sys.settrace(before)
    return found


@settings(max_examples=60, deadline=None, derandomize=True)
@given(blocks(2))
def test_steps_are_the_lines_that_settrace_sees(body):
    lines = HEAD + ["    " + line for line in body] + ["    return a, b, c"]
    source = "\n".join(lines)
    recorder = Recorder(limits=Limits(max_steps=10**6), folder=Path("."))
    seen = []

    original = recorder._step

    def step(kind, frame, number, names, extra=None):
        statement = recorder.statements[number]
        if kind in "lrx" and statement.first > 4:
            seen.append((statement.first, {k: repr((names or {}).get(k)) for k in "abc"}))
        original(kind, frame, number, names, extra)

    recorder._step = step
    file = read_statements(source.replace("b = []", "b = []  # @inspect a b c"), "program.py")
    names = {HOOK: recorder, "__file__": __file__}
    recorder.add_file(file, names)
    exec(compile(instrument(file), "program.py", "exec"), names)
    result = names["main"]()
    plain = {"__file__": __file__}
    exec(source, plain)
    assert result == plain["main"]()

    def simple(history):
        """Without headers, and a statement over two lines once."""
        kept = []
        for line, values in history:
            text = lines[line - 1].strip()
            if text.startswith(HEADERS) and not text.startswith("if i: continue"):
                continue
            if text == "1)":
                line -= 1
            if text.startswith("if i: continue"):
                continue
            if text in ("a = (c +", "1)") and kept and kept[-1][0] == line:
                kept[-1] = (line, values)
                continue
            kept.append((line, values))
        return kept

    expected = simple(settrace_history(compile(source, "program.py", "exec"), __file__))
    assert simple(seen) == expected
    assert not recorder.stack and recorder.silent == 0


def test_the_rewritten_source_keeps_its_lines():
    source = inspect.getsource(sys.modules[__name__])
    file = read_statements(source, "x.py")
    tree = instrument(file)
    old = {n.lineno for n in ast.walk(file.tree) if isinstance(n, ast.stmt)}
    new = {n.lineno for n in ast.walk(tree) if isinstance(n, ast.stmt)}
    assert new == old
