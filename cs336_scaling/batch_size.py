"""How large a batch pays: the critical batch size, the gradient's noise scale, and published laws.

To reach one loss, a run with batch B (tokens) needs S steps and E = B S tokens, and these trade off as

    (S / S_min - 1) (E / E_min - 1) = 1      so      S = S_min + E_min / B      a straight line in 1 / B

B_crit = E_min / S_min is where both are twice their least. Far below it a larger batch is free in tokens, far above it
buys no fewer steps. The same scale can be read off gradients g at two batch sizes, without any sweep:

    |G|^2 = (B2 |g2|^2 - B1 |g1|^2) / (B2 - B1)
    tr Sigma = (|g1|^2 - |g2|^2) / (1/B1 - 1/B2)        B_simple = tr Sigma / |G|^2

Papers: McCandlish et al. 2018; Kaplan et al. 2020; Bergsma et al. 2025 (best batch as D^0.383); DeepSeek LLM 2024; Step
law 2025. Read next: `learning_rate.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cs336_scaling.power_law import Floats


@dataclass(frozen=True)
class CriticalBatch:
    """The trade-off between steps and tokens for one loss."""

    least_steps: float
    least_tokens: float
    residuals: Floats
    """ln of predicted over real steps"""
    warnings: tuple[str, ...]

    @property
    def critical(self) -> float:
        """B_crit in tokens."""
        return self.least_tokens / self.least_steps

    def steps(self, batch: npt.ArrayLike) -> Floats:
        """Steps needed with a batch of so many tokens."""
        return np.asarray(self.least_steps + self.least_tokens / np.asarray(batch, dtype=np.float64))


def fit_critical_batch(batch: npt.ArrayLike, steps: npt.ArrayLike) -> CriticalBatch:
    """Fit S = S_min + E_min / B with errors relative to S.

    Args:
        batch: tokens per step of each run (n,), at least two different ones.
        steps: steps until the run reached the target loss (n,), each at its own best learning rate.

    Raises:
        ValueError: fewer than two batches, or steps that do not fall with the batch (no trade-off to be seen).
    """
    sizes, needed = np.asarray(batch, dtype=np.float64), np.asarray(steps, dtype=np.float64)
    if sizes.shape != needed.shape or len(np.unique(sizes)) < 2 or not ((sizes > 0).all() and (needed > 0).all()):
        raise ValueError("need as many steps as batches, all positive, with at least two different batches")
    design = np.stack([1 / needed, 1 / (sizes * needed)], axis=1)
    scale = design.max(axis=0)
    least_steps, least_tokens = np.linalg.lstsq(design / scale, np.ones(len(needed)), rcond=None)[0] / scale
    if not (least_steps > 0 and least_tokens > 0):
        raise ValueError(
            f"the line through the runs has S_min={least_steps:.3g} and E_min={least_tokens:.3g}, which must both be "
            "positive: the batches lie to one side of the critical one; add larger and smaller ones"
        )
    critical, warnings = least_tokens / least_steps, []
    if not sizes.min() < critical < sizes.max():
        side = "below" if critical < sizes.min() else "above"
        warnings.append(f"B_crit = {critical:.3g} lies {side} all batches tried; add batches round it")
    predicted = least_steps + least_tokens / sizes
    return CriticalBatch(float(least_steps), float(least_tokens), np.log(predicted / needed), tuple(warnings))


def gradient_noise_scale(small: float, large: float, *, small_batch: float, large_batch: float) -> float:
    """B_simple from the mean squared norms of gradients at two batch sizes.

    Args:
        small: mean of |g|^2 over many batches of `small_batch`.
        large: the same for `large_batch`.
        small_batch: examples (or tokens) per gradient.
        large_batch: more of them.

    Returns:
        In the unit of the batches.

    Raises:
        ValueError: batches out of order, or an estimate of |G|^2 or of the noise that is not positive (average
            over more batches).
    """
    if not 0 < small_batch < large_batch:
        raise ValueError(f"need 0 < small_batch < large_batch; got {small_batch} and {large_batch}")
    signal = (large_batch * large - small_batch * small) / (large_batch - small_batch)
    noise = (small - large) / (1 / small_batch - 1 / large_batch)
    if not (signal > 0 and noise > 0):
        raise ValueError(f"|G|^2 = {signal:.3g} and tr Sigma = {noise:.3g} must be positive; average over more batches")
    return noise / signal


def kaplan_critical_batch(loss: float) -> float:
    """2e8 / L^(1/0.21) tokens, for the loss of Kaplan's models."""
    return 2e8 / loss ** (1 / 0.21)


def bergsma_batch(tokens: float, *, reference_batch: float = 2.0**19, reference_tokens: float) -> float:
    """The best batch in tokens for a horizon D, growing as D^0.383 from a reference, rounded to a power of two.

    nanochat's reference is 2^19 tokens at the horizon of its depth-12 model.
    """
    return 2.0 ** round(math.log2(reference_batch * (tokens / reference_tokens) ** 0.383))


def deepseek_batch(flops: float) -> float:
    """0.2920 C^0.3271 tokens."""
    return 0.2920 * flops**0.3271


def step_law_batch(tokens: float) -> float:
    """0.58 D^0.571 tokens."""
    return 0.58 * tokens**0.571
