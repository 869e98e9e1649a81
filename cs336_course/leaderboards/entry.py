"""An entry: what somebody claims for a board, in one JSON file that is never changed.

    boards/entries/BOARD/DATE-HANDLE-SHA8.json        SHA8 = the first 8 digits of the SHA-256 of its canonical JSON

The name holds the content's hash, so an edited entry no longer fits its name; a better result is a new entry, and the
newest of a handle in a division that was measured is the live one. The evidence (code, checkpoint, log) stays with its owner, who hands
it to whoever verifies; the entry holds its hashes. Read next: `evidence_folder.py`, which makes both.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.config import config_from_dict

HANDLE = re.compile(r"[a-z0-9](?:[a-z0-9]|-(?!-)){0,30}")
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_CURVE = 100


@dataclass(frozen=True)
class Artifact:
    """A file of the evidence."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Claim:
    """The number claimed, as the participant's own machine measured it on the public half."""

    metric: float
    standard_error: float | None = None
    wall_s: float | None = None
    cpu_s: float | None = None


@dataclass(frozen=True)
class Run:
    """One training run behind the claim."""

    seed: int
    log_sha256: str
    weights_sha256: str
    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Code:
    """What ran."""

    tree_sha256: str
    """of the code in the evidence"""
    commit: str | None = None
    lock_sha256: str | None = None
    repo: str | None = None


@dataclass(frozen=True)
class Entry:
    """A claim and the hashes of its evidence."""

    board: str
    division: str
    handle: str
    created: str
    """UTC, to the second, as 2026-09-01T12:00:00+00:00"""
    claimed: Claim
    code: Code
    artifacts: tuple[Artifact, ...]
    description: str
    ai_disclosure: str
    runs: tuple[Run, ...] = ()
    env: dict[str, Any] = field(default_factory=dict)
    curve: tuple[tuple[float, float], ...] = ()
    """(tokens trained on, validation loss) of the first run, thinned"""
    schema: int = 1

    def __post_init__(self) -> None:
        if not HANDLE.fullmatch(self.handle):
            raise ValueError(f"handle must be 1 to 31 of a-z, 0-9 and single -; got {self.handle!r}")
        if self.schema != 1:
            raise ValueError(f"schema {self.schema} is not known; this version reads 1")
        self.day  # noqa: B018  raises where it is no date
        if not math.isfinite(self.claimed.metric):
            raise ValueError(f"claimed.metric must be a finite number; got {self.claimed.metric}")
        if len(self.curve) > MAX_CURVE:
            raise ValueError(f"a curve has at most {MAX_CURVE} points; got {len(self.curve)}")
        for artifact in self.artifacts:
            parts = Path(artifact.path).parts
            if not SHA256.fullmatch(artifact.sha256) or ".." in parts or Path(artifact.path).is_absolute():
                raise ValueError(f"artifact {artifact.path!r} needs a path inside the evidence and a SHA-256")
        if not self.description.strip():
            raise ValueError("description is empty; say in a sentence what was done")

    @property
    def day(self) -> date:
        """The date of `created`."""
        moment = datetime.fromisoformat(self.created)
        if moment.tzinfo is None:
            raise ValueError(f"created must have a time zone, as 2026-09-01T12:00:00+00:00; got {self.created!r}")
        return moment.astimezone(UTC).date()

    @property
    def sha256(self) -> str:
        """Of the canonical JSON."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, allow_nan=False).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The file's name without .json."""
        return f"{self.day.isoformat()}-{self.handle}-{self.sha256[:8]}"

    def write(self, boards: Path) -> Path:
        """Write the file into its place below `boards`; returns the path."""
        path = boards / "entries" / self.board / f"{self.name}.json"
        write_json(path, asdict(self))
        return path


def load_entry(path: Path) -> Entry:
    """Read an entry.

    Raises:
        ValueError: not JSON (nan and infinity are none), unknown or missing fields, a value against the rules, or a
            name that does not fit the content.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        entry = config_from_dict(Entry, values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"malformed: {path.name}: {error}") from error
    if entry.name != path.stem:
        raise ValueError(
            f"edited: {path.name} holds an entry whose name would be {entry.name}.json; entries are never changed: "
            "make a new one with `cs336 leaderboard submit`"
        )
    if entry.board != path.parent.name:
        raise ValueError(f"malformed: {path.name} is for board {entry.board!r} but lies in {path.parent.name!r}")
    return entry


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number a board can rank")
