"""Arithmetic in text, evaluated exactly and without danger: + - * / and parentheses over plain numbers.

The text is parsed by Python's own grammar, and only numbers, the four operations and signs are let through; there are
no names, calls, powers or strings, so the work is bounded by the length of the text. Values are fractions: 1/3 * 3 is
1. Source of the idea: `ast.literal_eval`. Read next: `tasks/countdown.py`, `calculator.py`.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from fractions import Fraction

MAX_CHARACTERS = 300
_OPERATIONS: dict[type, Callable[..., Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS: dict[type, Callable[..., Fraction]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def parse_expression(text: str) -> ast.expr:
    """The syntax tree of an expression, checked.

    Raises:
        ValueError: no such expression, or one of more than 300 characters.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"an expression may have {MAX_CHARACTERS} characters; got {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, MemoryError, RecursionError, ValueError) as error:
        raise ValueError(f"not an expression: {text!r}") from error
    for node in ast.walk(tree):
        number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        operation = isinstance(node, (ast.BinOp, ast.UnaryOp)) and type(node.op) in (_OPERATIONS | _SIGNS)
        if not (number or operation or isinstance(node, (ast.operator, ast.unaryop))):
            raise ValueError(f"only numbers, + - * / and parentheses may stand in an expression; got {text!r}")
    return tree


def evaluate(tree: ast.expr, source: str) -> Fraction:
    """The exact value of a checked tree.

    Args:
        tree: from `parse_expression`.
        source: its text, from which decimals are read as they are written (0.1 is 1/10).

    Raises:
        ValueError: division by zero, or a float that has no value.
    """
    if isinstance(tree, ast.Constant):
        written = (ast.get_source_segment(source, tree) or str(tree.value)).replace("_", "")
        return Fraction(tree.value) if isinstance(tree.value, int) else Fraction(written)
    if isinstance(tree, ast.UnaryOp):
        return _SIGNS[type(tree.op)](evaluate(tree.operand, source))
    assert isinstance(tree, ast.BinOp), "checked by parse_expression"
    left, right = evaluate(tree.left, source), evaluate(tree.right, source)
    if isinstance(tree.op, ast.Div) and right == 0:
        raise ValueError(f"division by zero in {source!r}")
    return _OPERATIONS[type(tree.op)](left, right)


def evaluate_expression(text: str) -> Fraction:
    """The exact value of an expression.

    Raises:
        ValueError: see `parse_expression` and `evaluate`.

    >>> evaluate_expression("(3 + 4) / 2")
    Fraction(7, 2)
    """
    return evaluate(parse_expression(text), text.strip())


def numbers_in(tree: ast.expr) -> Iterator[int | float]:
    """The numbers of a checked tree."""
    return (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))  # type: ignore[misc]
