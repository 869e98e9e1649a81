"""Extraction side by side: the lines that each method finds in one page, next to each other.

A line that a method leaves out shows as a dash, so menus, footers and lost paragraphs are seen at a glance. Read next:
`report.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from cs336_basics.runs.report import Paragraph, Section, Table
from cs336_data.document_files import is_document_file
from cs336_data.extraction import HTML_TYPES, METHODS, extract_html
from cs336_data.warc import read_records

_WIDTH = 90
_MAX_LINES = 30
_MAX_RECORDS = 300  # looked at for a page that shows something


def extraction_section(inputs: Sequence[Path], *, pages: int = 2) -> Section | None:
    """Some pages of the input by each method that is installed; None if the input has no HTML."""
    found = _sample_pages(inputs, pages)
    if not found:
        return None
    text = (
        "The same page by each method. **plain** keeps whatever a reader sees, **main_content** and **trafilatura** "
        "guess which part is the article; what one leaves out is a dash."
    )
    return Section("Extraction side by side", [Paragraph(text), *(_compare(url, html) for url, html in found)])


def _sample_pages(inputs: Sequence[Path], count: int) -> list[tuple[str, bytes]]:
    """HTML pages of middling length from the beginning of the first file."""
    pages: list[tuple[str, bytes]] = []
    for path in inputs[:1]:
        if is_document_file(path):
            continue
        for number, record in enumerate(read_records(path)):
            if record.kind == "response" and record.content_type in HTML_TYPES and 4_000 < len(record.payload) < 40_000:
                pages.append((record.url, record.payload))
            if len(pages) == count or number == _MAX_RECORDS:
                break
    return pages


def _compare(url: str, html: bytes) -> Table:
    texts: dict[str, list[str]] = {}
    for method in METHODS:
        try:
            extracted = extract_html(html, method=method) or ""
        except ImportError:
            continue
        texts[method] = [line.strip() for line in extracted.splitlines() if line.strip()]
    names = [name for name in texts if name != "plain"]
    aligned = {name: _aligned(texts["plain"], texts[name]) for name in names}
    rows = [[line[:_WIDTH], *(aligned[name][i] for name in names)] for i, line in enumerate(texts["plain"])]
    shown = rows if len(rows) <= _MAX_LINES else [*rows[: _MAX_LINES - 8], *rows[-8:]]
    words = ", ".join(f"{name} {sum(len(line.split()) for line in texts[name]):,} words" for name in texts)
    hidden = f"; {len(rows) - len(shown)} lines in the middle left out" if len(shown) < len(rows) else ""
    return Table(["plain", *names], shown, align="l" * (len(names) + 1), caption=f"{url} ({words}{hidden})")


def _aligned(base: Sequence[str], other: Sequence[str]) -> list[str | None]:
    """For each line of `base` the line of `other` that stands for it, or None."""
    result: list[str | None] = [None] * len(base)
    for tag, i, i_end, j, j_end in difflib.SequenceMatcher(None, base, other, autojunk=False).get_opcodes():
        if tag == "equal":
            result[i:i_end] = [line[:_WIDTH] for line in other[j:j_end]]
        elif tag == "replace":  # other line breaks: the text stands in the first rows of the place
            for place, line in zip(range(i, i_end), other[j:j_end], strict=False):
                result[place] = line[:_WIDTH]
    return result
