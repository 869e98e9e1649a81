"""Attention with linear biases: no positions anywhere, but far keys score lower.

    score(i, j) = q_i k_j / sqrt(d) - slope_h (i - j)        slope_h = 2^(-8 h / heads), h = 1..heads

for a power of two of heads; otherwise the slopes of the next smaller power of two, followed by every second one of the
next larger, as in the authors' code. Press et al. 2021 (2108.12409). Chosen by positions="alibi"; the scores are
computed in `score_rules.py`. Softmax ignores what all keys of a query share, here -slope_h i; what is left, slope_h j,
is one more coordinate of the key (`with_bias_coordinate`), so that any attention kernel can do it. Read next:
`score_rules.py`.
"""

from __future__ import annotations

import math

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


def with_bias_coordinate(
    Q: Float[Tensor, "... heads queries d_k"], K: Float[Tensor, "... heads keys d_k"], slopes: Float[Tensor, " heads"]
) -> tuple[Float[Tensor, "... heads queries d_k_1"], Float[Tensor, "... heads keys d_k_1"]]:
    """Queries and keys one coordinate wider: their scores over sqrt(d_k + 1) are ALiBi's, but for a constant per query.

    Numerics: the coordinate counts from the last key, -slope * (keys - 1 - j), and is exact in float32 for any context
    in use; in bfloat16 distances beyond 256 tokens would be rounded.
    """
    d_k, keys = Q.shape[-1], K.shape[-2]
    distance = torch.arange(1 - keys, 1, device=K.device, dtype=K.dtype)
    bias = (slopes.to(K.dtype)[:, None] * distance)[..., None].expand(*K.shape[:-1], 1)
    one = Q.new_full((*Q.shape[:-1], 1), math.sqrt(d_k + 1))
    return torch.cat((Q * math.sqrt((d_k + 1) / d_k), one), dim=-1), torch.cat((K, bias), dim=-1)
