"""Power laws y = k x^a, fitted where their errors live: in the logarithm.

    ln y = ln k + a ln x        least squares, in closed form

Sizes and budgets span decades and err by factors, not by amounts, so this is the fit to use. The fit of y itself
(`fit_power_law_linear`, what `curve_fit` does by default) lets the largest runs decide alone and is here to be compared
with: on the shipped table its exponent is 0.40 where the truth is 0.51.

A law with a floor, L = L0 + k x^-c, has one number inside (c) for which the others follow in closed form; a search over
c finds it (variable projection).

Handout: chinchilla_isoflops. Left out: errors in x. Read next: `bootstrap.py` for intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class PowerLaw:
    """y = k x^a."""

    k: float
    a: float

    def __call__(self, x: npt.ArrayLike) -> Floats:
        """y, elementwise."""
        return np.asarray(self.k * np.asarray(x, dtype=np.float64) ** self.a)

    def residuals(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Floats:
        """ln y - ln of the law."""
        return np.log(np.asarray(y, dtype=np.float64)) - np.log(self(x))


@dataclass(frozen=True)
class FlooredPowerLaw:
    """y = floor + k x^-c."""

    floor: float
    k: float
    c: float

    def __call__(self, x: npt.ArrayLike) -> Floats:
        """y, elementwise."""
        return np.asarray(self.floor + self.k * np.asarray(x, dtype=np.float64) ** -self.c)


def fit_power_law(x: npt.ArrayLike, y: npt.ArrayLike) -> PowerLaw:
    """Least squares of ln y on ln x.

    Args:
        x: positive numbers (n,), at least two different ones.
        y: positive numbers (n,).

    Raises:
        ValueError: unequal lengths, fewer than two different x, or a number that is not positive.
    """
    log_x, log_y = _logs(x, y)
    centred = log_x - log_x.mean()
    a = float(centred @ log_y / (centred @ centred))
    return PowerLaw(float(np.exp(log_y.mean() - a * log_x.mean())), a)


def fit_power_law_linear(x: npt.ArrayLike, y: npt.ArrayLike) -> PowerLaw:
    """Least squares of y itself; see the module docstring for why not to use it. Arguments as `fit_power_law`."""
    log_x, log_y = _logs(x, y)
    centre, values = log_x.mean(), np.exp(log_y - log_y.max())

    def project(a: float) -> tuple[float, float]:
        """Best k for an exponent, and the squared error."""
        basis = np.exp(a * (log_x - centre))
        k = float(basis @ values / (basis @ basis))
        return k, float(((values - k * basis) ** 2).sum())

    start = fit_power_law(x, y).a
    a = minimize_scalar(lambda a: project(a)[1], start - 2.0, start + 2.0)
    return PowerLaw(float(project(a)[0] * np.exp(log_y.max() - a * centre)), a)


def fit_floored_power_law(x: npt.ArrayLike, y: npt.ArrayLike) -> FlooredPowerLaw:
    """Least squares of y on floor + k x^-c with c in (0.01, 3); at least three different x.

    The floor may come out at zero but not below.
    """
    log_x, _ = _logs(x, y, at_least=3)
    centre, values = log_x.mean(), np.asarray(y, dtype=np.float64)

    def project(c: float) -> tuple[float, float, float]:
        """Best floor and coefficient for an exponent, and the squared error."""
        basis = np.exp(-c * (log_x - centre))
        design = np.stack([np.ones_like(basis), basis], axis=1)
        floor, k = np.linalg.lstsq(design, values, rcond=None)[0]
        if floor < 0:
            floor, k = 0.0, basis @ values / (basis @ basis)
        return float(floor), float(k), float(((values - floor - k * basis) ** 2).sum())

    c = float(np.exp(minimize_scalar(lambda log_c: project(np.exp(log_c))[2], np.log(0.01), np.log(3.0))))
    floor, k, _ = project(c)
    return FlooredPowerLaw(floor, k * float(np.exp(c * centre)), c)


def minimize_scalar(f: Callable[[float], float], low: float, high: float) -> float:
    """Where f is least in [low, high]: the best of 64 places, then golden section between its neighbours to 1e-10."""
    places = np.linspace(low, high, 64)
    best = int(np.argmin([f(place) for place in places]))
    low, high = float(places[max(best - 1, 0)]), float(places[min(best + 1, 63)])
    while high - low > 1e-10 * max(1.0, abs(high)):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if f(left) <= f(right):
            high = right
        else:
            low = left
    return (low + high) / 2


def _logs(x: npt.ArrayLike, y: npt.ArrayLike, at_least: int = 2) -> tuple[Floats, Floats]:
    """Logarithms of both, checked."""
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if xs.shape != ys.shape or xs.ndim != 1:
        raise ValueError(f"x and y must be two rows of equal length; got shapes {xs.shape} and {ys.shape}")
    if not ((xs > 0).all() and (ys > 0).all() and np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise ValueError("a power law needs positive finite numbers; drop or repair the others")
    if len(np.unique(xs)) < at_least:
        raise ValueError(f"need at least {at_least} different x; got {len(np.unique(xs))}")
    return np.log(xs), np.log(ys)
