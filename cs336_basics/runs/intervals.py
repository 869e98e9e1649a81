"""How far a measured figure may lie from the true one: the Wilson score interval and the bootstrap.

**Accuracies (Wilson).** Of n answers k are right, p = k / n. The interval holds every probability q that a score test
does not reject, |p - q| <= z sqrt(q (1 - q) / n), which solved for q gives

    (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

Unlike p -+ z sqrt(p (1 - p) / n) it stays within [0, 1] and is honest at 0 and n right answers (Wilson 1927).

**Ratios of sums (bootstrap).** Bytes per token of a text is a sum over its sentences divided by another sum. Draw as
many sentences with replacement as there are, many times; the middle 95 % of the ratios so obtained is the interval
(Efron 1979, percentile method). It speaks of texts like this one only, and is too narrow for fewer than about 20
sentences.

Left out: differences of two accuracies. Read next: `plots.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_WEIGHTS_AT_ONCE = 1 << 21


def wilson_interval(successes: int, trials: int, *, z: float = 1.96) -> tuple[float, float]:
    """The interval for the probability of success.

    Args:
        successes: right answers, 0 to `trials`.
        trials: answers in all, at least 1.
        z: width in standard deviations; 1.96 gives 95 %.

    Returns:
        (low, high), both in [0, 1].

    Raises:
        ValueError: counts out of range.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"successes must lie in 0..trials and trials be at least 1; got {successes} of {trials}")
    p, spread = successes / trials, z * z / trials
    centre = p + spread / 2
    half = z * math.sqrt(p * (1 - p) / trials + spread / (4 * trials))
    low = 0.0 if successes == 0 else (centre - half) / (1 + spread)
    high = 1.0 if successes == trials else (centre + half) / (1 + spread)
    return low, high


def bootstrap_ratio_interval(
    numerators: Sequence[float] | np.ndarray,
    denominators: Sequence[float] | np.ndarray,
    *,
    seed: int,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """The percentile bootstrap interval of sum(numerators) / sum(denominators), the two drawn in pairs.

    Args:
        numerators: one value per unit, such as the bytes of each sentence.
        denominators: as many values from 0, such as its tokens; resamples in which all are 0 are drawn again.
        seed: of the resampling.
        num_resamples: how often units are drawn.
        confidence: share of the resampled ratios within the interval, in (0, 1).

    Returns:
        (low, high).

    Raises:
        ValueError: no units, unequal lengths, denominators below 0 or all 0, or an option out of range.
    """
    tops, bottoms = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    units = len(tops)
    if tops.shape != bottoms.shape or tops.ndim != 1 or not (bottoms >= 0).all() or not bottoms.sum() > 0:
        raise ValueError(
            f"need as many numerators as denominators, these from 0 and not all 0; got {numerators!r:.80} and "
            f"{denominators!r:.80}"
        )
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"num_resamples must be positive and confidence in (0, 1); got {num_resamples}, {confidence}")
    rng = np.random.default_rng(seed)
    ratios: list[float] = []
    while len(ratios) < num_resamples:  # in blocks, for the memory of the weights
        rows = min(num_resamples - len(ratios), max(1, _WEIGHTS_AT_ONCE // units))
        weights = rng.multinomial(units, np.full(units, 1 / units), size=rows)
        sums = weights @ bottoms
        ratios += list((weights @ tops)[sums > 0] / sums[sums > 0])
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
