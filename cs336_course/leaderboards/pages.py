"""Everything people look at, generated from the files: README.md and leaderboard.json in the repository, HTML pages.

The order of the files, the day and the machine change nothing: the same files give the same bytes, so `lint` can tell
a stale table. Handles are shown, names are not asked for. Read next: `lint.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import atomic_write
from cs336_basics.runs.plots import plot_overlaid_curves, plot_values
from cs336_basics.runs.report import Block, KeyFigure, KeyFigures, Paragraph, Picture, Report, Section, Table
from cs336_basics.runs.report_html import render_html
from cs336_basics.runs.report_markdown import render_markdown
from cs336_course.leaderboards.board import Board, load_boards
from cs336_course.leaderboards.standings import Row, Standings, standings
from cs336_course.leaderboards.verification import PASSED

INTRODUCTION = """
Places come from what staff measured on hidden inputs, not from claims: `cs336 leaderboard verify` runs the participant's
code locked in and writes down what it found and which probes were passed. Entries closer than a standard error share a
place (=); s.e. is the standard error. To enter: train or write, then `cs336 leaderboard submit BOARD --handle you ...` and
a pull request with the one file it makes. This page is generated; change nothing here."""
MAX_CURVES = 6


def generated_files(boards: Path) -> dict[str, str]:
    """Name -> content of the generated files that live beside the entries.

    Raises:
        ValueError: a file of a board that is malformed or edited.
    """
    tables = {board.id: standings(boards, board) for board in load_boards(boards).values()}
    readme = Report("Leaderboards", [Paragraph(INTRODUCTION.strip())])
    for divisions in tables.values():
        readme.add(_summary_section(divisions))
    data = json.dumps([board_data(table) for divisions in tables.values() for table in divisions], indent=2) + "\n"
    return {"README.md": render_markdown(readme), "leaderboard.json": data}


def write_generated(boards: Path) -> list[Path]:
    """Write them."""
    written = []
    for name, content in generated_files(boards).items():
        with atomic_write(boards / name, "w") as file:
            file.write(content)
        written.append(boards / name)
    return written


def html_pages(boards: Path) -> dict[str, str]:
    """Name -> content: index.html and a page per board, each self-contained."""
    pages = {}
    index = Report("Leaderboards", [Paragraph(INTRODUCTION.strip())])
    rows: list[list[Any]] = []
    for board in load_boards(boards).values():
        tables = standings(boards, board)
        report = board_report(board, tables)
        drawings = {p.name: p.svg for p in _pictures(report)}
        pages[f"{board.id}.html"] = render_html(report, drawings)
        for table in tables:
            best = next((row for row in table.rows if row.place == 1), None)
            rows.append([
                Paragraph(f"[{board.title}]({board.id}.html)"), table.division.title, board.metric.name,
                "-" if best is None else f"{board.metric.text_of(best.value)} {board.metric.unit}",
                "-" if best is None else best.entry.handle, len(table.rows),
            ])  # fmt: skip
    index.add(Table(["board", "division", "metric", "best", "by", "entries"], rows, align="lllrlr"))
    return {"index.html": render_html(index, {}), **pages}


def write_html(boards: Path, out: Path) -> list[Path]:
    """Write the pages into a folder."""
    pages = html_pages(boards)
    for name, content in pages.items():
        with atomic_write(out / name, "w") as file:
            file.write(content)
    return [out / name for name in pages]


def board_report(board: Board, tables: Sequence[Standings]) -> Report:
    """The page of one board."""
    closes = f"until {board.closes}" if board.closes else "without end"
    report = Report(board.title, [
        Paragraph("[All boards](index.html)"),
        Paragraph(f"**{board.metric.name}** ({board.metric.unit}): {board.metric.text}. "
                  f"{'Smaller' if board.metric.order == 'asc' else 'Larger'} is better. Open from {board.opens} {closes}."),
    ])  # fmt: skip
    for table in tables:
        report.add(_division_section(table))
    return report.add(
        Section("Rules", [Paragraph(board.rules.strip())]),
        Section("What this board does not measure", [Paragraph(board.not_measured.strip())]),
    )


def _division_section(table: Standings) -> Section:
    """Table, curves and remarks of one division."""
    section = Section(table.division.title)
    best = next((row for row in table.rows if row.place == 1), None)
    if best is not None:
        metric = table.board.metric
        section.add(KeyFigures([
            KeyFigure(f"best, by {best.entry.handle}", f"{metric.text_of(best.value)} {metric.unit}"),
            KeyFigure("entries", str(len(table.rows))),
            KeyFigure("verified", str(sum(row.status == "verified" for row in table.rows))),
        ]))  # fmt: skip
    section.add(*table_blocks(table), *_pictures_of(table), *_remarks(table))
    return section


def table_blocks(table: Standings) -> list[Block]:
    """The division's table, or a sentence for an empty one."""
    if not table.rows:
        why = (
            ""
            if table.division.measured_here
            else " There is no baseline: this division needs hardware or data that the maintainers' machine lacks, or a longer run."
        )
        return [Paragraph(f"No entries yet.{why}")]
    metric = table.board.metric
    beside = list(metric.beside) or sorted({name for row in table.rows for name in _beside(row)})
    headers = ["place", "handle", f"{metric.name}, {metric.unit}", "s.e.", *beside, "status", "made"]
    rows = []
    for row in table.rows:
        extra = _beside(row)
        rows.append([
            _place(row), row.entry.handle, metric.text_of(row.value),
            None if row.standard_error is None else f"{row.standard_error:.2g}",
            *(None if extra.get(name) is None else f"{extra[name]:.4g}" for name in beside), row.status, str(row.entry.day),
        ])  # fmt: skip
    return [Table(headers, rows, align="cl" + "r" * (len(headers) - 4) + "ll")]


