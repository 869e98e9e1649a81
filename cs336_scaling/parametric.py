"""Fitting L(N, D) = E + A / N^alpha + B / D^beta (Chinchilla's approach 3), and finding the best fit every time.

With a = ln A, b = ln B, e = ln E the law is a log-sum-exp, and what is minimised is

    sum over runs of  w * Huber_delta( LSE(a - alpha ln N, b - beta ln D, e) - ln L )

a sum and not a mean, which would only loosen the stopping rule. The surface has many valleys that an optimizer from one
start falls into; here the search goes in two steps:

    1. for each of a grid of exponents (alpha, beta) the law is linear in E, A, B >= 0, solved in closed form with
       errors relative to the loss: the best of the three coefficients' 7 subsets that is not negative
    2. the grid's points go downhill together by Levenberg-Marquardt, first all for some steps, then the best to the end

delta = 1e-3 is the paper's; far below the noise of real losses it makes the fit a least-absolute one, which wastes
data. `noise_delta` is Huber's own choice, 1.345 robust standard deviations, 95 % efficient where the noise is normal.

Papers: Hoffmann et al. 2022, section 3.3; Besiroglu et al. 2024 on a fit that stopped too early; Huber 1964. Handout:
scaling_laws. Left out: other forms of the law. Read next: `parametric_intervals.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cs336_scaling.parametric_law import Floats, ParametricLaw
from cs336_scaling.runs_table import RunTable

CHINCHILLA_DELTA = 1e-3
EXPONENTS = np.geomspace(0.03, 2.0, 12)
SMALLEST_EXPONENT, LARGEST_EXPONENT = 0.005, 4.0
SMALLEST_SHARE = 1e-5
"""a term below this share of the loss counts as absent"""
SUBSETS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))


@dataclass(frozen=True)
class ParametricFit:
    """The best law and how well it does."""

    law: ParametricLaw
    objective: float
    """the summed Huber loss"""
    residuals: Floats
    """ln L of the law minus ln L of each run"""
    delta: float
    warnings: tuple[str, ...]


def fit_parametric(runs: RunTable, *, delta: float = CHINCHILLA_DELTA) -> ParametricFit:
    """The law with the least Huber loss.

    Args:
        runs: at least 6 of them, with at least 3 different sizes and 3 different numbers of tokens.
        delta: where the loss turns from squared to absolute, in ln L; positive.

    Raises:
        ValueError: too few runs to say anything, or delta not positive.

    Complexity: about 144 x 20 + 12 x 300 small steps, some tens of milliseconds for 100 runs.
    """
    _check(runs, delta)
    problem = _Problem(np.log(runs.parameters), np.log(runs.tokens), np.log(runs.loss)[None], None, delta)
    starts = _grid_starts(problem)
    rough, objective = descend(problem, starts, 20)
    best = np.argsort(objective)[:12]
    fine, objective = descend(problem, rough[best], 300)
    theta = fine[np.argmin(objective)][None]
    law = problem.laws(theta)[0]
    residuals = problem.predict(theta)[0] - problem.log_loss[0]
    return ParametricFit(law, float(objective.min()), residuals, delta, identification_warnings(runs, law, residuals))


def fit_parametric_robust(runs: RunTable) -> ParametricFit:
    """Fit twice: with Chinchilla's delta, then with one of the size of the noise found; for losses with noise."""
    first = fit_parametric(runs)
    return fit_parametric(runs, delta=noise_delta(first.residuals))


def refit(runs: RunTable, start: ParametricLaw, *, log_loss: Floats, delta: float, weights: Floats | None = None):
    """Fit many resamples of one design at once, each downhill from `start`.

    Args:
        runs: the design; its losses are not used.
        start: a law near the optima.
        log_loss: ln L of each resample (resamples, runs).
        delta: as in `fit_parametric`.
        weights: how often each run counts (resamples, runs); once by default.

    Returns:
        One row (E, A, B, alpha, beta) per resample.
    """
    problem = _Problem(np.log(runs.parameters), np.log(runs.tokens), log_loss, weights, delta)
    theta = np.repeat(problem.theta(start)[None], len(log_loss), axis=0)
    return np.array([law.as_tuple() for law in problem.laws(descend(problem, theta, 30, tolerance=1e-6)[0])])


