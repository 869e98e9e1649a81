"""The index of the lectures: index.html beside their pages, with the sections of each. Read first: `page.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape, unescape
from pathlib import Path

_STYLE = (Path(__file__).parent / "viewer" / "style.css").read_text
_OWN = """
main { max-width: 60rem; padding-top: 3rem; }
.lectures { list-style: none; padding: 0; display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.lectures li { border: 1px solid var(--line); border-radius: 12px; background: var(--raised); padding: 1rem 1.15rem; }
.lectures li:hover { border-color: var(--accent); }
.lectures a { font-size: 1.08rem; font-weight: 650; text-decoration: none; color: var(--ink); }
.lectures a:hover { color: var(--accent); }
.lectures .number { display: block; color: var(--soft); font-size: .78rem; letter-spacing: .08em; text-transform: uppercase; }
.lectures ol { margin: .5rem 0 0; padding: 0; list-style: none; color: var(--soft); font-size: .88rem; }
.lectures .failed { color: var(--bad); font-size: .85rem; }
"""


@dataclass(frozen=True)
class Entry:
    """A lecture in the index: its page, its first sections, and whether it ended early."""

    name: str
    title: str
    sections: Sequence[str]
    steps: int
    failed: bool = False


def entry_of(path: Path) -> Entry | None:
    """What a page says of itself in its meta element; None for a page of something else."""
    found = re.search(r'<meta name="lecture" content="([^"]*)">', path.read_text(encoding="utf-8")[:20_000])
    return Entry(**json.loads(unescape(found[1]))) if found else None


def entry_text(entry: Entry) -> str:
    """The content of that meta element."""
    return escape(json.dumps(asdict(entry), ensure_ascii=False))


def make_index(entries: Sequence[Entry]) -> str:
    """The page."""
    items = "".join(_item(entry) for entry in entries)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>CS336 lectures</title>'
        f'<link rel="icon" href="data:,"><style>{_STYLE(encoding="utf-8")}{_OWN}</style></head><body><main>'
        "<h1>Language models from scratch</h1><p>Each lecture is a program. Its page lets you step through it and see every "
        f'number come about.</p><ul class="lectures">{items}</ul></main></body></html>\n'
    )


def _item(entry: Entry) -> str:
    """One lecture."""
    number = entry.name.rpartition("_")[2]
    sections = "".join(f"<li>{escape(title)}</li>" for title in entry.sections[:6])
    failed = '<p class="failed">ended early</p>' if entry.failed else ""
    return (
        f'<li><span class="number">Lecture {escape(number.lstrip("0") or number)} &middot; {entry.steps:,} steps</span>'
        f'<a href="{escape(entry.name)}.html">{escape(entry.title)}</a>{failed}<ol>{sections}</ol></li>'
    )
