"""Intervals from resampling: what else might these runs have said, had they been run again?

Three schemes, from the least to the most assumed:

    runs        draw runs with replacement inside each profile: needs several runs per profile, and loses the ends
    budgets     draw whole profiles with replacement: honest about a law through few points, needs many of them
    residuals   keep the design, add drawn residuals to the fitted law: needs noise of one size everywhere

A fit of p numbers to n runs eats into its residuals, so drawn residuals are enlarged by sqrt(n / (n - p)), and each
resample by a further sqrt((n - p) / chi2_(n - p)), which turns normal intervals into Student's where n is small.
`benchmarks/bench_coverage.py` measures how often 90 % intervals hold the truth.

Papers: Efron and Tibshirani 1993, chapters 9 and 13. Left out: bias correction (BCa). Read next:
`parametric_intervals.py`, `isoflops_intervals.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Scheme = Literal["runs", "budgets", "residuals"]


@dataclass(frozen=True)
class Interval:
    """A number with its interval."""

    value: float
    low: float
    high: float
    confidence: float

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def percentile_interval(value: float, draws: npt.ArrayLike, confidence: float = 0.9) -> Interval:
    """The middle share of the draws around `value`.

    Args:
        value: the estimate.
        draws: the same from each resample; draws that are nan (a resample without an answer) are left out.
        confidence: share, in (0, 1).

    Raises:
        ValueError: confidence out of range, or more than half of the draws have no answer.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1); got {confidence}")
    numbers = np.asarray(draws, dtype=np.float64)
    kept = numbers[np.isfinite(numbers)]
    if 2 * len(kept) < len(numbers) or len(kept) == 0:
        raise ValueError(
            f"{len(numbers) - len(kept)} of {len(numbers)} resamples have no answer; the runs are too few or too noisy "
            "for an interval: run more"
        )
    low, high = np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high), confidence)


def draw_residuals(residuals: npt.ArrayLike, *, fitted: int, num_resamples: int, rng: np.random.Generator) -> Floats:
    """Residuals drawn with replacement, enlarged as the module docstring says.

    Args:
        residuals: of n runs.
        fitted: how many numbers were fitted to them, below n.
        num_resamples: rows to draw.
        rng: source of randomness.

    Returns:
        (num_resamples, n).
    """
    values = np.asarray(residuals, dtype=np.float64)
    free = len(values) - fitted
    if free < 1:
        raise ValueError(f"{len(values)} runs cannot show the noise of a fit of {fitted} numbers; run more")
    values = (values - values.mean()) * np.sqrt(len(values) / free)
    drawn = rng.choice(values, size=(num_resamples, len(values)))
    return drawn * np.sqrt(free / rng.chisquare(free, size=(num_resamples, 1)))


def draw_counts(groups: npt.ArrayLike, *, num_resamples: int, rng: np.random.Generator) -> Floats:
    """How often each run is drawn when each group is resampled within itself (num_resamples, n)."""
    labels = np.asarray(groups)
    counts = np.zeros((num_resamples, len(labels)))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), num_resamples)
    return counts
