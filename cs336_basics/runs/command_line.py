"""What every verb of the `cs336` command shares: parsing into a dataclass, and printing a result.

A verb's arguments are the fields of a dataclass, from which tyro builds the parser, the help and the messages. Results
go to standard output, as a table for people or as JSON for machines; progress goes to standard error.

Left out: the table of verbs (`cs336_course/cli.py`). Read next: `cs336_basics/cli.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Options = TypeVar("Options")


def parse(
    options: type[Options], argv: Sequence[str], verb: str, *, example: str, description: str | None = None
) -> Options:
    """Parse the arguments of `cs336 VERB`.

    Args:
        options: a dataclass; the strings below its fields are their help.
        argv: what stands after the verb.
        verb: one or two words.
        example: a command to copy, without "cs336 ".
        description: what the verb does; the dataclass's docstring by default.

    Raises:
        SystemExit: after --help (0) or a wrong argument (2).
    """
    import tyro

    text = f"{description or options.__doc__}\n\nExample: cs336 {example}"
    return tyro.cli(options, args=list(argv), prog=f"cs336 {verb}", description=text)


def print_result(values: Mapping[str, Any], *, as_json: bool) -> None:
    """Print names and values to standard output."""
    if as_json:
        print(json.dumps(dict(values), indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name.replace("_", " "), Text(_shown(value)))
    console = Console()
    if not console.is_terminal:
        console.width = 10_000  # a pipe gets one line per value
    console.print(table)


def _shown(value: Any) -> str:
    """A value for people."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
