"""The process that evaluates a model's tool calls: it reads JSON lines {"code"} and answers {"value"} or {"error"}.

Run by `calculator.py` in an isolated interpreter, with nothing of this package imported. Three fences: only the syntax
below is let through (no names but the listed functions, no attributes but the listed methods of texts, no loops); the
system limits memory, files and CPU time; the parent ends the process when an answer takes too long.

Left out: a boundary against attacks on the interpreter itself. Read next: `calculator.py`.
"""

from __future__ import annotations

import ast
import json
import sys

MAX_CODE = 500
MAX_RESULT = 200
FUNCTIONS = {f.__name__: f for f in (abs, min, max, round, sum, len, sorted, int, float, str)}
METHODS = ("count", "upper", "lower", "find", "replace", "split", "startswith", "endswith", "strip", "join")
SYNTAX = (
    ast.Expression, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.List, ast.Tuple, ast.Name,
    ast.Attribute, ast.Load, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.UAdd, ast.USub,
    ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)  # fmt: skip


def evaluate(code: str) -> str:
    """The value of an expression as text.

    Raises:
        ValueError: too long, not an expression, syntax that is not let through, or a result that is too long.
        ArithmeticError, TypeError, ... : what the expression itself raises.
    """
    if len(code) > MAX_CODE:
        raise ValueError(f"the code has {len(code)} characters; at most {MAX_CODE} are read")
    try:
        tree = ast.parse(code.strip(), mode="eval")
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("not an expression") from error
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        _check(node, id(node) in called)
    value = eval(compile(tree, "<calculator>", "eval"), {"__builtins__": {}, **FUNCTIONS})
    result = format(value, ".12g") if isinstance(value, float) else str(value)  # 48 / 2 is 24, 0.1 + 0.2 is 0.3
    if len(result) > MAX_RESULT:
        raise ValueError(f"the result has {len(result)} characters; at most {MAX_RESULT} are shown")
    return result.encode("utf-8", "replace").decode()  # no lone surrogates


def _check(node: ast.AST, is_called: bool) -> None:
    """Let one node of the syntax tree through, or raise a ValueError."""
    if not isinstance(node, SYNTAX):
        raise ValueError(f"{type(node).__name__} is not allowed")
    if isinstance(node, ast.Name) and not (is_called and node.id in FUNCTIONS):
        raise ValueError(f"the name {node.id!r} is not allowed")
    if isinstance(node, ast.Attribute) and not (is_called and node.attr in METHODS):
        raise ValueError(f"the attribute {node.attr!r} is not allowed")
    if isinstance(node, ast.Call) and (node.keywords or not isinstance(node.func, (ast.Name, ast.Attribute))):
        raise ValueError("a call takes plain arguments of a known function")
    if isinstance(node, ast.Constant) and not isinstance(node.value, (int, float, str)):
        raise ValueError(f"{node.value!r} is not allowed")


def _confine(megabytes: int) -> None:
    """Limit memory; forbid opening and writing files, and starting processes."""
    import resource

    size = megabytes << 20
    for name, limit in (("RLIMIT_AS", size), ("RLIMIT_NOFILE", 3), ("RLIMIT_FSIZE", 0), ("RLIMIT_NPROC", 0)):
        resource.setrlimit(getattr(resource, name), (limit, limit))


def _allow_seconds(seconds: float) -> None:
    """CPU time from now on, after which the system ends this process: it does so even if the parent has died."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def main(megabytes: int, seconds: float) -> None:
    """Answer until the input ends."""
    limited = sys.platform != "win32"
    if limited:
        _confine(megabytes)
    print("ready", flush=True)
    for line in sys.stdin:
        if limited:
            _allow_seconds(seconds)
        try:
            answer = {"value": evaluate(json.loads(line)["code"])}
        except MemoryError:
            answer = {"error": "out of memory"}
        except Exception as error:  # whatever an expression can raise is an answer, not a crash
            answer = {"error": f"{error}"[:MAX_RESULT] or type(error).__name__}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
