"""Entrypoint of the scaling board: the robust Chinchilla fit of assignment 3.

predict(runs, targets) -> losses         runs: parameters, tokens, loss; targets: parameters, tokens (float arrays)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cs336_scaling.parametric import fit_parametric_robust
from cs336_scaling.runs_table import RunTable

Floats = npt.NDArray[np.float64]


def predict(runs: dict[str, Floats], targets: dict[str, Floats]) -> Floats:
    """Losses of the targets under the law that fits the runs best."""
    budget = 6 * runs["parameters"] * runs["tokens"]
    law = fit_parametric_robust(RunTable(runs["parameters"], runs["tokens"], budget, runs["loss"])).law
    return law.loss(targets["parameters"], targets["tokens"])
