"""Rewriting a lecture so that it tells the recorder what it does, statement by statement.

Each statement S with the number k becomes

    __lecture__.before(k); S; __lecture__.after(k, locals())

and a function's body runs inside `with __lecture__.call(n, locals()):`. The rewritten tree keeps the line numbers of
the source, so tracebacks and `inspect.getsource` show the author's text.

Why not `sys.settrace`: a trace function is called for every Python function of every library that the lecture uses,
sees lines instead of statements (a call over three lines is three steps, a comprehension is a frame up to Python 3.11
and none from 3.12 on), and shuts out debuggers. Rewriting costs nothing outside the lecture and gives the same
steps on every version.

    header of a loop or `if`   a step when it has been evaluated; a `for` header once per turn
    comprehension, lambda      part of the statement they stand in
    `async def`, `yield from`, decorators that compile (jit, compile)   never stepped into

Left out: code at module level, which runs before the lecture begins. Read next: `recorder.py`.
"""

from __future__ import annotations

import ast

from lectures.recording.statements import SourceFile, header_end

HOOK = "__lecture__"
FRAME = "__lecture_frame__"
_COMPILERS = ("jit", "njit", "compile", "vectorize", "guvectorize", "kernel", "script")


def instrument(file: SourceFile, *, offset: int = 0, function_offset: int = 0) -> ast.Module:
    """The file's tree, rewritten in place: nobody needs the former one, and a copy takes as long as all the rest.

    Args:
        file: the parsed file.
        offset: added to the number of each statement, so that numbers of several files do not meet.
        function_offset: the same for functions.
    """
    numbers = {function.statement: i for i, function in enumerate(file.functions)}
    _Functions(file, numbers, offset, function_offset).visit(file.tree)
    return ast.fix_missing_locations(file.tree)


class _Functions(ast.NodeTransformer):
    """Rewrites the functions at module and class level; what lies inside them is done by `_Body`."""

    def __init__(self, file: SourceFile, numbers: dict[int, int], offset: int, function_offset: int):
        self.file, self.numbers, self.offset, self.function_offset = file, numbers, offset, function_offset

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:  # noqa: N802
        """Rewrite one function."""
        index = self.numbers[node.number]  # type: ignore[attr-defined]
        if self.file.functions[index].stepover or _is_compiled(node) or _delegates(node):
            return node
        generator = any(isinstance(n, ast.Yield) for n in _own_nodes(node))
        body = _Body(self, inspects=self.file.functions[index].inspects, generator=generator)
        head = node.body[:1] if ast.get_docstring(node, clean=False) is not None else []
        names = _locals(self.file.functions[index].inspects)
        enter = _call("call", [ast.Constant(index + self.function_offset), *names], node)
        target = _at(ast.Name(FRAME, ast.Store()), node) if generator else None
        block = ast.With([ast.withitem(enter, target)], body.block(node.body[len(head) :]) or [ast.Pass()])
        node.body = [*head, _at(block, node)]
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AsyncFunctionDef:  # noqa: N802
        """Leave it alone."""
        return node


