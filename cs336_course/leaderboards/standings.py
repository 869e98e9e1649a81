"""From files to a ranking: one live entry per handle and division, by what was measured, with ties.

A handle's live entry is the newest that was measured: a new claim waits beside it until it is verified.

Entries whose values differ by less than a standard error of the difference share a place. Claims that nobody has
verified stand below without a place; rejected ones are listed with the reason. The order of the files does not matter.
Read next: `pages.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from cs336_course.leaderboards.board import Board, Division
from cs336_course.leaderboards.entry import Entry, load_entry
from cs336_course.leaderboards.verification import Verification, load_verification

MEASURED = ("verified", "unreproduced")
"""an unreproduced entry ranks too, with what was measured"""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    entry: Entry
    verification: Verification | None
    place: int | None = None
    """1 is the best; None where nothing was verified"""
    tied: bool = False

    @property
    def status(self) -> str:
        """verified, unreproduced, rejected or claimed."""
        return "claimed" if self.verification is None else self.verification.verdict

    @property
    def value(self) -> float:
        """What was measured, else the claim."""
        measured = None if self.verification is None else self.verification.measured
        return self.entry.claimed.metric if measured is None else measured.value

    @property
    def standard_error(self) -> float | None:
        """Of `value`."""
        measured = None if self.verification is None else self.verification.measured
        return self.entry.claimed.standard_error if measured is None else measured.standard_error


@dataclass(frozen=True)
class Standings:
    """A division's table, best first."""

    board: Board
    division: Division
    rows: tuple[Row, ...]


def load_entries(boards: Path, board: str) -> list[Entry]:
    """All entries of a board, in order of name."""
    return [load_entry(path) for path in sorted((boards / "entries" / board).glob("*.json"))]


def standings(boards: Path, board: Board) -> list[Standings]:
    """The tables of a board's divisions.

    Raises:
        ValueError: a file that is malformed or edited.
    """
    entries = load_entries(boards, board.id)
    return [rank(board, division, entries, boards) for division in board.divisions]


def rank(board: Board, division: Division, entries: list[Entry], boards: Path) -> Standings:
    """Places of the live entries of a division."""
    live: dict[str, Row] = {}
    for row in (Row(entry, verification_of(boards, entry)) for entry in entries if entry.division == division.id):
        former = live.get(row.entry.handle)
        if former is None or _age(row) > _age(former):
            live[row.entry.handle] = row
    rows = list(live.values())
    sign = 1 if board.metric.order == "asc" else -1
    rows.sort(key=lambda row: (row.status == "rejected", sign * row.value, row.entry.name))
    return Standings(board, division, tuple(_with_places(rows)))


def _age(row: Row) -> tuple[int, str, str]:
    """The largest is a handle's live entry: the newest that was measured, else the newest claim."""
    rank = 2 if row.status in MEASURED else 0 if row.status == "rejected" else 1
    return rank, row.entry.created, row.entry.name


def _with_places(rows: list[Row]) -> list[Row]:
    """Rows with measured values get places; neighbours within an error of the leader of their group share one."""
    ranked = [row for row in rows if row.status in MEASURED]
    places: list[int] = []
    leader = 0
    for number, row in enumerate(ranked):
        if number == 0 or not _tied(ranked[leader], row):
            leader = number
        places.append(leader + 1)
    placed = [
        Row(row.entry, row.verification, place, places.count(place) > 1)
        for row, place in zip(ranked, places, strict=True)
    ]
    return placed + [row for row in rows if row.status not in MEASURED]


def _tied(one: Row, other: Row) -> bool:
    """Closer than one standard error of their difference."""
    return abs(one.value - other.value) < math.hypot(one.standard_error or 0.0, other.standard_error or 0.0)


def verification_of(boards: Path, entry: Entry) -> Verification | None:
    """The verification of an entry, if there is one.

    Raises:
        ValueError: it is malformed, or made for another content.
    """
    path = boards / "verifications" / f"{entry.name}.json"
    if not path.is_file():
        return None
    found = load_verification(path)
    if found.entry_sha256 != entry.sha256:
        raise ValueError(f"edited: {path.name} was made for another content of the entry {entry.name}")
    return found
