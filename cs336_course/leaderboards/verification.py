"""A verification: what staff measured for an entry, which probes it passed, and the verdict.

    verified       all probes passed and the measurement is no worse than the claim, within errors
    unreproduced   all probes passed, but the measurement is worse than the claim
    rejected       a probe failed, or the evidence is not what the entry says

Boards rank by what was measured here, never by the claim. Read next: `standings.py`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.config import config_from_dict
from cs336_course.leaderboards.board import Board
from cs336_course.leaderboards.entry import Claim

PASSED = "passed"
Verdict = Literal["verified", "unreproduced", "rejected"]


@dataclass(frozen=True)
class Measurement:
    """What a judge found."""

    value: float
    """of the board's metric"""
    standard_error: float | None
    probes: dict[str, str]
    """probe to "passed" or what is wrong"""
    beside: dict[str, float] = field(default_factory=dict)
    """further numbers for the table: bits per byte, milliseconds ..."""
    wall_s: float = 0.0

    @property
    def failed(self) -> dict[str, str]:
        """The probes that were not passed."""
        return {name: text for name, text in self.probes.items() if text != PASSED}


@dataclass(frozen=True)
class Verification:
    """The file `verifications/NAME.json`."""

    entry: str
    """name of the entry"""
    entry_sha256: str
    verdict: Verdict
    reason: str
    measured: Measurement | None
    isolation: str
    machine: str
    verified: str
    """UTC"""
    secret_id: str
    """says whether two verifications used the same hidden data, not which"""
    reruns: tuple[float, ...] = ()
    """the metric of each training run that staff repeated"""
    schema: int = 1

    def write(self, boards: Path) -> Path:
        """Write the file into its place; returns the path."""
        path = boards / "verifications" / f"{self.entry}.json"
        write_json(path, asdict(self))
        return path


def load_verification(path: Path) -> Verification:
    """Read a verification.

    Raises:
        ValueError: not JSON, unknown or missing fields, or a name that does not fit.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        loaded = config_from_dict(Verification, values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"malformed: {path.name}: {error}") from error
    if loaded.entry != path.stem:
        raise ValueError(f"malformed: {path.name} verifies {loaded.entry!r}")
    return loaded


def verdict_of(board: Board, claim: Claim, measured: Measurement) -> tuple[Verdict, str]:
    """The verdict and its reason.

    A measurement counts as no worse when it lies within four standard errors of the difference plus the board's
    tolerance of the claim.
    """
    if measured.failed:
        name, text = next(iter(measured.failed.items()))
        return "rejected", f"{name}: {text}"
    errors = math.hypot(claim.standard_error or 0.0, measured.standard_error or 0.0)
    allowed = 4 * errors + board.metric.tolerance * abs(measured.value)
    worse = measured.value - claim.metric if board.metric.order == "asc" else claim.metric - measured.value
    if worse > allowed:
        one, other = board.metric.text_of(claim.metric), board.metric.text_of(measured.value)
        return "unreproduced", f"claimed {one} {board.metric.unit}, measured {other} (allowed difference {allowed:.3g})"
    return "verified", ""
