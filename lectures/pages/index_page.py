"""The index of the lectures: index.html beside their pages, with the sections of each. Read first: `page.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape, unescape
from pathlib import Path

VIEWER = Path(__file__).parent / "viewer"


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
    style = (VIEWER / "style.css").read_text(encoding="utf-8")
    return fill_template((VIEWER / "index.html").read_text(encoding="utf-8"), {"style": style, "items": items})


def fill_template(template: str, fields: dict[str, str]) -> str:
    """Put fields into `{{name}}` marks, in one pass, so that a field's text is never read as a mark."""
    parts = template.split("{{")
    return parts[0] + "".join(fields[name] + rest for name, _, rest in (part.partition("}}") for part in parts[1:]))


def _item(entry: Entry) -> str:
    """One lecture."""
    number = entry.name.rpartition("_")[2]
    sections = "".join(f"<li>{escape(title)}</li>" for title in entry.sections[:6])
    failed = '<p class="failed">ended early</p>' if entry.failed else ""
    return (
        f'<li><span class="number">Lecture {escape(number.lstrip("0") or number)} &middot; {entry.steps:,} steps</span>'
        f'<a href="{escape(entry.name)}.html">{escape(entry.title)}</a>{failed}<ol>{sections}</ol></li>'
    )
