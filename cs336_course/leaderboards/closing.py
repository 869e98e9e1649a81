"""Closing a board: its final standings, with the hash of every entry, are written down and compared from then on.

Read next: `lint.py`.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import write_json
from cs336_course.leaderboards.board import Board
from cs336_course.leaderboards.entry import Entry
from cs336_course.leaderboards.standings import load_entries, standings


def close_board(boards: Path, board: Board, day: date) -> Path:
    """Write final/BOARD.json; returns its path.

    Raises:
        ValueError: closed before, still open, or an entry that nobody has verified.
    """
    path = _path(boards, board)
    if path.exists():
        raise ValueError(f"board {board.id} was closed before: {path}")
    if board.closes is None or day <= board.closes:
        raise ValueError(
            f"board {board.id} is open until {board.closes or 'no set date'}; set `closes` in its TOML file to a day before {day}"
        )
    tables = standings(boards, board)
    waiting = [row.entry.name for table in tables for row in table.rows if row.verification is None]
    if waiting:
        raise ValueError(f"{waiting[0]} is not verified yet; run `cs336 leaderboard verify` first")
    value: dict[str, Any] = {
        "board": board.id, "closed": day.isoformat(),
        "entries": {entry.name: entry.sha256 for entry in load_entries(boards, board.id)},
        "standings": {
            table.division.id: [
                {"place": row.place, "handle": row.entry.handle, "entry": row.entry.name, "value": row.value}
                for row in table.rows
            ]
            for table in tables
        },
    }  # fmt: skip
    write_json(path, value)
    return path


def final_difference(boards: Path, board: Board, entries: list[Entry]) -> list[str]:
    """How the entries differ from the final ones; nothing for a board that is not closed."""
    path = _path(boards, board)
    if not path.is_file():
        return []
    final: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["entries"]
    now = {entry.name: entry.sha256 for entry in entries}
    added = [f"{name} came after the board was closed" for name in sorted(now.keys() - final.keys())]
    return added + [f"{name} is gone or changed" for name in sorted(final) if now.get(name) != final[name]]


def _path(boards: Path, board: Board) -> Path:
    return boards / "final" / f"{board.id}.json"
