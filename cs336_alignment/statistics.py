"""Is it better, or luck? Paired comparison of two models on the same questions, and the chance of k tries.

**McNemar.** Only questions on which two models differ tell anything: `gained` became right, `lost` became wrong. If
neither model is better, each of them fell on either side by a fair coin, so

    p = min(1, 2 P[X <= min(gained, lost)]),  X ~ Binomial(gained + lost, 1/2)
    z = (gained - lost) / sqrt(gained + lost)

**pass@k.** Of n samples of a question c are right. The chance that k samples drawn among them without replacement hold
a right one is 1 - C(n - c, k) / C(n, k): the unbiased estimate, where 1 - (1 - c / n)^k is too low.

Source: McNemar 1947 (exact form); Chen et al. 2021 (Codex), section 2.1. Intervals of one accuracy are in
`cs336_basics/runs/intervals.py`. Read next: `evaluation/results.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same questions."""

    gained: int
    """questions only the second model has right"""
    lost: int
    """questions only the first has right"""
    z: float
    """standard deviations from equal; 0 where nothing differs"""
    p_value: float
    """two-sided and exact"""


def mcnemar(gained: int, lost: int) -> PairedComparison:
    """Compare two models by the questions on which they differ.

    Args:
        gained: questions that only the second has right.
        lost: questions that only the first has right.

    Raises:
        ValueError: a negative count.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"gained and lost count questions; got {gained} and {lost}")
    total = gained + lost
    if total == 0:
        return PairedComparison(0, 0, 0.0, 1.0)
    tail, choices = 0, 1  # exact: Python's whole numbers have no end
    for k in range(min(gained, lost) + 1):
        tail += choices
        choices = choices * (total - k) // (k + 1)
    return PairedComparison(gained, lost, (gained - lost) / math.sqrt(total), min(1.0, _ratio(2 * tail, total)))


def _ratio(count: int, exponent: int) -> float:
    """count / 2 ** exponent without overflow; 0 where that is below the smallest float."""
    shift = max(0, count.bit_length() - 64)
    return math.ldexp(float(count >> shift), shift - exponent)


def compare_paired(first: Sequence[bool], second: Sequence[bool]) -> PairedComparison:
    """`mcnemar` from the outcomes of both models, question by question.

    Raises:
        ValueError: different numbers of outcomes.
    """
    if len(first) != len(second):
        raise ValueError(f"paired outcomes must belong to the same questions; got {len(first)} and {len(second)}")
    pairs = list(zip(first, second, strict=True))
    return mcnemar(sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs))


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n samples hold at least one of the c right ones.

    Raises:
        ValueError: not 0 <= c <= n or not 1 <= k <= n.

    >>> round(pass_at_k(10, 3, 5), 4)
    0.9167
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n; got n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)
