"""Finished runs as arrays: parameters, tokens, budget and loss, read from the handout's file or from the bank.

Two formats are read:

    [{"parameters": N, "compute_budget": C, "final_loss": L}, ...]     the handout's; tokens are C / 6N
    one JSON record per line                                           the bank's (`bank.py`), with N under each rule

`shipped_isoflops()` is our own table of the first kind. Its law is stated in `isoflops_data.py`, so that every method
can be judged by how close it comes to the truth.

Handout: chinchilla_isoflops (`isoflops_curves.json`, called `isoflops_runs.json` in 2024). Read next: `isoflops.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SHIPPED = Path(__file__).parent / "isoflops_curves.json"
KEYS = ("parameters", "compute_budget", "final_loss")


@dataclass(frozen=True)
class RunTable:
    """Finished runs, one entry per run in each array.

    Raises:
        ValueError: arrays of unequal length, or a value that is not positive and finite.
    """

    parameters: Floats
    """N, under one counting rule"""
    tokens: Floats
    """D"""
    budget: Floats
    """FLOPs that were to be spent; runs of one profile have the same"""
    loss: Floats
    """nats per token"""

    def __post_init__(self) -> None:
        for name in ("parameters", "tokens", "budget", "loss"):
            column = np.asarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, column)
            if column.ndim != 1 or len(column) != len(self.parameters):
                raise ValueError(f"{name} has shape {column.shape}, but there are {len(self.parameters)} runs")
            if not (np.isfinite(column) & (column > 0)).all():
                bad = column[~(np.isfinite(column) & (column > 0))][0]
                raise ValueError(f"{name} must be positive and finite; got {bad}; drop diverged runs first")

    def __len__(self) -> int:
        return len(self.loss)

    def __getitem__(self, chosen: npt.NDArray[Any]) -> RunTable:
        """The runs of a mask or of indices."""
        return RunTable(self.parameters[chosen], self.tokens[chosen], self.budget[chosen], self.loss[chosen])

    @property
    def budgets(self) -> Floats:
        """The distinct budgets, ascending."""
        return np.unique(self.budget)


def from_records(records: Iterable[Mapping[str, float]]) -> RunTable:
    """A table of the handout's records; tokens are budget / 6N.

    Raises:
        ValueError: no records, a missing key, or a value that is no positive number.
    """
    rows = list(records)
    if not rows:
        raise ValueError("there are no runs; a table needs at least one")
    for number, row in enumerate(rows):
        missing = [key for key in KEYS if key not in row]
        if missing:
            raise ValueError(f"run {number} has no {missing[0]!r}; each run needs {', '.join(KEYS)}")
    parameters, budget, loss = (np.array([row[key] for row in rows], dtype=np.float64) for key in KEYS)
    return RunTable(parameters, budget / (6 * parameters), budget, loss)


def load_isoflops(path: str | os.PathLike[str] = SHIPPED) -> RunTable:
    """Read a file in the handout's format.

    Raises:
        FileNotFoundError: no such file. ValueError: not a list of runs.
    """
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); it should hold a list of runs") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path} must hold a list of objects with {', '.join(KEYS)}")
    return from_records(records)
