"""Adapters without their bodies: signature and docstring stay, the rest becomes `raise NotImplementedError`.

The syntax tree says where a function's body begins and ends; the text in between is copied as it is, so comments and
layout survive. Private helpers and the other assignments' sections are left out, and from every file what stands
between the lines `# cs336: solution begin` and `# cs336: solution end`. Read next: `generate.py`.
"""

from __future__ import annotations

import ast

RULE = "# " + "-" * 117
BEGIN, END = "# cs336: solution begin", "# cs336: solution end"


def blank_adapters(source: str, section: str) -> str:
    """The adapters of the sections whose heading starts with `section`, blanked.

    Args:
        source: tests/adapters.py.
        section: such as "Assignment 1".

    Raises:
        ValueError: no such section, or a function without docstring.
    """
    lines, tree = source.splitlines(), ast.parse(source)
    headings = [number for number, line in enumerate(lines) if line.startswith("# Assignment ")]
    header = lines[: min(headings) - 1]
    parts = []
    for position, start in enumerate(headings):
        end = headings[position + 1] if position + 1 < len(headings) else len(lines)
        if not lines[start].removeprefix("# ").startswith(section):
            continue
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and start < node.lineno <= end]
        parts.append("\n".join([RULE, lines[start], RULE]))
        parts += [blank_function(node, lines) for node in functions if not node.name.startswith("_")]
    if not parts:
        raise ValueError(f"tests/adapters.py has no section {section!r}")
    return "\n".join(header).rstrip() + "\n\n\n" + "\n\n\n".join(parts) + "\n"


def blank_function(node: ast.FunctionDef, lines: list[str]) -> str:
    """Signature, docstring, and `raise NotImplementedError`."""
    first = node.body[0]
    if ast.get_docstring(node) is None or first.end_lineno is None:
        raise ValueError(f"{node.name} has no docstring, which is all that a student sees of it")
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return "\n".join([*lines[start - 1 : first.end_lineno], "    raise NotImplementedError"])


def without_solutions(source: str, name: str) -> str:
    """The text without its marked parts.

    Raises:
        ValueError: marks that do not come in pairs.
    """
    kept: list[str] = []
    hidden = False
    for line in source.splitlines():
        if line.strip() in (BEGIN, END):
            if hidden == (line.strip() == BEGIN):
                raise ValueError(f"{name}: `{line.strip()}` without its partner before it")
            hidden = not hidden
        elif not hidden:
            kept.append(line)
    if hidden:
        raise ValueError(f"{name}: `{BEGIN}` without `{END}`")
    return "\n".join(kept).rstrip() + "\n"
