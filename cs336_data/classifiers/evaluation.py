"""How good a two-class classifier is: precision, recall, balanced accuracy with an interval, calibration, thresholds.

Balanced accuracy is the mean of the two classes' recalls, so a lopsided test set does not flatter. Its interval comes
from Jeffreys' posterior: each recall is Beta(right + 1/2, wrong + 1/2), their mean is drawn many times, the middle 95 %
is given. It speaks of texts like those tested, no more.

Calibration: among texts given a probability near p, a share near p should be positive. Expected calibration error: the
mean gap over ten bins of probability, weighted by texts (Guo et al. 2017). Brier score: mean of (p - y)^2.

Read next: `model_card.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cs336_basics.runs.intervals import wilson_interval


@dataclass(frozen=True)
class Evaluation:
    """A classifier on labelled texts at one threshold. Intervals are of 95 %."""

    items: int
    positives: int
    threshold: float
    precision: float | None
    """share of positives among texts called positive; None if none was"""
    recall: float
    recall_interval: tuple[float, float]
    specificity: float
    """share of negatives called negative"""
    specificity_interval: tuple[float, float]
    balanced_accuracy: float
    balanced_accuracy_interval: tuple[float, float]
    brier: float
    calibration_error: float
    bins: tuple[tuple[float, float, int], ...]
    """mean probability, share of positives and texts of each bin that is not empty"""

    def as_dict(self) -> dict[str, object]:
        """Plain JSON values, rounded."""
        return {key: _rounded(value) for key, value in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class SweepRow:
    """What a threshold would do."""

    threshold: float
    kept: float
    """share of all texts at or above it"""
    precision: float | None
    recall: float


def evaluate(probabilities: Sequence[float], labels: Sequence[bool], *, threshold: float = 0.5) -> Evaluation:
    """Measure predictions.

    Args:
        probabilities: P(positive) of each text, in [0, 1].
        labels: True for positives; both classes must occur.
        threshold: at and above it a text is called positive.

    Raises:
        ValueError: lengths differ, a class is missing, or a probability is out of range.
    """
    p, y = _checked(probabilities, labels)
    called = p >= threshold
    right_positive, right_negative = int((called & y).sum()), int((~called & ~y).sum())
    positives, negatives = int(y.sum()), int((~y).sum())
    recall, specificity = right_positive / positives, right_negative / negatives
    rng = np.random.default_rng(0)
    draws = (
        rng.beta(right_positive + 0.5, positives - right_positive + 0.5, 20_000)
        + rng.beta(right_negative + 0.5, negatives - right_negative + 0.5, 20_000)
    ) / 2
    low, high = np.quantile(draws, [0.025, 0.975])
    bins = []
    numbers = np.minimum((p * 10).astype(int), 9)
    for number in sorted(set(numbers.tolist())):
        inside = numbers == number
        bins.append((float(p[inside].mean()), float(y[inside].mean()), int(inside.sum())))
    return Evaluation(
        items=len(p), positives=positives, threshold=threshold,
        precision=right_positive / int(called.sum()) if called.any() else None,
        recall=recall, recall_interval=wilson_interval(right_positive, positives),
        specificity=specificity, specificity_interval=wilson_interval(right_negative, negatives),
        balanced_accuracy=(recall + specificity) / 2, balanced_accuracy_interval=(float(low), float(high)),
        brier=float(((p - y) ** 2).mean()),
        calibration_error=sum(count * abs(mean - share) for mean, share, count in bins) / len(p), bins=tuple(bins),
    )  # fmt: skip


def threshold_sweep(
    probabilities: Sequence[float], labels: Sequence[bool], *, thresholds: Sequence[float] | None = None
) -> list[SweepRow]:
    """What each threshold would keep, for choosing one.

    Args:
        probabilities: P(positive) of each text.
        labels: True for positives.
        thresholds: by default 0.05, 0.1 ... 0.95.

    Raises:
        ValueError: as `evaluate`.
    """
    p, y = _checked(probabilities, labels)
    rows = []
    for threshold in np.arange(1, 20) / 20 if thresholds is None else thresholds:
        called = p >= threshold
        precision = float(y[called].mean()) if called.any() else None
        rows.append(SweepRow(float(threshold), float(called.mean()), precision, float(called[y].mean())))
    return rows


def _checked(probabilities: Sequence[float], labels: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays, or an error."""
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, bool)
    if p.shape != y.shape or p.ndim != 1 or not y.any() or y.all():
        raise ValueError(
            f"need as many probabilities as labels, with both classes among these; got {p.shape} probabilities and "
            f"{int(y.sum())} positives of {y.size} labels"
        )
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"probabilities must lie in [0, 1]; got {p.min()} to {p.max()}")
    return p, y


def _rounded(value: object) -> object:
    """Floats to four digits, in tuples too."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, tuple):
        return [_rounded(entry) for entry in value]
    return value
