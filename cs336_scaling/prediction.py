"""What a law says about a bigger run: the best size for its budget, the loss there, and how sure that is.

The check that costs nothing is to hold out the largest budget, fit the rest, and look at the error there
(`held_out_error`). It says from which budget on the law holds (`law_window`: the smallest runs may learn something else
than the large ones), and by how much an interval should be widened further out (`HeldOut.widen`). The check that counts
is to train the target.

Handout: scaling_laws (predict the best size, hyperparameters and loss of a run ten times larger).
Read next: `design.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cs336_scaling.bootstrap import Interval
from cs336_scaling.parametric import Floats, fit_parametric_robust
from cs336_scaling.parametric_intervals import ParametricBootstrap, bootstrap_parametric
from cs336_scaling.runs_table import RunTable

ABOUT_AS_WELL = 1.5


@dataclass(frozen=True)
class Prediction:
    """The best run of a budget."""

    flops: float
    parameters: Interval
    tokens: Interval
    loss: Interval
    """of one new run of the best size, noise included"""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class HeldOut:
    """The largest budget, predicted from the others."""

    budget: float
    predicted: tuple[Interval, ...]
    errors: Floats
    """predicted over real loss minus 1, per run"""
    inside: float
    """share of the runs inside their intervals"""
    step: float
    """the held-out budget over the largest fitted one"""

    def widen(self, loss: Interval, flops: float) -> Interval:
        """An interval for a budget beyond the held-out one, that knows how wrong the law was there.

        The bootstrap knows the noise of the runs, not whether the law still holds further out. The largest error of the
        log loss at the held-out budget, one step up, is added on both sides for every such step to `flops`.
        """
        slack = float(np.abs(np.log1p(self.errors)).max())
        slack *= max(1.0, math.log(flops / self.budget) / math.log(self.step))
        return Interval(loss.value, loss.low * math.exp(-slack), loss.high * math.exp(slack), loss.confidence)


def predict(resampled: ParametricBootstrap, runs: RunTable, flops: float, *, confidence: float = 0.9) -> Prediction:
    """The best size for a budget and its loss.

    Args:
        resampled: a fit of the runs with its resamples.
        runs: what was fitted, for warnings on how far this reaches beyond them.
        flops: the budget, 6 N D under the counting rule of the runs.
        confidence: of the intervals.
    """
    law = resampled.fit.law
    size, tokens = (float(value) for value in law.allocation(flops))
    warnings = list(resampled.warnings(confidence))
    reach = flops / float((6 * runs.parameters * runs.tokens).max())
    if reach > 30:
        warnings.append(
            f"the budget is {reach:.3g} times the largest run's; the interval knows the noise of the runs, not whether "
            "the law still holds so far out"
        )
    return Prediction(
        flops,
        resampled.interval(lambda law: float(law.allocation(flops)[0]), confidence),
        resampled.interval(lambda law: float(law.allocation(flops)[1]), confidence),
        resampled.loss(size, tokens, confidence),
        tuple(warnings),
    )


def law_window(runs: RunTable) -> RunTable:
    """The runs from some budget up: the widest window that predicts the largest budget about as well as the best one.

    Small runs may lie before a bend of the curve, where a law through them points past what comes later. For each first
    budget the law is fitted without the largest one; windows within ABOUT_AS_WELL of the least largest error are as
    good, and of these the one with most runs is taken. The target takes no part in the choice.

    Raises:
        ValueError: fewer than three budgets, or too few runs for any window.
    """
    windows = [runs[runs.budget >= first] for first in runs.budgets[:-2]]
    errors = [_largest_error(window) for window in windows]
    if not errors or math.isinf(min(errors)):
        raise ValueError(f"no window of the {len(runs)} runs can be fitted without its largest budget; add runs")
    return next(w for w, error in zip(windows, errors, strict=True) if error <= ABOUT_AS_WELL * min(errors))


def _largest_error(runs: RunTable) -> float:
    """Of the law without the largest budget, there; infinite where the other runs are too few for a law."""
    largest = runs.budget == runs.budgets[-1]
    try:
        law = fit_parametric_robust(runs[~largest]).law
    except ValueError:
        return math.inf
    held = runs[largest]
    return float(np.abs(law.loss(held.parameters, held.tokens) / held.loss - 1).max())


def held_out_error(runs: RunTable, *, num_resamples: int = 200, seed: int = 0, confidence: float = 0.9) -> HeldOut:
    """Fit all but the largest budget and predict its runs.

    Raises:
        ValueError: fewer than three budgets, or too few runs without the largest.
    """
    if len(runs.budgets) < 3:
        raise ValueError(f"holding one budget out needs at least 3; got {len(runs.budgets)}")
    largest = runs.budgets[-1]
    kept, held = runs[runs.budget < largest], runs[runs.budget == largest]
    resampled = bootstrap_parametric(kept, fit_parametric_robust(kept), num_resamples=num_resamples, seed=seed)
    found = [
        resampled.loss(n, d, confidence) for n, d in zip(held.parameters.tolist(), held.tokens.tolist(), strict=True)
    ]
    errors = np.array([interval.value for interval in found]) / held.loss - 1
    inside = np.mean([loss in interval for loss, interval in zip(held.loss.tolist(), found, strict=True)])
    return HeldOut(float(largest), tuple(found), errors, float(inside), float(largest / runs.budgets[-2]))