def _place(row: Row) -> str:
    """With = where it is shared."""
    return "-" if row.place is None else f"{row.place}{'=' if row.tied else ''}"


def _beside(row: Row) -> dict[str, float]:
    measured = None if row.verification is None else row.verification.measured
    return {} if measured is None else measured.beside


def _pictures_of(table: Standings) -> list[Block]:
    """Loss curves where entries have them, else the values as bars."""
    name = f"{table.board.id}-{table.division.id}"
    curves = {row.entry.handle: row.entry.curve for row in table.rows if row.entry.curve and row.status != "rejected"}
    if curves:
        shown = dict(list(curves.items())[:MAX_CURVES])
        figure = plot_overlaid_curves(shown, xlabel="tokens trained on")
        alt = f"validation loss over the tokens trained on, of {', '.join(shown)}"
        caption = "As logged by the participants on their own machines and their own validation text."
        return [Picture(figure, f"curves-{name}", alt, caption)]
    placed = [row for row in table.rows if row.place is not None]
    if len(placed) < 2:
        return []
    metric = table.board.metric
    errors = [(row.value - (row.standard_error or 0.0), row.value + (row.standard_error or 0.0)) for row in placed]
    figure = plot_values(
        [row.entry.handle for row in placed], {metric.name: [row.value for row in placed]},
        ylabel=f"{metric.name}, {metric.unit}", intervals={metric.name: errors},
    )  # fmt: skip
    alt = f"{metric.name} of {', '.join(row.entry.handle for row in placed)} with standard errors"
    return [Picture(figure, f"values-{name}", alt)]


def _remarks(table: Standings) -> list[Block]:
    """What each entry says, and what its verification found."""
    section = Section("Entries")
    for row in table.rows:
        entry, found = row.entry, row.verification
        lines = [entry.description, f"AI disclosure: {entry.ai_disclosure}."]
        metric = table.board.metric
        lines.append(f"Claimed {metric.text_of(entry.claimed.metric)} {metric.unit} on the public half.")
        if found is not None:
            probes = {} if found.measured is None else found.measured.probes
            passed = [name for name, text in probes.items() if text == PASSED]
            lines.append(
                f"{found.verdict.capitalize()} on {found.verified[:10]}, isolation {found.isolation}, {found.machine}."
                + (f" Probes passed: {', '.join(passed)}." if passed else "")
                + (f" {found.reason}." if found.reason else "")
                + (
                    f" Trained again by staff: {', '.join(metric.text_of(x) for x in found.reruns)}."
                    if found.reruns
                    else ""
                )
            )
        section.add(Section(f"{entry.handle}, {entry.day}", [Paragraph(" ".join(_plain(line) for line in lines))]))
    return [section] if table.rows else []


def _plain(text: str) -> str:
    """A participant's text without Markdown of its own."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>#!|" else " " if c in "\r\n" else c for c in text)


def _summary_section(divisions: Sequence[Standings]) -> Section:
    """A board in README.md."""
    board = divisions[0].board
    better = "smaller is better" if board.metric.order == "asc" else "larger is better"
    section = Section(
        board.title,
        [
            Paragraph(
                f"`{board.id}`: {board.metric.text}; {better}. Not measured: {' '.join(board.not_measured.split())}"
            )
        ],
    )
    for table in divisions:
        section.add(Section(f"{table.division.title} ({table.division.id})", table_blocks(table)))
    return section


def board_data(table: Standings) -> dict[str, Any]:
    """A division for machines."""
    return {
        "board": table.board.id, "division": table.division.id, "metric": table.board.metric.name,
        "unit": table.board.metric.unit, "order": table.board.metric.order,
        "rows": [
            {
                "place": row.place, "tied": row.tied, "handle": row.entry.handle, "value": row.value,
                "standard_error": row.standard_error, "status": row.status, "claimed": row.entry.claimed.metric,
                "entry": row.entry.name, "beside": _beside(row),
            }
            for row in table.rows
        ],
    }  # fmt: skip


def _pictures(section: Section) -> list[Picture]:
    found: list[Picture] = []
    for block in section.blocks:
        if isinstance(block, Picture):
            found.append(block)
        elif isinstance(block, Section):
            found += _pictures(block)
    return found
