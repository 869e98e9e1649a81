"""What a repeated token is worth: training for several epochs on the same text.

With U unique tokens and D in all, R = D / U - 1 repetitions count as

    D' = U + U R* (1 - exp(-R / R*))        R* about 15.4

tokens that had never been seen: up to 4 epochs nearly fresh, and never more than (1 + R*) U. Parameters beyond what U
tokens can use (N_U, the best size for U) lose their worth likewise, with R*_N about 5.3. The effective numbers go into
the law of `parametric_law.py`.

Paper: Muennighoff et al. 2023. Read next: `parametric_law.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cs336_scaling.parametric_law import ParametricLaw
from cs336_scaling.power_law import Floats, minimize_scalar

TOKEN_HALF_LIFE, PARAMETER_HALF_LIFE = 15.4, 5.3
"""R*_D and R*_N of the paper"""


@dataclass(frozen=True)
class RepetitionFit:
    """R* and how well it does."""

    repetitions: float
    residuals: Floats
    warnings: tuple[str, ...]


def effective(total: npt.ArrayLike, unique: npt.ArrayLike, *, repetitions: float = TOKEN_HALF_LIFE) -> Floats:
    """How many fresh tokens (or parameters) `total` of them are worth when only `unique` differ.

    Args:
        total: D, positive; where it is at most `unique`, nothing repeats and it is returned.
        unique: U, positive.
        repetitions: R*, positive.
    """
    whole, fresh = np.asarray(total, dtype=np.float64), np.asarray(unique, dtype=np.float64)
    if not ((whole > 0).all() and (fresh > 0).all() and repetitions > 0):
        raise ValueError("total, unique and repetitions must be positive")
    repeated = np.maximum(whole / fresh - 1, 0.0)
    return np.where(whole <= fresh, whole, fresh * (1 + repetitions * -np.expm1(-repeated / repetitions)))


def loss_with_repetition(
    law: ParametricLaw,
    parameters: npt.ArrayLike,
    tokens: npt.ArrayLike,
    *,
    unique: npt.ArrayLike,
    token_repetitions: float = TOKEN_HALF_LIFE,
    parameter_repetitions: float = PARAMETER_HALF_LIFE,
) -> Floats:
    """The law with effective tokens and parameters in place of the real ones.

    Args:
        law: fitted on runs without repetition.
        parameters: N.
        tokens: D, repeats included.
        unique: U, different tokens.
        token_repetitions: R*_D.
        parameter_repetitions: R*_N; infinity leaves parameters as they are.
    """
    distinct = np.minimum(np.asarray(unique, dtype=np.float64), np.asarray(tokens, dtype=np.float64))
    sizes = np.asarray(parameters, dtype=np.float64)
    if np.isfinite(parameter_repetitions):
        ratio = (law.alpha * law.A / (law.beta * law.B)) ** (1 / law.alpha)
        enough = ratio * distinct ** (law.beta / law.alpha)  # the size whose best number of tokens is U
        sizes = effective(sizes, enough, repetitions=parameter_repetitions)
    return law.loss(sizes, effective(tokens, distinct, repetitions=token_repetitions))


def fit_repetitions(
    law: ParametricLaw, parameters: npt.ArrayLike, tokens: npt.ArrayLike, loss: npt.ArrayLike, *, unique: npt.ArrayLike
) -> RepetitionFit:
    """R*_D that fits the losses of repeated runs best in ln L, the law being given and parameters taken at full worth.

    Raises:
        ValueError: no run repeats anything.
    """
    epochs = np.asarray(tokens, dtype=np.float64) / np.asarray(unique, dtype=np.float64)
    if epochs.max() <= 1:
        raise ValueError("no run sees a token twice; train some for several epochs")

    def residuals(log_repetitions: float) -> Floats:
        predicted = loss_with_repetition(
            law, parameters, tokens, unique=unique, token_repetitions=float(np.exp(log_repetitions)),
            parameter_repetitions=float("inf"),
        )  # fmt: skip
        return np.log(predicted) - np.log(np.asarray(loss, dtype=np.float64))

    low, high = np.log(0.1), np.log(1000.0)
    best = minimize_scalar(lambda point: float((residuals(point) ** 2).sum()), low, high)
    warnings = []
    if epochs.max() < 4:
        warnings.append(f"at most {epochs.max():.2g} epochs: repeats are nearly fresh there; go to 10 or more")
    if best < low + 0.01 or best > high - 0.01:
        warnings.append(f"R* = {np.exp(best):.3g} lies at the border of what is searched; the runs cannot identify it")
    return RepetitionFit(float(np.exp(best)), residuals(best), tuple(warnings))
