"""What every judge gets, and the table of judges.

The hidden half of a board grows from HMAC-SHA256(secret, "board/division/half/purpose"), the public half from a
published secret, so that everybody can run the same measurement on inputs of the same kind. Read next: `loss.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from cs336_basics.runs.config import config_from_dict
from cs336_course.grading.suite import generator
from cs336_course.leaderboards.board import Board, Division, Kind
from cs336_course.leaderboards.conversation import Conversation
from cs336_course.leaderboards.verification import Measurement

PUBLIC_SECRET = b"public"
Half = Literal["public", "hidden"]
Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Judging:
    """One measurement to make."""

    board: Board
    division: Division
    evidence: Path
    half: Half
    secret: bytes
    talk: Conversation | None = None
    """with the participant's code; None on boards that take data only"""
    baseline: Conversation | None = None
    """with our reference, on boards that time both in one session"""

    def random(self, purpose: str) -> np.random.Generator:
        """Randomness of one purpose, on this half."""
        secret = PUBLIC_SECRET if self.half == "public" else self.secret
        return generator(secret, f"{self.board.id}/{self.division.id}/{self.half}/{purpose}")

    def settings(self, kind: type[Settings]) -> Settings:
        """The division's settings as the judge's dataclass.

        Raises:
            ValueError, TypeError: an unknown key or a wrong value.
        """
        return config_from_dict(kind, self.division.settings, where=f"{self.board.id}.{self.division.id}.settings.")

    @property
    def artifacts(self) -> Path:
        """The participant's data files."""
        return self.evidence / "artifacts"


@dataclass(frozen=True)
class Judge:
    """How a kind of board is judged."""

    module: str
    functions: tuple[str, ...]
    """what the entrypoint must have; none: data only"""
    timed: bool = False
    """the baseline is measured beside the entry"""
    trained: bool = False
    """entries come from a training run, whose files are checked"""

    def measure(self, judging: Judging) -> Measurement:
        """Run the judge.

        Raises:
            ProbeFailure: the code or data cannot be measured at all.
        """
        function: Callable[[Judging], Measurement] = importlib.import_module(self.module).measure
        return function(judging)


_HERE = "cs336_course.leaderboards.judges"
JUDGES: dict[Kind, Judge] = {
    "loss": Judge(f"{_HERE}.loss", ("load_model",), trained=True),
    "attention-time": Judge(f"{_HERE}.attention", ("attention",), timed=True),
    "step-time": Judge(f"{_HERE}.step", ("make_step",), timed=True),
    "tokenizer-speed": Judge(f"{_HERE}.tokenizer", ("make_tokenizer",), timed=True),
    "scaling-prediction": Judge(f"{_HERE}.scaling", ("predict",)),
    "filtered-data": Judge(f"{_HERE}.filtered", ()),
    "accuracy": Judge(f"{_HERE}.accuracy", ("answer",)),
}
