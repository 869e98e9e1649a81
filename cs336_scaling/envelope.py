"""Chinchilla's approach 1: the lower envelope of all training curves.

Each run's loss over its own training is a curve over FLOPs. At any FLOPs, the run that is lowest there had the best
size; the power law goes through these sizes at many FLOPs.

It wants curves whose every point is a finished training (a learning rate already decayed). Points in the middle of a
cosine are too high, so the envelope leans to runs near their end; with one short horizon per run it is the weakest of
the three approaches.

Paper: Hoffmann et al. 2022, section 3.1. Read next: `isoflops.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cs336_scaling.power_law import Floats, PowerLaw, fit_power_law


@dataclass(frozen=True)
class Curve:
    """Loss of one run while it trains."""

    parameters: float
    tokens: npt.ArrayLike
    """trained on so far, ascending"""
    loss: npt.ArrayLike

    def at(self, flops: Floats) -> Floats:
        """Loss at these FLOPs (6 N D), straight in ln FLOPs; infinite where the run was not."""
        spent = np.log(6 * self.parameters * np.asarray(self.tokens, dtype=np.float64))
        if len(spent) < 2 or not (np.diff(spent) > 0).all():
            raise ValueError("a curve needs at least two points with ascending tokens")
        return np.interp(np.log(flops), spent, np.asarray(self.loss), left=np.inf, right=np.inf)


@dataclass(frozen=True)
class Envelope:
    """The lowest run at each of many FLOPs, and the laws through their sizes."""

    flops: Floats
    sizes: Floats
    losses: Floats
    parameters: PowerLaw
    tokens: PowerLaw
    warnings: tuple[str, ...]


def fit_envelope(curves: Sequence[Curve], *, num_points: int = 200) -> Envelope:
    """The envelope between the FLOPs where it first has, and last has, at least two runs to choose from.

    Raises:
        ValueError: fewer than three runs, or no FLOPs that two runs share.
    """
    if len(curves) < 3:
        raise ValueError(f"an envelope needs at least 3 curves; got {len(curves)}")
    spans = [6 * c.parameters * np.asarray(c.tokens, dtype=np.float64)[[0, -1]] for c in curves]
    flops = np.geomspace(min(s[0] for s in spans), max(s[1] for s in spans), num_points)
    table = np.array([curve.at(flops) for curve in curves])
    shared = np.isfinite(table).sum(axis=0) >= 2
    if not shared.any():
        raise ValueError("no two curves cover the same FLOPs; train the runs longer")
    flops, table = flops[shared], table[:, shared]
    sizes = np.array([curve.parameters for curve in curves])[table.argmin(axis=0)]
    warnings: tuple[str, ...] = ()
    if len(np.unique(sizes)) < 3:
        warnings = (f"only {len(np.unique(sizes))} sizes are ever the best; train more sizes, closer together",)
    law = fit_power_law(flops, sizes)
    return Envelope(flops, sizes, table.min(axis=0), law, fit_power_law(flops, flops / (6 * sizes)), warnings)
