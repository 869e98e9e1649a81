"""The lecture as a static document: each source line shows as code or as what it said, with the values it showed.

A unit is the lines of one statement (of a compound one: the header), or lines between statements. A unit holds

    .said    what the statement said: one .visit per different saying (a loop says more than one), in each language
    .code    its lines
    .shown   the values that it shows, as they were last

Without a script and on paper all of it shows; the viewer picks the saying and the values of the present step.
Read next: `page.py`, `viewer/view.js`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

from lectures.i18n.catalogue import languages, translator
from lectures.pages.briefs import brief, type_of
from lectures.pages.markup import Markup, coloured_lines
from lectures.pages.said import SaidHtml
from lectures.recording.trace import BOILERPLATE, HIDE, SAYS, TraceReader

MAX_PAPER_VISITS = 12


class Flow:
    """The document.

    Attributes:
        html: of all files.
        unit_of: for each statement its unit.
        visits: [step, unit, visit] where something was said.
        languages: of this lecture.
        problems: what could not be rendered.
    """

    def __init__(self, reader: TraceReader):
        self.reader, self.markup = reader, Markup()
        self.said_html = SaidHtml(self.markup)
        self.name = reader.trace["meta"]["name"]
        self.languages = languages(self.name)
        self.translators = {language: translator(language, self.name) for language in self.languages}
        self.unit_of = [-1] * len(reader.statements)
        self.units = self._make_units()
        self.visits: list[list[int]] = []
        self.fragments: dict[int, list[str]] = {}
        self._collect_said()
        self.html = "\n".join(self._file(i) for i in range(len(reader.files)))
        self.problems = list(dict.fromkeys(self.markup.problems + self.said_html.problems))

    def _make_units(self) -> list[tuple[int, int, int, int]]:
        """(file, first line, last line, statement or -1) of all units, in the order of the text."""
        units: list[tuple[int, int, int, int]] = []
        for file, entry in enumerate(self.reader.files):
            owner = [-1] * (entry["source"].count("\n") + 2)
            base = self.reader.first_statement[file]
            for number, (first, last, _, _) in enumerate(entry["statements"]):
                owner[first : last + 1] = [base + number] * (last + 1 - first)
            starts = [1] + [n for n in range(2, len(owner)) if owner[n] != owner[n - 1]] + [len(owner)]
            for first, end in pairwise(starts):
                units.append((file, first, end - 1, owner[first]))
            for number, (first, _, _, _) in enumerate(entry["statements"]):
                self.unit_of[base + number] = next(
                    u for u, (f, a, b, _) in enumerate(units) if f == file and a <= first <= b
                )
        return units

    def _collect_said(self) -> None:
        """Render what was said; equal sayings of one unit are one."""
        for step, said in sorted(self.reader.said.items()):
            unit = self.unit_of[self.reader.steps["statement"][step]]
            html = self._in_languages(said)
            known = self.fragments.setdefault(unit, [])
            if html not in known:
                known.append(html)
            self.visits.append([step, unit, known.index(html)])

    def _in_languages(self, said: Sequence[dict[str, Any]]) -> str:
        """One saying in English and in the languages that translate all of it that can be translated."""
        english = self.said_html.fragment(said, self.translators["en"])
        others = {code: self.said_html.fragment(said, self.translators[code]) for code in self.languages[1:]}
        others = {code: html for code, html in others.items() if html != english}
        if not others:
            return english
        marks = " ".join(f"in-{code}" for code in others)
        parts = [f'<div class="english {marks}">{english}</div>']
        return "".join(parts + [f'<div class="other" lang="{code}">{html}</div>' for code, html in others.items()])

    def _file(self, file: int) -> str:
        """One file."""
        entry = self.reader.files[file]
        lines = coloured_lines(entry["source"].rstrip("\n"))
        body: list[Any] = []
        folded: list[Any] = []
        for number, unit in enumerate(self.units):
            if unit[0] != file:
                continue
            html = self._unit(number, lines)
            if self._is_boilerplate(unit) or (unit[3] < 0 and folded and self._is_blank(unit, lines)):
                folded.append((unit, html))
                continue
            body += [_folded(folded)] if folded else []
            folded = []
            body.append(html)
        body += [_folded(folded)] if folded else []
        title = f'<h2 class="file-name"><code>{escape(entry["path"])}</code></h2>'
        label = escape(entry["path"])
        return f'<section class="file" id="file{file}" aria-label="{label}">{title}{"".join(body)}</section>'

    def _is_boilerplate(self, unit: tuple[int, int, int, int]) -> bool:
        """Imports and the like."""
        return unit[3] >= 0 and bool(self.reader.statements[unit[3]][3] & BOILERPLATE)

    def _is_blank(self, unit: tuple[int, int, int, int], lines: list[str]) -> bool:
        """Only empty lines."""
        return not any(lines[n - 1].strip() for n in range(unit[1], min(unit[2], len(lines)) + 1))

    def _unit(self, number: int, lines: list[str]) -> str:
        """One unit."""
        file, first, last, statement = self.units[number]
        flags = self.reader.statements[statement][3] if statement >= 0 else 0
        said = self.fragments.get(number, [])
        kind = "unit"
        if statement < 0:
            kind += " blank" if self._is_blank(self.units[number], lines) else " comment"
        kind += " says" if said and flags & SAYS else ""
        kind += " hide" if flags & HIDE else ""
        kind += " only-note" if said and all(html.startswith('<aside class="note">') for html in said) else ""
        rows = "".join(self._line(file, n, lines[n - 1] if n <= len(lines) else "") for n in range(first, last + 1))
        visits = "".join(
            f'<div class="visit{" extra" if i >= MAX_PAPER_VISITS else ""}">{html}</div>' for i, html in enumerate(said)
        )
        return (
            f'<div class="{kind}" id="u{number}">' + (f'<div class="said">{visits}</div>' if said else "")
            + f'<div class="code">{rows}</div>{self._shown(number)}</div>'
        )  # fmt: skip

    def _line(self, file: int, number: int, html: str) -> str:
        """One source line with its number, a button that runs to it."""
        return (
            f'<div class="ln"><button type="button" class="no" tabindex="-1" data-at="{file}:{number}" '
            f'aria-label="{number}">{number}</button><code>{html or " "}</code></div>'
        )

    def _shown(self, unit: int) -> str:
        """The values that the unit's statement showed last."""
        found: dict[str, int] = {}
        for step, changes in self._changes_of(unit):
            for name, value in changes:
                if value >= 0 and (name[0] != "(" or name == "(exception)"):
                    found[name] = value
            if self.reader.steps["kind"][step] == "x":
                found["(exception)"] = dict(changes)["(exception)"]
        if not found:
            return ""
        chips = "".join(self._chip(name, self.reader.values[value]) for name, value in found.items())
        return f'<div class="shown" aria-live="off">{chips}</div>'

    def _changes_of(self, unit: int) -> list[tuple[int, list[list[Any]]]]:
        """(step, changes) of the unit's statement."""
        if not hasattr(self, "_by_unit"):
            self._by_unit: dict[int, list[tuple[int, list[list[Any]]]]] = {}
            for step, changes in self.reader.changes.items():
                self._by_unit.setdefault(self.unit_of[self.reader.steps["statement"][step]], []).append((step, changes))
        return self._by_unit.get(unit, [])

    def _chip(self, name: str, value: Any) -> str:
        """One value."""
        kind = type_of(value)
        title = f' title="{escape(kind)}"' if kind else ""
        error = ' class="chip error"' if name == "(exception)" else ' class="chip"'
        label = "" if name == "(exception)" else f"<b>{escape(name)}</b>"
        return f"<span{error}{title}>{label}<span>{escape(brief(value))}</span></span>"


def _folded(units: list[tuple[tuple[int, int, int, int], str]]) -> str:
    """Boilerplate behind a line to open."""
    first, last = units[0][0][1], units[-1][0][2]
    body = "".join(html for _, html in units)
    if not any(unit[3] >= 0 for unit, _ in units):
        return body
    return (
        f'<details class="boilerplate"><summary><span data-t="Imports and constants">Imports and constants</span> '
        f"<small>{first}-{last}</small></summary>{body}</details>"
    )
