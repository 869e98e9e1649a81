"""Reports: a small model of a document, written as one self-contained HTML page and as Markdown beside it.

A report is a title and a list of blocks; a section is a block with a title and blocks of its own. `write_report` makes

    report.html    one file, no scripts, nothing fetched; light and dark, phone and print
    report.md      the same content, with the figures in figures/NAME.svg

The same report gives the same bytes: no dates, no random ids. Whatever text goes in (model samples, web pages) comes
out as text.

Left out: plots (`plots.py` makes some), mathematics. Read next: `report_html.py`, `report_markdown.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from cs336_basics.runs.atomic import atomic_write

if TYPE_CHECKING:
    import matplotlib.figure


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Running text in Markdown: bold, emphasis, `code`, links, lists. HTML and images in it show as they are typed."""

    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of values. A cell is plain text, a number, None (shown as a dash), or a Paragraph for Markdown in it.

    `align` has one letter per column, "l", "c" or "r"; by default columns of numbers are set right, others left.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headers):
                raise ValueError(f"table has {len(self.headers)} headers but a row of {len(row)} cells: {list(row)!r}")
        if self.align is not None and not re.fullmatch(f"[lcr]{{{len(self.headers)}}}", self.align):
            raise ValueError(f"table align must be {len(self.headers)} of the letters l, c, r; got {self.align!r}")

    def column_alignment(self) -> str:
        """One letter per column."""
        if self.align is not None:
            return self.align
        columns = [[row[i] for row in self.rows] for i in range(len(self.headers))]
        numeric = [
            any(_is_number(cell) for cell in c) and all(cell is None or _is_number(cell) for cell in c) for c in columns
        ]
        return "".join("r" if right else "l" for right in numeric)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A matplotlib figure. `alt` says in words what it shows; `name` is the file name in figures/ without ".svg"."""

    figure: matplotlib.figure.Figure
    name: str
    alt: str
    caption: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", self.name):
            raise ValueError(f"picture name must be of a-z, 0-9, _ and -, such as 'loss-curve'; got {self.name!r}")
        if not self.alt.strip():
            raise ValueError(f"picture {self.name!r} needs alt text that says what it shows")

    @functools.cached_property
    def svg(self) -> str:
        """The drawing as an SVG file. Made once: a job's report is written after each stage, with the earlier pictures.

        Raises:
            ImportError: matplotlib is missing; says how to install it.
        """
        from cs336_basics.runs.report_svg import figure_to_svg

        return figure_to_svg(self.figure, name=self.name)


@dataclasses.dataclass(frozen=True)
class Preformatted:
    """Code, a sample of generated text, terminal output: shown letter by letter."""

    text: str
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class KeyFigure:
    """A headline number: what it is, its value as text, and perhaps a target and whether it was met."""

    label: str
    value: str
    target: str = ""
    passed: bool | None = None

    @property
    def verdict(self) -> Literal["pass", "miss", ""]:
        """The result in a word."""
        return "" if self.passed is None else "pass" if self.passed else "miss"


@dataclasses.dataclass(frozen=True)
class KeyFigures:
    """A row of headline numbers."""

    figures: Sequence[KeyFigure]


@dataclasses.dataclass
class Section:
    """A title and blocks, sections among them."""

    title: str
    blocks: list[Block] = dataclasses.field(default_factory=list)

    def add(self, *blocks: Block) -> Self:
        """Append blocks; returns the section itself."""
        self.blocks.extend(blocks)
        return self


class Report(Section):
    """The whole document; its title is the page's."""


Cell = str | int | float | None | Paragraph
Block = Paragraph | Table | Picture | Preformatted | KeyFigures | Section


def write_report(report: Report, directory: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write report.html, report.md and figures/*.svg into `directory`, each file atomically.

    Returns:
        (path of the HTML file, path of the Markdown file).

    Raises:
        ValueError: two pictures share a name.
        ImportError: matplotlib or markdown-it-py is missing; says how to install it.
    """
    from cs336_basics.runs.report_html import render_html
    from cs336_basics.runs.report_markdown import render_markdown

    folder = Path(directory)
    drawings: dict[str, str] = {}
    for picture in _pictures(report):
        if picture.name in drawings:
            raise ValueError(f"two pictures of the report are named {picture.name!r}; give each its own name")
        drawings[picture.name] = picture.svg
    files = {f"figures/{name}.svg": svg for name, svg in drawings.items()}
    files |= {"report.md": render_markdown(report), "report.html": render_html(report, drawings)}
    for name, content in files.items():
        with atomic_write(folder / name, "w") as file:
            file.write(content)
    return folder / "report.html", folder / "report.md"


def _pictures(section: Section) -> Iterator[Picture]:
    """All pictures, in reading order."""
    for block in section.blocks:
        if isinstance(block, Picture):
            yield block
        elif isinstance(block, Section):
            yield from _pictures(block)


def _is_number(cell: Cell) -> bool:
    """A number as a table shows it."""
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def cell_text(cell: Cell) -> str:
    """A table cell as plain text: floats to four digits, large integers with commas, None as a dash."""
    if isinstance(cell, Paragraph):
        return cell.text
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}" if abs(cell) >= 10_000 else str(cell)
    return f"{cell:.4g}" if isinstance(cell, float) else cell


def printable(text: str) -> str:
    """Text that every browser and editor can show: control characters as their pictures, lone surrogates replaced."""
    text = text.replace("\r\n", "\n").encode("utf-8", "replace").decode("utf-8")
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", _control_picture, text)


def _control_picture(match: re.Match[str]) -> str:
    """The Unicode picture of an ASCII control character; the later ones have none."""
    code = ord(match.group())
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"
