"""Answers from a bank of real runs: measured where this very run was made, else a surface through all of them.

    ln L = quadratic polynomial in (ln N, ln D, ln learning rate, ln batch size), ridge regression on the bank's runs

Every answer says `measured` or `surface`. Runs marked `held_out` are kept from both, so that instructors can check the
surface. Several seeds of one run answer with their mean. Outside the bank's ranges a polynomial means nothing, so a
request there (by more than a factor of 2) is refused. Read next: `answering.py`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cs336_scaling.executors.protocol import LossAnswer, LossRequest

SHIPPED = Path(__file__).parents[1] / "bank.jsonl"
RIDGE = 1e-4
MARGIN = np.log(2.0)
FEWEST_RUNS = 20


@dataclass(frozen=True)
class BankRun:
    """A measured run."""

    request: LossRequest
    loss: float
    seconds: float
    held_out: bool = False


class BankSource:
    """A `LossSource` of measured runs and their surface.

    Raises:
        ValueError: too few runs for a surface.
    """

    def __init__(self, runs: Sequence[BankRun]) -> None:
        used = [run for run in runs if not run.held_out]
        if len(used) < FEWEST_RUNS:
            raise ValueError(f"a surface needs at least {FEWEST_RUNS} runs; the bank has {len(used)}")
        self._measured: dict[LossRequest, list[BankRun]] = {}
        for run in used:
            self._measured.setdefault(_without_seed(run.request), []).append(run)
        points = np.array([_coordinates(run.request) for run in used])
        self._low, self._high = points.min(axis=0), points.max(axis=0)
        self._centre, self._scale = points.mean(axis=0), np.maximum(points.std(axis=0), 1e-6)
        terms = self._terms(points)
        penalty = RIDGE * len(used) * np.eye(terms.shape[1])
        penalty[0, 0] = 0.0
        targets = np.log([run.loss for run in used])
        self._weights = np.linalg.solve(terms.T @ terms + penalty, terms.T @ targets)
        self._flops_per_second = float(np.median([run.request.train_flops / max(run.seconds, 1e-3) for run in used]))

    def answer(self, request: LossRequest) -> LossAnswer:
        """Measured if possible, else from the surface.

        Raises:
            ValueError: far outside the bank.
        """
        runs = self._measured.get(_without_seed(request))
        if runs:
            return LossAnswer(
                float(np.mean([run.loss for run in runs])), "measured", float(np.mean([run.seconds for run in runs]))
            )
        point = np.array([_coordinates(request)])
        if (point < self._low - MARGIN).any() or (point > self._high + MARGIN).any():
            raise ValueError("the request lies outside the measured runs; choose sizes and rates that the bank covers")
        loss = float(np.exp((self._terms(point) @ self._weights)[0]))
        return LossAnswer(loss, "surface", request.train_flops / self._flops_per_second)

    def _terms(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """1, every coordinate, every product of two."""
        x = (points - self._centre) / self._scale
        first, second = np.triu_indices(x.shape[1])
        return np.hstack([np.ones((len(x), 1)), x, x[:, first] * x[:, second]])


def open_bank(path: str | os.PathLike[str] | None = None, *, corpus: str = "stories") -> BankSource:
    """The runs of one corpus in the JSON lines of `cs336 scaling sweep`, or in the file that ships with the package.

    Runs that diverged (loss null) are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is no run.
    """
    file = SHIPPED if path is None else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no bank of runs at {file}; name one with BANK_PATH, or choose the executor law")
    runs = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            if record["corpus"] == corpus and record["loss"] is not None:
                runs.append(_parse(record))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}, line {number}: not a run ({type(error).__name__}: {error})") from error
    return BankSource(runs)


def _parse(record: dict[str, Any]) -> BankRun:
    model, training = record["model"], record["training"]
    request = LossRequest(
        d_model=model["d_model"], num_layers=model["num_layers"], num_heads=model["num_heads"],
        batch_size=training["batch_size"], learning_rate=training["learning_rate"],
        train_flops=round(record["budget"]), seed=training["seed"],
    )  # fmt: skip
    loss = float(record["loss"])
    if not np.isfinite(loss) or loss <= 0:
        raise ValueError(f"loss {loss}")
    return BankRun(request, loss, float(record.get("seconds", 0.0)), record["held_out"])


def _without_seed(request: LossRequest) -> LossRequest:
    return dataclasses.replace(request, seed=0)


def _coordinates(request: LossRequest) -> list[float]:
    values = (request.non_embedding_parameters, request.tokens, request.learning_rate, request.batch_size)
    return [float(np.log(value)) for value in values]
