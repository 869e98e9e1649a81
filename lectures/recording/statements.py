"""The statements of a source file, with the directives in their comments.

A directive stands in a comment behind any physical line of a statement (for a compound statement: of its header):

    x = f(a,            # @inspect x a.shape
          b)            # @stepover

| directive | meaning |
|---|---|
| `@inspect a b.c` | show these values from now on; on a `def` line: the arguments |
| `@clear a` | stop showing them |
| `@stepover` | record nothing inside the calls that this statement makes; on a `def` line: never step into it |
| `@hide` | do not show the statement's lines |
| `@animate` | let the things said by this statement appear one by one |
| `@every 100` | of a loop, record each 100th turn only |

Comments come from the tokenizer, so a `#` in a string is no comment. A directive that does not exist, stands where no
statement is, or names something that the function does not know is a `Problem` with file and line: the lecture is
recorded all the same, and the page shows the problem.

Read next: `instrument.py`, which puts calls to the recorder around these statements.
"""

from __future__ import annotations

import ast
import builtins
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field

DIRECTIVES = ("inspect", "clear", "stepover", "hide", "animate", "every")
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")


@dataclass(frozen=True)
class Problem:
    """Something wrong with a lecture that does not stop it."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass
class Statement:
    """One statement: for a compound statement, its header.

    Attributes:
        first, last: physical lines, from 1, both included.
        function: index into `SourceFile.functions`; -1 at module level.
        says: it is an expression statement, which may be shown as what it says instead of as code.
        boilerplate: at module level and no function or class (imports, constants), which a reader may skip.
    """

    file: int
    first: int
    last: int
    function: int
    says: bool = False
    boilerplate: bool = False
    inspect: list[str] = field(default_factory=list)
    clear: list[str] = field(default_factory=list)
    stepover: bool = False
    hide: bool = False
    animate: bool = False
    every: int = 1


@dataclass
class Function:
    """A function: its name with that of its class or outer function, and what the recorder has to do for it."""

    name: str
    first: int
    last: int
    statement: int
    has_arguments: bool
    inspects: bool = False
    stepover: bool = False
    docstring: str = ""


@dataclass
class SourceFile:
    """A parsed file. Each `ast.stmt` of `tree` got an attribute `number`, its place in `statements`."""

    path: str
    source: str
    tree: ast.Module
    statements: list[Statement]
    functions: list[Function]
    problems: list[Problem]


def read_statements(source: str, path: str, *, file: int = 0) -> SourceFile:
    """Parse a file.

    Args:
        source: the text of the file.
        path: its name in messages.
        file: the index its statements carry.

    Raises:
        SyntaxError: the source is no Python.
    """
    result = SourceFile(path, source, ast.parse(source, path), [], [], [])
    _number(result, file)
    _attach_directives(result)
    for function in result.functions:
        inside = [s for s in result.statements if function.first <= s.first <= function.last]
        function.inspects = any(s.inspect for s in inside)
        function.stepover = result.statements[function.statement].stepover
    _check_names(result)
    return result


def _number(result: SourceFile, file: int) -> None:
    """Number all statements in the order of the text, and find the functions."""

    def visit(body: list[ast.stmt], function: int, prefix: str) -> None:
        for node in body:
            node.number = len(result.statements)  # type: ignore[attr-defined]
            is_expression = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            skips = body is result.tree.body and _is_boilerplate(node)
            statement = Statement(file, first, header_end(node), function, says=is_expression, boilerplate=skips)
            result.statements.append(statement)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                result.functions.append(_function(node, first, prefix))
                visit(node.body, len(result.functions) - 1, f"{prefix}{node.name}.")
            elif isinstance(node, ast.ClassDef):
                visit(node.body, -1, f"{prefix}{node.name}.")
            else:
                for block in blocks(node):
                    visit(block, function, prefix)

    visit(result.tree.body, -1, "")


def _is_boilerplate(node: ast.stmt) -> bool:
    """Whether a statement at module level only sets things up: all but functions and classes."""
    return not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, first: int, prefix: str) -> Function:
    """The entry of a function."""
    a = node.args
    arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]
    number: int = node.number  # type: ignore[union-attr]
    doc = (ast.get_docstring(node) or "").partition("\n")[0]
    return Function(prefix + node.name, first, node.end_lineno or first, number, bool(arguments), docstring=doc)


def blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    """The lists of statements inside a compound statement, in the order of the text."""
    if isinstance(node, ast.Match):
        yield from (case.body for case in node.cases)
        return
    if isinstance(node, (ast.Try, ast.TryStar)):
        yield node.body
        yield from (handler.body for handler in node.handlers)
        yield node.orelse
        yield node.finalbody
        return
    for name in ("body", "orelse"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
            yield block


def header_end(node: ast.stmt) -> int:
    """The last physical line of a statement, or of the header of a compound one."""
    inner = [block for block in blocks(node) if block]
    if isinstance(node, ast.ClassDef):
        inner = [node.body]
    if not inner:
        return node.end_lineno or node.lineno
    parts = [
        child for child in ast.iter_child_nodes(node) if isinstance(child, (ast.expr, ast.arguments, ast.withitem))
    ]
    end = max([node.lineno, *(getattr(n, "end_lineno", None) or 0 for part in parts for n in ast.walk(part))])
    return min(end, max(inner[0][0].lineno - 1, node.lineno))


def _attach_directives(result: SourceFile) -> None:
    """Give each statement the directives in the comments on its lines."""
    for token in tokenize.generate_tokens(io.StringIO(result.source).readline):
        if token.type == tokenize.COMMENT:
            for comment in token.string.split("#"):  # "# @inspect x  # fmt: skip" is two
                _attach(result, comment.strip(), token.start[0])


def _attach(result: SourceFile, comment: str, line: int) -> None:
    """Note the directives of one comment."""
    owner = _owner(result, line)
    for word, rest in re.findall(r"(?:^|(?<=\s))@([A-Za-z_]\w*)([^@]*)", comment):
        if word not in DIRECTIVES:
            if comment.startswith("@"):
                known = ", ".join(f"@{name}" for name in DIRECTIVES)
                result.problems.append(Problem(result.path, line, f"unknown directive @{word}; there are {known}"))
        elif owner is None:
            result.problems.append(Problem(result.path, line, f"@{word} stands on a line without a statement"))
        else:
            _apply(result, owner, word, rest.replace(",", " ").split(), line)


def _owner(result: SourceFile, line: int) -> Statement | None:
    """The innermost statement on a physical line: the last to begin of those whose lines hold it."""
    found = [s for s in result.statements if s.first <= line <= s.last]
    return found[-1] if found else None


def _apply(result: SourceFile, statement: Statement, word: str, arguments: list[str], line: int) -> None:
    """Note one directive."""
    if word in ("inspect", "clear"):
        names = [a for a in arguments if _NAME.match(a)]
        if len(names) < len(arguments) or not names:
            wrong = next((a for a in arguments if a not in names), "nothing")
            text = f"@{word} takes names such as x or x.shape, separated by spaces; got {wrong!r}"
            result.problems.append(Problem(result.path, line, text))
        getattr(statement, word).extend(n for n in names if n not in getattr(statement, word))
    elif word == "every":
        if len(arguments) != 1 or not arguments[0].isdigit() or int(arguments[0]) < 1:
            text = f"@every takes one number from 1 on, such as @every 100; got {' '.join(arguments) or 'nothing'!r}"
            result.problems.append(Problem(result.path, line, text))
        else:
            statement.every = int(arguments[0])
    else:
        setattr(statement, word, True)


def _check_names(result: SourceFile) -> None:
    """Find `@inspect` of names that the file never binds."""
    bound = set(dir(builtins))
    for node in ast.walk(result.tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
        elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
            bound.add(node.name)
    for statement in result.statements:
        for name in statement.inspect:
            if name.split(".")[0] not in bound:
                text = f"@inspect {name}: nothing in this file is called {name.split('.')[0]!r}"
                result.problems.append(Problem(result.path, statement.first, text))