def noise_delta(residuals: Floats) -> float:
    """1.345 standard deviations of the residuals, estimated by their median absolute value; at least 1e-4."""
    return max(1e-4, 1.345 * 1.4826 * float(np.median(np.abs(residuals))))


class _Problem:
    """Residuals and derivatives of many fits of one design; theta = (a, b, e, alpha, beta) at the design's centre."""

    def __init__(self, log_n: Floats, log_d: Floats, log_loss: Floats, weights: Floats | None, delta: float) -> None:
        self.centre = np.array([log_n.mean(), log_d.mean()])
        self.n, self.d = log_n - self.centre[0], log_d - self.centre[1]
        self.log_loss, self.delta = log_loss, delta
        self.weights = np.ones_like(log_loss) if weights is None else weights
        least = log_loss.min()
        smallest = least + np.log(SMALLEST_SHARE)
        self.low = np.array([smallest, smallest, smallest, SMALLEST_EXPONENT, SMALLEST_EXPONENT])
        self.high = np.array([least + 20.0, least + 20.0, log_loss.max(), LARGEST_EXPONENT, LARGEST_EXPONENT])

    def terms(self, theta: Floats) -> Floats:
        """Logarithms of the three terms (fits, 3, runs)."""
        a, b, e, alpha, beta = (column[:, None] for column in theta.T)
        return np.stack([a - alpha * self.n, b - beta * self.d, e + 0 * self.n], axis=1)

    def predict(self, theta: Floats) -> Floats:
        """ln L (fits, runs)."""
        terms = self.terms(theta)
        top = terms.max(axis=1)
        return top + np.log(np.exp(terms - top[:, None]).sum(axis=1))

    def objective(self, theta: Floats) -> Floats:
        """Summed Huber loss (fits,)."""
        size = np.abs(self.predict(theta) - self.log_loss)
        huber = np.where(size <= self.delta, size**2 / 2, self.delta * (size - self.delta / 2))
        return (self.weights * huber).sum(axis=1)

    def normal_equations(self, theta: Floats) -> tuple[Floats, Floats]:
        """Gradient (fits, 5), and the Gauss-Newton matrix (fits, 5, 5) with weights delta / |r| beyond delta."""
        terms, predicted = self.terms(theta), self.predict(theta)
        shares = np.exp(terms - predicted[:, None])
        jacobian = np.concatenate([shares, -shares[:, :1] * self.n, -shares[:, 1:2] * self.d], axis=1)
        residuals = predicted - self.log_loss
        weights = self.weights * np.minimum(1.0, self.delta / np.maximum(np.abs(residuals), 1e-300))
        gradient = np.einsum("fpr,fr->fp", jacobian, weights * residuals)
        return gradient, np.matmul(jacobian * weights[:, None], jacobian.transpose(0, 2, 1))

    def theta(self, law: ParametricLaw) -> Floats:
        """A law as a point."""
        a = np.log(law.A) - law.alpha * self.centre[0]
        b = np.log(law.B) - law.beta * self.centre[1]
        point = np.array([a, b, np.log(max(law.E, 1e-300)), law.alpha, law.beta])
        return np.clip(point, self.low, self.high)

    def laws(self, theta: Floats) -> list[ParametricLaw]:
        """Points as laws."""
        a, b, e, alpha, beta = theta.T
        columns = np.exp(e), np.exp(a + alpha * self.centre[0]), np.exp(b + beta * self.centre[1]), alpha, beta
        return [ParametricLaw(*map(float, row)) for row in zip(*columns, strict=True)]


def descend(problem: _Problem, theta: Floats, num_steps: int, *, tolerance: float = 1e-13) -> tuple[Floats, Floats]:
    """Levenberg-Marquardt on all rows of theta at once; returns the points and their objectives.

    A step that does not lower the objective is not taken, and its row is damped more. Rows whose steps have become too
    small to matter stop the loop once all are so.
    """
    damping = np.full(len(theta), 1e-3)
    objective = problem.objective(theta)
    for _ in range(num_steps):
        gradient, matrix = problem.normal_equations(theta)
        diagonal = np.maximum(
            np.einsum("fpp->fp", matrix), 1e-12 * np.trace(matrix, axis1=1, axis2=2)[:, None] + 1e-300
        )
        damped = matrix + np.einsum("fp,pq->fpq", diagonal * damping[:, None], np.eye(5))
        step = np.linalg.solve(damped, gradient[..., None])[..., 0]
        proposal = np.clip(theta - np.clip(step, -1.0, 1.0), problem.low, problem.high)
        value = problem.objective(proposal)
        better = value < objective
        gain = np.where(better, objective - value, 0.0)
        settled = np.where(better, gain <= tolerance * objective, damping > 1e6)
        theta = np.where(better[:, None], proposal, theta)
        objective = np.where(better, value, objective)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-12, 1e8)
        if settled.all():
            break
    return theta, objective


