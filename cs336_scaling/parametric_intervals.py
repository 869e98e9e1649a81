"""Intervals of a parametric fit and of what it predicts.

Each resample gives a law of its own; an interval is what a quantity does over these laws. For the loss that a new run
will show, each law's prediction also gets a residual, since the new run has noise of its own.

Schemes: `bootstrap.py`. Read next: `prediction.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cs336_scaling.bootstrap import Interval, draw_counts, draw_residuals, percentile_interval
from cs336_scaling.parametric import Floats, ParametricFit, refit
from cs336_scaling.parametric_law import ParametricLaw
from cs336_scaling.runs_table import RunTable

NUMBERS = 5
WIDE = 1.0
"""an interval of an exponent wider than this many times its value says that the design cannot identify it"""


@dataclass(frozen=True)
class ParametricBootstrap:
    """A fit and the laws of its resamples."""

    fit: ParametricFit
    laws: tuple[ParametricLaw, ...]
    noise: Floats
    """one drawn residual of ln L per law"""

    def interval(self, quantity: Callable[[ParametricLaw], float], confidence: float = 0.9) -> Interval:
        """The interval of any number that follows from a law, such as `lambda law: law.E`."""
        draws = [quantity(law) for law in self.laws]
        return percentile_interval(float(quantity(self.fit.law)), draws, confidence)

    def parameters(self, confidence: float = 0.9) -> dict[str, Interval]:
        """Intervals of E, A, B, alpha, beta and of a, the exponent of N over C."""
        intervals = {
            name: self.interval(lambda law, name=name: getattr(law, name), confidence)  # type: ignore[misc]
            for name in ("E", "A", "B", "alpha", "beta")
        }
        return intervals | {"a": self.interval(lambda law: law.parameter_exponent, confidence)}

    def loss(self, parameters: float, tokens: float, confidence: float = 0.9) -> Interval:
        """The loss that one new run of this size will show, its own noise included."""
        draws = np.array([float(law.loss(parameters, tokens)) for law in self.laws]) * np.exp(self.noise)
        return percentile_interval(float(self.fit.law.loss(parameters, tokens)), draws, confidence)

    def warnings(self, confidence: float = 0.9) -> tuple[str, ...]:
        """Those of the fit, and exponents that the resamples do not agree on."""
        found = list(self.fit.warnings)
        for name in ("alpha", "beta"):
            interval = self.parameters(confidence)[name]
            if interval.high - interval.low > WIDE * interval.value:
                found.append(
                    f"{name} = {interval} at {confidence:.0%}: the design cannot identify it; add runs that differ "
                    f"more in {'parameters' if name == 'alpha' else 'tokens'}"
                )
        return tuple(found)


def bootstrap_parametric(
    runs: RunTable,
    fit: ParametricFit,
    *,
    num_resamples: int = 500,
    seed: int = 0,
    scheme: Literal["residuals", "runs"] = "residuals",
) -> ParametricBootstrap:
    """Refit resamples of the runs.

    Args:
        runs: what was fitted.
        fit: of these runs.
        num_resamples: 500 are enough for 90 % intervals; 2000 for 95 %.
        seed: of the resampling.
        scheme: draw residuals, or runs inside their budgets.

    Raises:
        ValueError: an unknown scheme, or too few runs.
    """
    rng = np.random.default_rng(seed)
    drawn = draw_residuals(fit.residuals, fitted=NUMBERS, num_resamples=num_resamples, rng=rng)
    if scheme == "residuals":
        table = refit(
            runs, fit.law, log_loss=np.log(fit.law.loss(runs.parameters, runs.tokens)) + drawn, delta=fit.delta
        )
    elif scheme == "runs":
        counts = draw_counts(runs.budget, num_resamples=num_resamples, rng=rng)
        losses = np.repeat(np.log(runs.loss)[None], num_resamples, axis=0)
        table = refit(runs, fit.law, log_loss=losses, delta=fit.delta, weights=counts)
    else:
        raise ValueError(f"scheme must be 'residuals' or 'runs'; got {scheme!r}")
    noise = draw_residuals(fit.residuals, fitted=NUMBERS, num_resamples=num_resamples, rng=rng)[:, 0]
    return ParametricBootstrap(fit, tuple(ParametricLaw(*map(float, row)) for row in table), noise)
