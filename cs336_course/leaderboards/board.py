"""A board: what is measured, on what, within which budget, and how rows are ranked. One TOML file each in `boards/`.

    boards/BOARD.toml                          the rules (this file's dataclasses)
    boards/entries/BOARD/DATE-HANDLE-SHA8.json what somebody claims (`entry.py`)
    boards/verifications/NAME.json             what was measured (`verification.py`)
    boards/README.md, leaderboard.json         generated (`pages.py`)

A board has divisions, which are never compared with each other: a tiny one that any laptop can enter and verify, and
perhaps one for the course's own hardware. Read next: `entry.py`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal

from cs336_basics.runs.config import config_from_dict

Kind = Literal[
    "loss", "attention-time", "step-time", "tokenizer-speed", "scaling-prediction", "filtered-data", "accuracy"
]
ASSIGNMENTS = ("basics", "systems", "scaling", "data", "alignment")


@dataclass(frozen=True)
class Metric:
    """The number that ranks."""

    name: str
    unit: str
    order: Literal["asc", "desc"]
    """asc: the smallest leads"""
    decimals: int
    minimum: float
    """below this a value is not plausible"""
    maximum: float
    """above this neither"""
    tolerance: float
    """share by which a measurement may be worse than the claim, beside the standard errors"""
    text: str = ""
    """what it means"""
    beside: tuple[str, ...] = ()
    """further measured numbers that the table shows; all by default"""

    def __post_init__(self) -> None:
        if not self.minimum < self.maximum:
            raise ValueError(f"metric.minimum={self.minimum} must be below metric.maximum={self.maximum}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"metric.tolerance must lie in [0, 1); got {self.tolerance}")

    def better(self, one: float, other: float) -> bool:
        """Whether `one` ranks before `other`."""
        return one < other if self.order == "asc" else one > other

    def text_of(self, value: float) -> str:
        """With the board's decimals."""
        return f"{value:.{self.decimals}f}"


@dataclass(frozen=True)
class Budget:
    """What an entry may use to be made."""

    cpu_s: float | None = None
    """CPU seconds of all threads; None: not limited"""
    wall_s: float | None = None
    """seconds of wall clock, from before the entrypoint is imported to its end"""
    device: str = "cpu"
    count: int = 1
    """devices"""

    def exceeded(self, *, cpu_s: float | None, wall_s: float | None) -> str | None:
        """Which limit the times break, if any; a time that is not known breaks the limit on it."""
        for name, used, limit in (("CPU seconds", cpu_s, self.cpu_s), ("seconds", wall_s, self.wall_s)):
            if limit is not None and (used is None or used > limit):
                return f"{'an unknown number of' if used is None else f'{used:.1f}'} {name} of {limit:g}"
        return None


@dataclass(frozen=True)
class Division:
    """Entries that are compared with each other."""

    id: str
    title: str
    budget: Budget = field(default_factory=Budget)
    settings: dict[str, Any] = field(default_factory=dict)
    """sizes of the measurement; each judge has its own (see `judges/`)"""
    measured_here: bool = True
    """False: this checkout has no baseline for it, because the hardware or the data are not at hand"""


@dataclass(frozen=True)
class Board:
    """One leaderboard."""

    id: str
    title: str
    assignment: str
    kind: Kind
    metric: Metric
    rules: str
    not_measured: str
    """what the verification does not show"""
    opens: date
    divisions: tuple[Division, ...]
    closes: date | None = None
    runs_required: int = 0
    """training runs behind an entry"""

    def __post_init__(self) -> None:
        if self.assignment not in ASSIGNMENTS:
            raise ValueError(f"assignment must be one of {', '.join(ASSIGNMENTS)}; got {self.assignment!r}")
        if not self.divisions or len({d.id for d in self.divisions}) < len(self.divisions):
            raise ValueError(f"board {self.id} needs at least one division and distinct ids")
        if self.closes is not None and self.closes < self.opens:
            raise ValueError(f"board {self.id} closes on {self.closes}, before it opens on {self.opens}")

    def division(self, name: str | None) -> Division:
        """The named division, or the only one.

        Raises:
            ValueError: no such division, or none named where there are several.
        """
        names = [division.id for division in self.divisions]
        if name is None and len(names) == 1:
            return self.divisions[0]
        if name not in names:
            raise ValueError(f"board {self.id} has the divisions {', '.join(names)}; got {name!r}; give --division")
        return self.divisions[names.index(name)]


def load_board(path: Path) -> Board:
    """Read one TOML file.

    Raises:
        ValueError: not TOML, an unknown or missing key, a value against the rules; names file and key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        board = config_from_dict(Board, values)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if board.id != path.stem:
        raise ValueError(f"{path}: id must be the file's name, {path.stem!r}; got {board.id!r}")
    return board


def load_boards(folder: Path) -> dict[str, Board]:
    """All boards of a folder, by id.

    Raises:
        FileNotFoundError: no board there.
    """
    boards = {path.stem: load_board(path) for path in sorted(folder.glob("*.toml"))}
    if not boards:
        raise FileNotFoundError(f"no boards (*.toml) in {folder}; give --boards the folder that holds them")
    return boards
