"""Intervals of an IsoFLOP fit: the best sizes of resampled runs, and the laws through them.

Schemes: `bootstrap.py`. What no resampling shows is the bias of the method itself: a parabola through a wide grid, or
the lowest of a coarse one, is off in every resample alike. Read next: `parametric_intervals.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cs336_scaling.bootstrap import Interval, Scheme, draw_residuals, percentile_interval
from cs336_scaling.isoflops import IsoflopsFit, neighbours_of_lowest
from cs336_scaling.power_law import Floats
from cs336_scaling.runs_table import RunTable

NUMBERS_OF_A_PARABOLA = 3


@dataclass(frozen=True)
class IsoflopsBootstrap:
    """A fit, and ln k and exponent of N and of D in each resample (nan where a resample has no answer)."""

    fit: IsoflopsFit
    parameters: Floats
    """(resamples, 2)"""
    tokens: Floats
    """(resamples, 2)"""

    def exponents(self, confidence: float = 0.9) -> dict[str, Interval]:
        """Intervals of a and b of N_opt and D_opt."""
        pairs = {"a": (self.fit.parameters, self.parameters), "b": (self.fit.tokens, self.tokens)}
        return {name: percentile_interval(law.a, draws[:, 1], confidence) for name, (law, draws) in pairs.items()}

    def optimum(self, flops: float, confidence: float = 0.9) -> tuple[Interval, Interval]:
        """Intervals of N_opt and D_opt at a budget."""
        found = []
        for law, draws in ((self.fit.parameters, self.parameters), (self.fit.tokens, self.tokens)):
            values = np.exp(draws[:, 0] + draws[:, 1] * np.log(flops))
            found.append(percentile_interval(float(law(flops)), values, confidence))
        return found[0], found[1]


def bootstrap_isoflops(
    runs: RunTable, fit: IsoflopsFit, *, scheme: Scheme = "residuals", num_resamples: int = 1000, seed: int = 0
) -> IsoflopsBootstrap:
    """Fit resamples of the runs by the same method.

    Args:
        runs: what was fitted.
        fit: of these runs.
        scheme: draw residuals of the parabolas, runs inside each budget, or budgets.
        num_resamples: how many.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    if scheme == "budgets":
        log_budget, log_n, log_d = (
            np.log([getattr(optimum, name) for optimum in fit.optima]) for name in ("budget", "parameters", "tokens")
        )
        drawn = rng.integers(len(log_budget), size=(num_resamples, len(log_budget)))
        return IsoflopsBootstrap(fit, lines(log_budget[drawn], log_n[drawn]), lines(log_budget[drawn], log_d[drawn]))
    if scheme not in ("residuals", "runs"):
        raise ValueError(f"scheme must be 'residuals', 'runs' or 'budgets'; got {scheme!r}")
    profiles = [_profile(runs[runs.budget == budget], fit.method) for budget in runs.budgets]
    pooled = _pooled_residuals(profiles)
    best = [_resampled_optima(profile, fit.method, scheme, pooled, num_resamples, rng) for profile in profiles]
    log_n, log_d = (np.stack(columns, axis=1) for columns in zip(*best, strict=True))
    log_budget = np.repeat(np.log(runs.budgets)[None], num_resamples, axis=0)
    return IsoflopsBootstrap(fit, lines(log_budget, log_n), lines(log_budget, log_d))


def lines(x: Floats, y: Floats) -> Floats:
    """Intercept and slope of each row's least-squares line (rows, 2), leaving out places where y is nan."""
    known = np.isfinite(y)
    count = known.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = ((np.where(known, v, 0.0)).sum(axis=1) / count for v in (x, y))
        dx, dy = np.where(known, x - mean_x[:, None], 0.0), np.where(known, y - mean_y[:, None], 0.0)
        variance = (dx * dx).sum(axis=1)
        slope = np.where(variance > 1e-12, (dx * dy).sum(axis=1) / variance, np.nan)
    return np.stack([mean_y - slope * mean_x, slope], axis=1)


def _profile(profile: RunTable, method: str) -> RunTable:
    """The runs that the method looks at."""
    return neighbours_of_lowest(profile) if method == "parabola_local" else profile


def _parabola(profile: RunTable) -> tuple[Floats, Floats]:
    """Design (runs, 3) in centred ln N, and the fitted losses."""
    centred = np.log(profile.parameters) - np.log(profile.parameters).mean()
    design = np.stack([np.ones_like(centred), centred, centred**2], axis=1)
    return design, design @ np.linalg.lstsq(design, profile.loss, rcond=None)[0]


def _pooled_residuals(profiles: list[RunTable]) -> Floats:
    """Residuals of all parabolas, each enlarged for the three numbers fitted."""
    parts = []
    for profile in profiles:
        free = len(profile) - NUMBERS_OF_A_PARABOLA
        if free > 0:
            parts.append((profile.loss - _parabola(profile)[1]) * np.sqrt(len(profile) / free))
    return np.concatenate(parts) if parts else np.zeros(1)


def _resampled_optima(
    profile: RunTable, method: str, scheme: Scheme, pooled: Floats, num_resamples: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """ln N and ln D at the optimum of each resample of one profile."""
    log_n, log_d = np.log(profile.parameters), np.log(profile.tokens)
    design, fitted = _parabola(profile)
    if scheme == "residuals":
        losses = fitted + draw_residuals(pooled, fitted=0, num_resamples=num_resamples, rng=rng)[:, : len(profile)]
        drawn = np.repeat(np.arange(len(profile))[None], num_resamples, axis=0)
    else:
        drawn = rng.integers(len(profile), size=(num_resamples, len(profile)))
        losses = profile.loss[drawn]
    if method == "lowest":
        chosen = drawn[np.arange(num_resamples), losses.argmin(axis=1)]
        return log_n[chosen], log_d[chosen]
    best = _vertex(design[drawn], losses)
    line = np.polyfit(log_n, log_d, 1)
    return best + log_n.mean(), np.polyval(line, best + log_n.mean())


def _vertex(design: Floats, losses: Floats) -> Floats:
    """Minimum of each row's parabola; nan where there is none."""
    gram = np.matmul(design.transpose(0, 2, 1), design)
    distinct = np.array([len(np.unique(row)) for row in design[:, :, 1]])
    gram = np.where((distinct >= 3)[:, None, None], gram, np.eye(3))
    _, slope, curvature = np.linalg.solve(gram, np.einsum("rnp,rn->rp", design, losses)[..., None])[..., 0].T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((distinct >= 3) & (curvature > 0), -slope / (2 * curvature), np.nan)
