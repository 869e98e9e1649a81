"""IsoFLOP profiles (Chinchilla's approach 2): for each budget the best size, then a power law through the best sizes.

    lowest           the run with the least loss: as coarse as the grid of sizes, and never between two of them
    parabola         loss = c0 + c1 ln N + c2 (ln N)^2 through all runs of the budget; optimum -c1 / 2 c2
    parabola_local   the same through the 5 sizes round the lowest run

    N_opt = k C^a       D_opt = k' C^b       D_opt is read off the profile at N_opt; where D = C / 6N it is C / 6 N_opt

A parabola that opens downwards has no minimum and is refused; one whose minimum lies outside the sizes tried, or a
lowest run at their edge, is kept and told as a warning, since the truth may be anywhere beyond. Parabolas are biased
where the grid is wide, off-centre or alpha and beta differ; the parametric fit is not.

Papers: Hoffmann et al. 2022, section 3.2; arXiv 2603.22339 on the bias. Handout: chinchilla_isoflops. Read next:
`parametric.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from cs336_scaling.power_law import Floats, PowerLaw, fit_power_law
from cs336_scaling.runs_table import RunTable

Method = Literal["lowest", "parabola", "parabola_local"]
METHODS: tuple[Method, ...] = get_args(Method)
LOCAL_SIZES = 5


@dataclass(frozen=True)
class Optimum:
    """The best size of one budget."""

    budget: float
    parameters: float
    tokens: float
    loss: float
    warning: str = ""


@dataclass(frozen=True)
class IsoflopsFit:
    """The best sizes and the laws through them."""

    method: Method
    optima: tuple[Optimum, ...]
    parameters: PowerLaw
    """N_opt of C"""
    tokens: PowerLaw
    """D_opt of C"""
    residuals: Floats
    """ln N_opt minus its law, per budget"""
    warnings: tuple[str, ...]


def isoflops_optima(runs: RunTable, method: Method = "parabola") -> tuple[Optimum, ...]:
    """The best size of each budget, budgets ascending.

    Args:
        runs: at least one profile.
        method: see the module docstring.

    Raises:
        ValueError: an unknown method, fewer than 3 different sizes for a parabola, or one that has no minimum.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    find = _lowest if method == "lowest" else _parabola
    optima = []
    for budget in runs.budgets:
        profile = runs[runs.budget == budget]
        profile = profile[np.argsort(profile.parameters)]
        if method == "parabola_local":
            profile = neighbours_of_lowest(profile)
        optima.append(find(profile))
    return tuple(optima)


def fit_isoflops(runs: RunTable, method: Method = "parabola") -> IsoflopsFit:
    """Best sizes and the power laws of N and D over C.

    Raises:
        ValueError: as `isoflops_optima`, or fewer than two budgets.
    """
    optima = isoflops_optima(runs, method)
    budgets, sizes, tokens = (
        np.array([getattr(optimum, name) for optimum in optima]) for name in ("budget", "parameters", "tokens")
    )
    if len(optima) < 2:
        raise ValueError(f"a law over budgets needs at least two of them; got {len(optima)}")
    law = fit_power_law(budgets, sizes)
    warnings = tuple(optimum.warning for optimum in optima if optimum.warning)
    if len(optima) < 4 or budgets.max() < 10 * budgets.min():
        warnings += (
            f"{len(optima)} budgets over a factor of {budgets.max() / budgets.min():.3g} do not pin down an exponent; "
            "run at least 4 over a decade or more",
        )
    return IsoflopsFit(method, optima, law, fit_power_law(budgets, tokens), law.residuals(budgets, sizes), warnings)


def _lowest(profile: RunTable) -> Optimum:
    """The run with the least loss; of equals the smallest."""
    best = int(np.argmin(profile.loss))
    budget, size = profile.budget[0], profile.parameters[best]
    warning = ""
    if size in (profile.parameters[0], profile.parameters[-1]):
        warning = _edge_warning(budget, size, size == profile.parameters[0])
    return Optimum(float(budget), float(size), float(profile.tokens[best]), float(profile.loss[best]), warning)


def _parabola(profile: RunTable) -> Optimum:
    """The minimum of a least-squares parabola in ln N."""
    sizes = np.log(profile.parameters)
    if len(np.unique(sizes)) < 3:
        raise ValueError(
            f"budget {profile.budget[0]:.3g} has {len(np.unique(sizes))} sizes; a parabola needs 3: run more sizes, or "
            "use method='lowest'"
        )
    centre = sizes.mean()
    curvature, slope, level = np.polyfit(sizes - centre, profile.loss, 2)
    if not curvature > 0:
        raise ValueError(
            f"the parabola of budget {profile.budget[0]:.3g} opens downwards and has no minimum: its sizes lie to one "
            "side of the best one, or the losses are too noisy; run other sizes, or use method='lowest'"
        )
    shift = -slope / (2 * curvature)
    best, budget = float(centre + shift), float(profile.budget[0])
    warning = "" if sizes[0] <= best <= sizes[-1] else _edge_warning(budget, float(np.exp(best)), best < sizes[0])
    tokens = _tokens_at(profile, best)
    return Optimum(budget, float(np.exp(best)), tokens, float(level + slope * shift / 2), warning)


def _tokens_at(profile: RunTable, log_size: float) -> float:
    """Tokens of a run of that size: ln D as a straight line of ln N, exact where D = C / 6N."""
    line = np.polyfit(np.log(profile.parameters), np.log(profile.tokens), 1)
    return float(np.exp(np.polyval(line, log_size)))


def neighbours_of_lowest(profile: RunTable) -> RunTable:
    """The runs of the LOCAL_SIZES sizes round the lowest run, as many on each side as there are."""
    sizes = np.unique(profile.parameters)
    best = int(np.searchsorted(sizes, profile.parameters[np.argmin(profile.loss)]))
    start = max(0, min(best - LOCAL_SIZES // 2, len(sizes) - LOCAL_SIZES))
    return profile[np.isin(profile.parameters, sizes[start : start + LOCAL_SIZES])]


def _edge_warning(budget: float, size: float, low: bool) -> str:
    side = "smallest" if low else "largest"
    return (
        f"budget {budget:.3g}: the best size {size:.3g} is at or beyond the {side} one tried, so the true optimum may "
        f"be {'smaller' if low else 'larger'} still; run {'smaller' if low else 'larger'} models"
    )
