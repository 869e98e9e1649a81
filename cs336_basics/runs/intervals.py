"""The Wilson score interval: how far a measured accuracy may lie from the true one.

Of n answers k are right, p = k / n. The interval holds every probability q that a score test does not reject,
|p - q| <= z sqrt(q (1 - q) / n), which solved for q gives

    (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

Unlike p -+ z sqrt(p (1 - p) / n) it stays within [0, 1] and is honest at 0 and n right answers (Wilson 1927).

Left out: intervals for means and for differences of two accuracies. Read next: `plots.py`.
"""

from __future__ import annotations

import math


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