class _Body:
    """Rewrites the statements of one function."""

    def __init__(self, outer: _Functions, *, inspects: bool, generator: bool):
        self.outer, self.inspects, self.generator = outer, inspects, generator
        self.loops: list[ast.stmt] = []

    def block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Rewrite a list of statements."""
        return [new for node in body for new in self.statement(node)]

    def statement(self, node: ast.stmt) -> list[ast.stmt]:
        """The statements that take the place of one."""
        before, after = self._hook("before", node, names=False), self._hook("after", node)
        if self.generator:
            node = _Yields().visit(node)
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                return [before, self.outer.visit(node), after]
            case ast.If():
                node.test = self._tested(node, node.test)
                node.body, node.orelse = self.block(node.body), self.block(node.orelse)
                return [before, node]
            case ast.While():
                return self._while(node)
            case ast.For():
                return self._for(node, before, after)
            case ast.With():
                node.body = [after, *self.block(node.body)]
                return [before, node]
            case ast.Try() | ast.TryStar():
                return [self._try(node)]
            case ast.Match():
                for case in node.cases:
                    case.body = [self._hook("after", node), *self.block(case.body)]
                return [before, node]
            case ast.Return():
                value = node.value or ast.Constant(None)
                node.value = _call("returned", [self._number(node), value, *_locals(self.inspects)], node)
                return [before, node]
            case ast.Break():
                return [before, after, node]
            case ast.Continue():
                again = [self._hook("before", self.loops[-1], names=False, at=node)] if self.loops else []
                return [before, after, *again, node]
            case ast.Raise() | ast.AsyncFor() | ast.AsyncWith() | ast.Global() | ast.Nonlocal():
                return [node] if isinstance(node, (ast.Global, ast.Nonlocal)) else [before, node]
        return [before, node, after]

    def _while(self, node: ast.While) -> list[ast.stmt]:
        """Each turn evaluates the header anew."""
        self.loops.append(node)
        again = _call("before", [self._number(node)], node)
        # before() returns None, so `or` goes on to the test
        node.test = _at(ast.BoolOp(ast.Or(), [again, self._tested(node, node.test)]), node)
        node.body = [self._turn(node), *self.block(node.body)]
        self.loops.pop()
        node.orelse = self.block(node.orelse)
        return [node, self._hook("left", node, names=False)]

    def _for(self, node: ast.For, before: ast.stmt, after: ast.stmt) -> list[ast.stmt]:
        """Each turn begins with the step of the header, when its variables have their values."""
        self.loops.append(node)
        again = self._hook("before", node, names=False)
        node.body = [self._turn(node), after, *self.block(node.body), again]
        self.loops.pop()
        node.orelse = self.block(node.orelse)
        return [before, node, self._hook("left", node, names=False)]

    def _turn(self, node: ast.stmt) -> ast.stmt:
        """Tell that a turn of a loop begins (for @every)."""
        return self._hook("turn", node, names=False)

    def _try(self, node: ast.Try | ast.TryStar) -> ast.stmt:
        """A handler begins with the step of the exception it caught."""
        node.body, node.orelse = self.block(node.body), self.block(node.orelse)
        node.finalbody = self.block(node.finalbody)
        for handler in node.handlers:
            caught = _at(ast.Expr(_call("caught", [*_locals(self.inspects)], handler)), handler)
            handler.body = [caught, *self.block(handler.body)]
        return node

    def _tested(self, node: ast.stmt, test: ast.expr) -> ast.expr:
        """A condition that tells when it has been evaluated."""
        return _call("tested", [self._number(node), test, *_locals(self.inspects)], test)

    def _hook(self, name: str, node: ast.stmt, *, names: bool = True, at: ast.stmt | None = None) -> ast.stmt:
        """The statement `__lecture__.name(k, locals())`."""
        arguments = [self._number(node), *_locals(self.inspects and names)]
        return _at(ast.Expr(_call(name, arguments, at or node)), at or node)

    def _number(self, node: ast.stmt) -> ast.expr:
        """The statement's number as an expression."""
        return ast.Constant(node.number + self.outer.offset)  # type: ignore[attr-defined]


class _Yields(ast.NodeTransformer):
    """Takes the frame off the stack while a generator waits."""

    def visit_Yield(self, node: ast.Yield) -> ast.expr:  # noqa: N802
        """`yield x` becomes `frame.resume((yield frame.suspend(x)))`."""
        self.generic_visit(node)
        frame = ast.Name(FRAME, ast.Load())
        value = ast.Call(ast.Attribute(frame, "suspend", ast.Load()), [node.value or ast.Constant(None)], [])
        resume = ast.Call(ast.Attribute(frame, "resume", ast.Load()), [ast.Yield(value)], [])
        return _at(resume, node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:  # noqa: N802
        """A lambda's yields are its own."""
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Leave out statements inside a compound one: they are visited on their own."""
        for name, value in ast.iter_fields(node):
            if (
                isinstance(value, list)
                and value
                and isinstance(value[0], (ast.stmt, ast.ExceptHandler, ast.match_case))
            ):
                continue
            if isinstance(value, list):
                setattr(node, name, [self.visit(v) if isinstance(v, ast.AST) else v for v in value])
            elif isinstance(value, ast.AST):
                setattr(node, name, self.visit(value))
        return node


def _own_nodes(function: ast.AST):
    """All nodes of a function but those of functions inside it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            yield from _own_nodes(child)


def _delegates(node: ast.FunctionDef) -> bool:
    """Whether it has a `yield from`, whose inner generator would run while this frame waits."""
    return any(isinstance(n, ast.YieldFrom) for n in _own_nodes(node))


def _is_compiled(node: ast.FunctionDef) -> bool:
    """Whether a decorator compiles the function from its bytecode or source."""
    names = [n for d in node.decorator_list for n in ast.walk(d) if isinstance(n, (ast.Name, ast.Attribute))]
    return any((n.id if isinstance(n, ast.Name) else n.attr) in _COMPILERS for n in names)


def _locals(wanted: bool) -> list[ast.expr]:
    """`locals()` as an argument, where a function shows values."""
    return [ast.Call(ast.Name("locals", ast.Load()), [], [])] if wanted else []


def _call(method: str, arguments: list[ast.expr], place: ast.AST) -> ast.expr:
    """`__lecture__.method(arguments)` at a place of the source."""
    function = ast.Attribute(ast.Name(HOOK, ast.Load()), method, ast.Load())
    return _at(ast.Call(function, arguments, []), place)


def _at(node, place: ast.AST):
    """The node with the first line of `place` as its own."""
    for inner in ast.walk(node):
        if isinstance(inner, (ast.expr, ast.stmt)) and not hasattr(inner, "lineno"):
            inner.lineno = inner.end_lineno = place.lineno  # type: ignore[attr-defined]
            inner.col_offset = inner.end_col_offset = 0
    return node


__all__ = ["FRAME", "HOOK", "header_end", "instrument"]
