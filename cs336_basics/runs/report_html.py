"""A report as one HTML page: semantic, escaped, styled by one style element, with no script and nothing to fetch.

A content security policy in the page forbids scripts and network, should anything ever slip through the escaping.

Left out: printing to PDF (browsers do it well from here). Read next: `report_style.py`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

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
from cs336_basics.runs.report_style import STYLE
from cs336_basics.runs.report_svg import inline_svg

if TYPE_CHECKING:
    import markdown_it

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_ALIGNMENT = {"l": "left", "c": "center", "r": "right"}


def render_html(report: Report, drawings: Mapping[str, str]) -> str:
    """The page.

    Args:
        report: the document.
        drawings: picture name to SVG file, as `report_svg.figure_to_svg` makes them.

    Raises:
        ImportError: markdown-it-py is not installed.
    """
    page = _Page(drawings)
    body = page.blocks(report, level=1)
    title = _escape(report.title)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
</header>
{page.contents()}<main>
{body}</main>
</body>
</html>
"""


class _Page:
    """Renders blocks and collects the table of contents on the way."""

    def __init__(self, drawings: Mapping[str, str]) -> None:
        self.drawings = drawings
        self.markdown = _markdown_parser()
        self.entries: list[tuple[int, str, str]] = []  # level, anchor, title

    def contents(self) -> str:
        """The table of contents: sections and their subsections; none for a short report."""
        entries = [entry for entry in self.entries if entry[0] <= 3]
        if len(entries) < 2:
            return ""
        items = [
            f'<li class="level{level}"><a href="#{anchor}">{_escape(title)}</a></li>\n'
            for level, anchor, title in entries
        ]
        return f'<nav aria-label="Contents">\n<ul>\n{"".join(items)}</ul>\n</nav>\n'

    def blocks(self, section: Section, *, level: int) -> str:
        """All blocks of a section whose heading has this level."""
        return "".join(self.block(block, level) for block in section.blocks)

    def block(self, block: Block, level: int) -> str:
        """One block."""
        match block:
            case Section():
                return self.section(block, min(level + 1, 6))
            case Paragraph(text):
                return self.markdown.render(printable(text))
            case Table():
                return self.table(block)
            case Picture():
                drawing = inline_svg(self.drawings[block.name], name=block.name, alt=printable(block.alt))
                return f'<figure class="picture">\n{drawing}\n{_caption("figcaption", block.caption)}</figure>\n'
            case Preformatted(text, caption):
                code = f'<pre tabindex="0"><code>{_escape(text)}</code></pre>'
                return f'<figure class="code">\n{_caption("figcaption", caption)}{code}\n</figure>\n'
            case KeyFigures():
                return f'<ul class="tiles">\n{"".join(_tiles(block))}</ul>\n'
        raise TypeError(
            f"a report block must be a Section, Paragraph, Table, Picture, Preformatted or KeyFigures; got {block!r}"
        )

    def section(self, section: Section, level: int) -> str:
        """A section with its heading; the anchor is the title in plain letters, numbered where two are alike."""
        slug = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        taken = {anchor for _, anchor, _ in self.entries}
        candidates = (f"section-{slug}" + (f"-{number}" if number > 1 else "") for number in range(1, len(taken) + 2))
        anchor = next(candidate for candidate in candidates if candidate not in taken)
        self.entries.append((level, anchor, section.title))
        heading = f'<h{level} id="{anchor}">{_escape(section.title)}</h{level}>'
        return f'<section aria-labelledby="{anchor}">\n{heading}\n{self.blocks(section, level=level)}</section>\n'

    def table(self, table: Table) -> str:
        """A table in a frame that scrolls sideways on narrow screens."""
        align = [f' class="{_ALIGNMENT[letter]}"' for letter in table.column_alignment()]
        head = "".join(f'<th scope="col"{a}>{_escape(name)}</th>' for a, name in zip(align, table.headers, strict=True))
        rows = "".join(
            "<tr>" + "".join(f"<td{a}>{self.cell(cell)}</td>" for a, cell in zip(align, row, strict=True)) + "</tr>\n"
            for row in table.rows
        )
        label = _escape(table.caption or "Table")
        return (
            f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">\n<table>\n'
            f"{_caption('caption', table.caption)}<thead>\n<tr>{head}</tr>\n</thead>\n"
            f"<tbody>\n{rows}</tbody>\n</table>\n</div>\n"
        )

    def cell(self, cell: Cell) -> str:
        """One cell."""
        if isinstance(cell, Paragraph):
            return self.markdown.renderInline(printable(cell.text))
        return _escape(cell_text(cell))


def _markdown_parser() -> markdown_it.MarkdownIt:
    """CommonMark without HTML, images and headings."""
    try:
        import markdown_it
    except ImportError as error:
        raise ImportError("reports need markdown-it-py; install it with: pip install markdown-it-py") from error
    return markdown_it.MarkdownIt("commonmark", {"html": False}).disable(["image", "heading", "lheading", "html_block"])


def _tiles(block: KeyFigures) -> Iterator[str]:
    """Headline numbers as list items; the verdict is a word, not only a colour."""
    for figure in block.figures:
        target = f'<span class="target">target {_escape(figure.target)}</span>' if figure.target else ""
        verdict = f'<span class="verdict">{figure.verdict}</span>' if figure.verdict else ""
        below = f'<span class="below">{target}{verdict}</span>' if target or verdict else ""
        kind = f' class="{figure.verdict}"' if figure.verdict else ""
        label, value = _escape(figure.label), _escape(figure.value)
        yield f'<li{kind}><span class="label">{label}</span><span class="value">{value}</span>{below}</li>\n'


def _caption(tag: str, text: str) -> str:
    """A caption element, nothing for no text."""
    return f"<{tag}>{_escape(text)}</{tag}>\n" if text else ""


def _escape(text: str) -> str:
    """Plain text as HTML."""
    return html.escape(printable(text))
