"""Which runs to buy next: those that narrow the prediction of the target most, within a budget.

Near the best law the loss is a straight line in theta = (a, b, e, alpha, beta). With j a run's slope in theta, s^2 the
noise of ln L, and g the slope of the target's predicted ln L,

    information M = sum over runs of j j^T / s^2        variance of the prediction V = g^T M^-1 g
    one more run j takes off        (g^T M^-1 j)^2 / (s^2 + j^T M^-1 j)                     (Sherman and Morrison)

The law is not known, so the gain is averaged over laws from the bootstrap (or over published ones, where there are no
runs yet). Runs are bought one by one, by gain or by gain per FLOP, whichever ends narrower: this is greedy, not
optimal, and it may buy the same run again with another seed.

The rule trusts the law. It therefore likes the corners of the region, and is right to only if the law holds there; keep
some runs round the expected best size to see whether it does.

Papers: Fedorov 1972 on designs for one prediction (c-optimal). Read next: `sweep_design.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cs336_scaling.parametric import Floats
from cs336_scaling.parametric_law import ParametricLaw

PRIOR_SD = np.array([3.0, 3.0, 1.0, 0.3, 0.3])
"""what is believed of theta beforehand, at the middle of the candidates: so wide that a few runs override it"""
HALF_WIDTH_90 = 1.645


@dataclass(frozen=True)
class Purchase:
    """A run to buy."""

    parameters: float
    tokens: float
    flops: float
    half_width: float
    """of the 90 % interval of the target's loss once this and the former ones are run, as a share of the loss"""


@dataclass(frozen=True)
class Plan:
    """Runs in the order to buy them."""

    purchases: tuple[Purchase, ...]
    half_width_before: float
    half_width_after: float
    spent: float


def candidate_runs(
    law: ParametricLaw, budgets: Sequence[float], *, sizes: int = 7, width: float = 6.0
) -> list[tuple[float, float]]:
    """(parameters, tokens) at each budget, sizes spread evenly in ln N within a factor `width` of the best one."""
    runs = []
    for flops in budgets:
        best = float(law.allocation(flops)[0])
        runs += [(float(n), float(flops / (6 * n))) for n in np.geomspace(best / width, best * width, sizes)]
    return runs


def plan_runs(
    laws: Sequence[ParametricLaw],
    candidates: Sequence[tuple[float, float]],
    *,
    budget: float,
    target: float,
    noise: float,
    done: Sequence[tuple[float, float]] = (),
    max_runs: int = 100,
) -> Plan:
    """Spend a budget on the runs that narrow the prediction of the target most.

    Args:
        laws: plausible laws, 1 to some dozens.
        candidates: (parameters, tokens) that can be bought, each any number of times.
        budget: FLOPs (6 N D) to spend.
        target: FLOPs of the run to predict.
        noise: standard deviation of ln L between seeds, positive.
        done: runs already there.
        max_runs: at most so many purchases.

    Raises:
        ValueError: no laws, no candidate within the budget, or numbers that are not positive.
    """
    if not laws or not (budget > 0 and target > 0 and noise > 0):
        raise ValueError("a plan needs laws, and a positive budget, target and noise")
    cheapest = min((6 * n * d for n, d in candidates), default=np.inf)
    if cheapest > budget:
        raise ValueError(f"the cheapest candidate takes {cheapest:.3g} FLOPs, more than the budget of {budget:.3g}")
    state = _State(laws, candidates, done, target, noise)
    plans = [_greedy(state.copy(), budget, max_runs, per_flop) for per_flop in (False, True)]
    return min(plans, key=lambda plan: plan.half_width_after)


class _State:
    """For each law the covariance of theta, the slopes of the candidates, and that of the target."""

    def __init__(self, laws, candidates, done, target, noise) -> None:
        self.candidates, self.noise = np.array(candidates), noise
        centre = np.log(self.candidates).mean(axis=0)
        self.slopes = np.stack([_slopes(law, self.candidates, centre) for law in laws])
        goals = [np.array([[float(x) for x in law.allocation(target)]]) for law in laws]
        self.goal = np.stack([_slopes(law, goal, centre)[0] for law, goal in zip(laws, goals, strict=True)])
        information = np.repeat(np.diag(PRIOR_SD**-2.0)[None], len(laws), axis=0)
        if len(done):
            known = np.stack([_slopes(law, np.array(done), centre) for law in laws])
            information = information + np.einsum("lrp,lrq->lpq", known, known) / noise**2
        self.covariance = np.linalg.inv(information)

    def copy(self) -> _State:
        """A state to spend from."""
        twin = object.__new__(_State)
        twin.__dict__.update(self.__dict__)
        return twin

    def half_width(self) -> float:
        """Of the 90 % interval of ln L at the target, the variances averaged over the laws."""
        variance = np.einsum("lp,lpq,lq->l", self.goal, self.covariance, self.goal)
        return float(HALF_WIDTH_90 * np.sqrt(variance.mean()))

    def gains(self) -> Floats:
        """Expected fall of the variance per candidate, the mean over laws."""
        toward = np.einsum("lp,lpq,lcq->lc", self.goal, self.covariance, self.slopes)
        spread = np.einsum("lcp,lpq,lcq->lc", self.slopes, self.covariance, self.slopes)
        return (toward**2 / (self.noise**2 + spread)).mean(axis=0)

    def buy(self, candidate: int) -> None:
        """Take the run's information into the covariance."""
        slope = self.slopes[:, candidate]
        along = np.einsum("lpq,lq->lp", self.covariance, slope)
        size = self.noise**2 + np.einsum("lp,lp->l", slope, along)
        self.covariance = self.covariance - np.einsum("lp,lq->lpq", along, along) / size[:, None, None]


def _slopes(law: ParametricLaw, runs: Floats, centre: Floats) -> Floats:
    """d ln L / d theta of each run (runs, 5), with a and b taken at the centre."""
    n, d = np.log(runs).T
    terms = np.stack([law.A * np.exp(-law.alpha * n), law.B * np.exp(-law.beta * d), np.full(len(n), law.E)], axis=1)
    shares = terms / terms.sum(axis=1, keepdims=True)
    return np.concatenate([shares, -shares[:, :1] * (n - centre[0])[:, None],
                           -shares[:, 1:2] * (d - centre[1])[:, None]], axis=1)  # fmt: skip


def _greedy(state: _State, budget: float, max_runs: int, per_flop: bool) -> Plan:
    """Buy the best affordable candidate until money or patience ends."""
    costs = 6 * state.candidates.prod(axis=1)
    before, left = state.half_width(), budget
    bought: list[Purchase] = []
    while len(bought) < max_runs and (costs <= left).any():
        worth = state.gains() / (costs if per_flop else 1.0)
        best = int(np.argmax(np.where(costs <= left, worth, -np.inf)))
        state.buy(best)
        left -= float(costs[best])
        size, tokens = state.candidates[best].tolist()
        bought.append(Purchase(size, tokens, float(costs[best]), state.half_width()))
    return Plan(tuple(bought), before, state.half_width(), budget - left)
