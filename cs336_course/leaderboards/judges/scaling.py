"""Judge of extrapolation: from small runs of an unknown world, predict the losses of much bigger ones.

    truth    L(N, D) = E + A / N^alpha + B / D^beta        its five constants drawn anew for each world
    given    runs of small budgets, as the course's IsoFLOP profiles, each loss with lognormal noise
    asked    the noiseless loss at compute-optimal and off-optimal sizes, 10 to 1000 times further out
    metric   mean over worlds of the mean |predicted / true - 1|, in percent

Nobody can know a world beforehand, and no compute is needed to enter. The worlds obey one law exactly, which real
training does not: a good rank shows a good fit, not that the law holds. Read next: `cs336_scaling/parametric.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cs336_course.leaderboards.conversation import ProbeFailure, Question
from cs336_course.leaderboards.judges.judging import Judging
from cs336_course.leaderboards.verification import PASSED, Measurement
from cs336_scaling.parametric_law import ParametricLaw

COLUMNS = ("parameters", "tokens", "loss")


@dataclass(frozen=True)
class ScalingSettings:
    """Worlds and runs."""

    worlds: int = 24
    budgets: int = 5
    """budgets of the given runs, from 1e16 FLOPs in steps of sqrt(10)"""
    sizes: int = 7
    """runs per budget"""
    noise: float = 0.004
    """standard deviation of ln L"""
    targets: int = 6
    """predictions per world"""


def measure(judging: Judging) -> Measurement:
    """Ask for predictions in every world."""
    s = judging.settings(ScalingSettings)
    rng = judging.random("worlds")
    worlds = [_world(s, rng) for _ in range(s.worlds)]
    assert judging.talk is not None
    answers = judging.talk.ask([Question("predict", {"runs": runs, "targets": targets}) for runs, targets, _ in worlds])
    errors = []
    for (_, _, truth), answer in zip(worlds, answers, strict=True):
        found = answer.value.get("value")
        if not isinstance(found, np.ndarray) or found.shape != truth.shape or not np.isfinite(found).all():
            raise ProbeFailure("answers", f"predict must return {len(truth)} finite losses per world")
        errors.append(100 * float(np.abs(found / truth - 1).mean()))
    beside = {"median world, %": float(np.median(errors)), "worst world, %": max(errors), "worlds": float(s.worlds)}
    error = float(np.std(errors, ddof=1) / np.sqrt(len(errors))) if len(errors) > 1 else None
    return Measurement(float(np.mean(errors)), error, {"answers": PASSED}, beside)


def _world(
    s: ScalingSettings, rng: np.random.Generator
) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    """Given runs, targets and the true losses of the targets."""
    law = ParametricLaw(
        E=float(rng.uniform(1.2, 2.2)), A=float(np.exp(rng.uniform(np.log(150), np.log(900)))),
        B=float(np.exp(rng.uniform(np.log(200), np.log(2500)))), alpha=float(rng.uniform(0.28, 0.42)),
        beta=float(rng.uniform(0.26, 0.40)),
    )  # fmt: skip
    budgets = 1e16 * 10 ** (0.5 * np.arange(s.budgets))
    best, _ = law.allocation(budgets)
    sizes = (best[:, None] * np.geomspace(0.2, 5, s.sizes)).ravel()
    tokens = np.repeat(budgets, s.sizes) / (6 * sizes)
    losses = law.loss(sizes, tokens) * np.exp(s.noise * rng.standard_normal(len(sizes)))
    far = budgets[-1] * 10 ** rng.uniform(1, 3, size=s.targets)
    big = law.allocation(far)[0] * np.exp(rng.uniform(-1, 1, size=s.targets))
    targets = {"parameters": big, "tokens": far / (6 * big)}
    runs = dict(zip(COLUMNS, (sizes, tokens, losses), strict=True))
    return runs, targets, law.loss(targets["parameters"], targets["tokens"])
