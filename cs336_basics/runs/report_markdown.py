"""A report as Markdown (CommonMark with GitHub's tables), for terminals, pull requests and diffs.

Plain text is escaped mark by mark, so that it reads the same in every renderer. Paragraphs are Markdown already; only
HTML tags and images in them are escaped, since the HTML page does not honour these either.

Read next: `report_html.py`, the same blocks as a page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from cs336_basics.runs.report import (
    Block,
    Cell,
    KeyFigures,
    Paragraph,
    Picture,
    Preformatted,
    Report,
    Section,
    Table,
    cell_text,
    printable,
)

_RULES = {"l": ":---", "c": ":---:", "r": "---:"}


def render_markdown(report: Report) -> str:
    """The document; pictures are links to figures/NAME.svg."""
    return "\n\n".join(_section(report, 1)) + "\n"


def _section(section: Section, level: int) -> list[str]:
    """Heading and blocks as separate pieces of text."""
    pieces = [f"{'#' * min(level, 6)} {_escape(section.title)}"]
    for block in section.blocks:
        pieces.extend(_section(block, level + 1) if isinstance(block, Section) else [_block(block)])
    return pieces


def _block(block: Block) -> str:
    """One block that is no section."""
    match block:
        case Paragraph(text):
            return _tame(text).strip("\n")
        case Table():
            return _captioned(block.caption, _table(block.headers, block.rows, block.column_alignment()))
        case Picture():
            return _captioned(block.caption, f"![{_escape(block.alt)}](figures/{block.name}.svg)")
        case Preformatted(text, caption):
            longest = max(map(len, re.findall("`+", text)), default=0)
            fence = "`" * max(3, longest + 1)
            return _captioned(caption, f"{fence}text\n{printable(text)}\n{fence}")
        case KeyFigures(figures):
            rows = [(f.label, f.value, f.target, f.verdict) for f in figures]
            return _table(("", "value", "target", "result"), rows, "lrrl")
    raise TypeError(
        f"a report block must be a Section, Paragraph, Table, Picture, Preformatted or KeyFigures; got {block!r}"
    )


def _captioned(caption: str, text: str) -> str:
    """A block under its caption."""
    return f"*{_escape(caption)}*\n\n{text}" if caption else text


def _table(headers: Sequence[Cell], rows: Iterable[Sequence[Cell]], align: str) -> str:
    """A GitHub table."""
    lines = [_row(headers), "| " + " | ".join(_RULES[letter] for letter in align) + " |", *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[Cell]) -> str:
    """One line of a table."""
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(cell: Cell) -> str:
    """One cell, on one line."""
    if isinstance(cell, Paragraph):
        return re.sub(r"\s*\n\s*", " ", _tame(cell.text)).replace("|", r"\|")
    return _escape(cell_text(cell))


def _escape(text: str) -> str:
    """Plain text as inline Markdown on one line: every mark that could mean something gets a backslash."""
    return re.sub(r"([\\`*_\[\]<>|~#&$])", r"\\\1", re.sub(r"\s*\n\s*", " ", printable(text)).strip())


def _tame(text: str) -> str:
    """Author's Markdown with HTML tags and images made harmless, outside code spans."""
    parts = re.split(r"(`+[^`]+`+)", printable(text))
    parts[::2] = [re.sub(r"<(?=[A-Za-z/!?](?!ttps?://))", "&lt;", part).replace("![", r"!\[") for part in parts[::2]]
    return "".join(parts)
