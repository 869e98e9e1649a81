"""Our own IsoFLOP table: 72 runs computed from a stated law, without noise.

    L = 2.69 + 1606.4 / N^0.34 + 3210.7 / D^0.36      D = C / 6N

for nine budgets of 8 sizes, spaced evenly in ln N so that D runs over the ranges below. The best size lies near two
tokens per parameter, not Chinchilla's twenty: the law is made up, and only the methods are to be learnt from it.

    python -m cs336_scaling.isoflops_data        writes isoflops_curves.json beside this file

Handout: chinchilla_isoflops. Read next: `isoflops.py`.
"""

from __future__ import annotations

import numpy as np

from cs336_basics.runs.atomic import write_json
from cs336_scaling.parametric_law import ParametricLaw
from cs336_scaling.runs_table import KEYS, SHIPPED

LAW = ParametricLaw(E=2.69, A=1606.4, B=3210.7, alpha=0.34, beta=0.36)
SMALL_BUDGETS = (6e18, 1e19, 3e19, 6e19, 1e20)
LARGE_BUDGETS = (3e20, 6e20, 1e21, 3e21)
SMALL_TOKENS, LARGE_TOKENS = (6e18 / 6 / 1.2e9, 2e10), (5e9, 2e11)
SIZES_PER_BUDGET = 8


def isoflops_records() -> list[dict[str, float]]:
    """The runs in the handout's format."""
    rows = []
    for budgets, (fewest, most) in ((SMALL_BUDGETS, SMALL_TOKENS), (LARGE_BUDGETS, LARGE_TOKENS)):
        for budget in budgets:
            sizes = np.geomspace(budget / 6 / most, budget / 6 / fewest, SIZES_PER_BUDGET)
            for size in sizes.astype(int).tolist():
                loss = float(LAW.loss(size, budget / (6 * size)))
                rows.append(dict(zip(KEYS, (size, budget, loss), strict=True)))
    return rows


if __name__ == "__main__":
    write_json(SHIPPED, isoflops_records())
