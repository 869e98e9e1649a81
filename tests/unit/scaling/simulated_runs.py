"""Runs drawn from known laws, for tests and benchmarks of fits: random surfaces, a descent from the truth, coverage."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from cs336_scaling.parametric import fit_parametric_robust
from cs336_scaling.parametric_intervals import bootstrap_parametric
from cs336_scaling.parametric_law import ParametricLaw
from cs336_scaling.runs_table import RunTable


def isoflop_design(rng: np.random.Generator) -> RunTable:
    """4 to 7 budgets of 5 to 8 sizes, the middle size up to 3 times off 20 tokens per parameter; losses are all 1."""
    budgets = np.geomspace(1e17, 10 ** rng.uniform(18.5, 21), rng.integers(4, 8))
    spread, middle = np.geomspace(0.2, 5, rng.integers(5, 9)), 10 ** rng.uniform(-0.5, 0.5)
    sizes = np.concatenate([np.sqrt(budget / 120) * middle * spread for budget in budgets])
    budget = np.repeat(budgets, len(spread))
    return RunTable(sizes, budget / (6 * sizes), budget, np.ones(len(sizes)))


def random_law(rng: np.random.Generator, design: RunTable) -> ParametricLaw:
    """A law whose three terms all matter in the middle of the design."""
    alpha, beta = rng.uniform(0.15, 0.9, 2)
    a, b = rng.uniform(0.2, 2.0, 2)
    middle_n, middle_d = (np.exp(np.log(values).mean()) for values in (design.parameters, design.tokens))
    return ParametricLaw(rng.uniform(0.5, 3.0), a * middle_n**alpha, b * middle_d**beta, alpha, beta)


def simulate(rng: np.random.Generator, design: RunTable, law: ParametricLaw, noise: float) -> RunTable:
    """Losses of the law times exp(noise z)."""
    loss = law.loss(design.parameters, design.tokens) * np.exp(noise * rng.standard_normal(len(design)))
    return RunTable(design.parameters, design.tokens, design.budget, loss)


def descend_with_torch(
    runs: RunTable, starts: list[ParametricLaw], delta: float, *, max_iter: int = 2000, tolerance: float = 1e-16
) -> float:
    """The least summed Huber loss that torch's L-BFGS reaches from any of the starts.

    `tolerance` is the change of 1000 times the loss that ends a descent.
    """
    n, d, loss = (torch.from_numpy(np.log(values)) for values in (runs.parameters, runs.tokens, runs.loss))
    n, d, centre_n, centre_d = n - n.mean(), d - d.mean(), float(n.mean()), float(d.mean())
    lowest = float("inf")
    for law in starts:
        point = [np.log(law.A) - law.alpha * centre_n, np.log(law.B) - law.beta * centre_d, np.log(law.E)]
        theta = torch.tensor([*point, law.alpha, law.beta], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [theta], max_iter=max_iter, max_eval=2 * max_iter, tolerance_grad=1e-12, tolerance_change=tolerance,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def objective(theta=theta, optimizer=optimizer):
            optimizer.zero_grad()
            terms = torch.stack([theta[0] - theta[3] * n, theta[1] - theta[4] * d, theta[2].expand_as(n)])
            error = torch.logsumexp(terms, 0) - loss
            total = 1e3 * torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="sum", delta=delta)
            total.backward()
            return total

        optimizer.step(objective)
        lowest = min(lowest, objective().item() / 1e3)
    return lowest


def coverage(seed: int, *, num_designs: int, num_resamples: int, noise: float, scheme: str = "residuals") -> Counter:
    """How many of the 90 % intervals of simulated designs hold the truth, by quantity.

    `loss of a new run` is that of a noisy run at 10 times the largest budget; N_opt is at the same budget.
    """
    rng, hits = np.random.default_rng(seed), Counter()
    for _ in range(num_designs):
        design = isoflop_design(rng)
        law = random_law(rng, design)
        runs = simulate(rng, design, law, noise)
        resampled = bootstrap_parametric(
            runs, fit_parametric_robust(runs), num_resamples=num_resamples, seed=int(rng.integers(2**31)), scheme=scheme
        )
        target = float(10 * design.budget.max())
        size, tokens = (float(value) for value in law.allocation(target))
        new = float(law.loss(size, tokens)) * np.exp(noise * rng.standard_normal())
        best = resampled.interval(lambda law, target=target: float(law.allocation(target)[0]))
        hits["loss of a new run"] += new in resampled.loss(size, tokens)
        hits["N_opt"] += size in best
        for name, interval in resampled.parameters().items():
            hits[name] += (law.parameter_exponent if name == "a" else getattr(law, name)) in interval
    return hits
