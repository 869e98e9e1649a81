"""Attention with linear biases: no positions anywhere, but far keys score lower.

    score(i, j) = q_i k_j / sqrt(d) - slope_h (i - j)        slope_h = 2^(-8 h / heads), h = 1..heads

for a power of two of heads; otherwise the slopes of the next smaller power of two, followed by every second one of the
next larger, as in the authors' code. Press et al. 2021 (2108.12409). Chosen by positions="alibi"; the scores are
computed in `score_rules.py`. Read next: `score_rules.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def alibi_slopes(num_heads: int, device: torch.device | str | None = None) -> Float[Tensor, " heads"]:
    """One positive slope per head, float32."""
    power = 1 << (num_heads.bit_length() - 1)
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    finer = [2 ** (-8 * h / (2 * power)) for h in range(1, 2 * power + 1)]
    slopes += finer[::2][: num_heads - power]
    return torch.tensor(slopes, device=device, dtype=torch.float32)
