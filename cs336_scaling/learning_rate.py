"""The best learning rate and how it moves with width: a sweep per width, then a power law.

Loss over ln rate is near its minimum a parabola, and steeper on the high side further out, so only the rates round the
lowest are used. Over widths, best(d) = c d^-gamma; three widths are the least, since two fit any gamma.

Published laws, for orientation: DeepSeek LLM 2024, 0.3118 C^-0.1250; Step law 2025, 1.79 N^-0.713 D^0.307. With muP the
best rate does not move (`mup.py`). With Adam it grows as the root of the batch below the critical one.

Handout: scaling_laws ("hyperparameters and why"). Read next: `mup.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cs336_scaling.power_law import Floats, PowerLaw, fit_power_law

RATES_USED = 5


@dataclass(frozen=True)
class BestRate:
    """The minimum of one sweep."""

    rate: float
    loss: float
    warning: str = ""


@dataclass(frozen=True)
class RateLaw:
    """best(width) = c width^-gamma."""

    law: PowerLaw
    best: dict[float, BestRate]
    residuals: Floats
    warnings: tuple[str, ...]

    @property
    def gamma(self) -> float:
        """The exponent, positive when wider models want lower rates."""
        return -self.law.a


def best_learning_rate(rates: npt.ArrayLike, losses: npt.ArrayLike) -> BestRate:
    """The minimum of a parabola in ln rate through the 5 rates round the lowest loss.

    Args:
        rates: at least three different ones (n,).
        losses: of a run at each; infinity or nan for one that diverged.

    A lowest loss at the edge of the sweep is returned as it is, with a warning.
    """
    order = np.argsort(np.asarray(rates, dtype=np.float64))
    x, y = np.log(np.asarray(rates, dtype=np.float64)[order]), np.asarray(losses, dtype=np.float64)[order]
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if len(np.unique(x)) < 3:
        raise ValueError(f"need at least 3 rates that did not diverge; got {len(np.unique(x))}")
    lowest = int(np.argmin(y))
    if x[lowest] in (x[0], x[-1]):
        side = "lower" if x[lowest] == x[0] else "higher"
        return BestRate(
            float(np.exp(x[lowest])), float(y[lowest]),
            f"the best rate {np.exp(x[lowest]):.3g} is at the edge of the sweep; try {side} ones",
        )  # fmt: skip
    start = max(0, min(lowest - RATES_USED // 2, len(x) - RATES_USED))
    near_x, near_y = x[start : start + RATES_USED], y[start : start + RATES_USED]
    curvature, slope, level = np.polyfit(near_x - x[lowest], near_y, 2)
    shift = -slope / (2 * curvature) if curvature > 0 else np.inf
    if not near_x[0] <= x[lowest] + shift <= near_x[-1]:
        return BestRate(
            float(np.exp(x[lowest])), float(y[lowest]), "no parabola fits the sweep; its lowest run is taken"
        )
    return BestRate(float(np.exp(x[lowest] + shift)), float(level + slope * shift / 2))


def fit_rate_law(sweeps: Mapping[float, tuple[npt.ArrayLike, npt.ArrayLike]]) -> RateLaw:
    """The law over widths.

    Args:
        sweeps: width -> (rates, losses), at least two widths.

    Raises:
        ValueError: fewer than two widths, or a sweep without enough rates.
    """
    best = {float(width): best_learning_rate(*sweep) for width, sweep in sorted(sweeps.items())}
    widths, rates = np.array(list(best)), np.array([found.rate for found in best.values()])
    law = fit_power_law(widths, rates)
    warnings = [f"width {width:g}: {found.warning}" for width, found in best.items() if found.warning]
    if len(best) < 3:
        warnings.append("two widths fit any exponent; sweep a third")
    return RateLaw(law, best, law.residuals(widths, rates), tuple(warnings))


def deepseek_rate(flops: float) -> float:
    """0.3118 C^-0.1250."""
    return 0.3118 * flops**-0.1250


def step_law_rate(parameters: float, tokens: float) -> float:
    """1.79 N^-0.713 D^0.307."""
    return 1.79 * parameters**-0.713 * tokens**0.307


def rate_for_batch(rate: float, *, batch: float, new_batch: float) -> float:
    """Adam's square-root rule, below the critical batch size."""
    return rate * (new_batch / batch) ** 0.5