def _grid_starts(problem: _Problem) -> Floats:
    """The best coefficients for each pair of exponents (pairs, 5)."""
    alpha, beta = (axis.ravel() for axis in np.meshgrid(EXPONENTS, EXPONENTS, indexing="ij"))
    loss = np.exp(problem.log_loss[0])
    ones = np.ones((len(alpha), len(loss)))
    powers = np.exp(-alpha[:, None] * problem.n), np.exp(-beta[:, None] * problem.d), ones
    design = np.stack(powers, axis=2) / loss[:, None]
    coefficients = np.maximum(_non_negative_least_squares(design), SMALLEST_SHARE * loss.min())
    theta = np.concatenate([np.log(coefficients), alpha[:, None], beta[:, None]], axis=1)
    return np.clip(theta, problem.low, problem.high)


def _non_negative_least_squares(design: Floats) -> Floats:
    """For each design (pairs, runs, 3) the coefficients >= 0 nearest to design @ c = 1: the best feasible subset."""
    gram, target = np.matmul(design.transpose(0, 2, 1), design), design.sum(axis=1)
    best, lowest = np.zeros(target.shape), np.full(len(target), np.inf)
    for subset in SUBSETS:
        chosen = np.ix_(range(len(gram)), subset, subset)
        ridge = 1e-12 * np.trace(gram[chosen], axis1=1, axis2=2)[:, None, None] * np.eye(len(subset))
        part = np.linalg.solve(gram[chosen] + ridge, target[:, subset, None])[..., 0]
        full = np.zeros_like(target)
        full[:, subset] = part
        error = ((np.matmul(design, full[..., None])[..., 0] - 1) ** 2).sum(axis=1)
        better = (part >= 0).all(axis=1) & (error < lowest)
        best[better], lowest[better] = full[better], error[better]
    return best


def identification_warnings(runs: RunTable, law: ParametricLaw, residuals: npt.ArrayLike) -> tuple[str, ...]:
    """What this design and this fit cannot tell, in plain words."""
    warnings = []
    for name, values in (("parameters", runs.parameters), ("tokens", runs.tokens)):
        spread = values.max() / values.min()
        if spread < 10:
            warnings.append(
                f"{name} span a factor of {spread:.3g} only; their exponent needs 10, better 30: add runs further apart"
            )
    if len(runs.budgets) == 1:
        warnings.append("all runs have one budget, so N and D move together; add profiles at other budgets")
    if law.E < 0.01 * runs.loss.min():
        warnings.append(f"the floor E came out at {law.E:.2g}, practically zero; the runs are too small to see it")
    noise, typical = float(np.std(np.asarray(residuals))), float(runs.loss.mean())
    terms = {"N": law.A * runs.parameters**-law.alpha, "D": law.B * runs.tokens**-law.beta}
    for name, term in terms.items():
        if np.ptp(term) / typical < 2 * noise:
            warnings.append(f"the term of {name} moves less than the noise; the design cannot identify its exponent")
    for name, exponent in (("alpha", law.alpha), ("beta", law.beta)):
        if not SMALLEST_EXPONENT * 1.01 < exponent < LARGEST_EXPONENT * 0.99:
            warnings.append(
                f"{name} = {exponent:.3g} lies at the border of what is searched; the design cannot identify it"
            )
    return tuple(warnings)


def _check(runs: RunTable, delta: float) -> None:
    if not delta > 0:
        raise ValueError(f"delta must be positive; got {delta}")
    sizes, tokens = len(np.unique(runs.parameters)), len(np.unique(runs.tokens))
    if len(runs) < 6 or sizes < 3 or tokens < 3:
        raise ValueError(
            f"five numbers need at least 6 runs with 3 sizes and 3 numbers of tokens; got {len(runs)} runs with "
            f"{sizes} and {tokens}; run more, or fit a power law over budgets"
        )
