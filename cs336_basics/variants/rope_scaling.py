"""Rotary positions that turn other pairs, and rotary positions stretched to a longer context.

    pairs       interleaved (x_2k, x_2k+1), or halves (x_k, x_k+d/2) as in GPT-NeoX and all checkpoints of transformers
    linear      every frequency / factor: position m becomes m / factor       (Chen et al. 2023, 2306.15595)
    YaRN        a pair that turns beta_fast times or more within the original context keeps its frequency, one that
                turns at most beta_slow times is divided by factor, between them a linear ramp over the pairs; queries
                and keys are both multiplied by 0.1 ln(factor) + 1            (Peng et al. 2023, 2309.00071)

The paper's ramp is linear in the number of turns; the authors' code, every released model and this file have it linear
in the pair's index. Left out: NTK-aware bases, Llama 3's ramp, factors that follow the length of the input. Read
next: `alibi.py`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cs336_basics import nn_utils
from cs336_basics.layers import RotaryPositionalEmbedding
from cs336_basics.model_config import RopePairs
from cs336_basics.variants.configs import RopeScaling


def scaled_frequencies(
    theta: float, d_k: int, scaling: RopeScaling | None, device: torch.device | str | None = None
) -> Float[Tensor, " pairs"]:
    """Angle per position of each of the d_k / 2 pairs, float64."""
    frequency = theta ** (-torch.arange(0, d_k, 2, device=device, dtype=torch.float64) / d_k)
    if scaling is None:
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling.factor

    def pair_that_turns(times: float) -> float:
        """Index k with original_context_length * theta^(-2k/d_k) = 2 pi times."""
        return d_k * math.log(scaling.original_context_length / (times * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(scaling.beta_slow)), d_k - 1)
    pair = torch.arange(d_k // 2, device=device, dtype=torch.float64)
    stretched = ((pair - low) / max(high - low, 0.001)).clamp(0, 1)
    return frequency * (1 - stretched) + frequency / scaling.factor * stretched


def attention_factor(scaling: RopeScaling | None) -> float:
    """What queries and keys are multiplied by."""
    if scaling is None:
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0 if scaling.kind == "yarn" else 1.0


class ScaledRotaryPositionalEmbedding(RotaryPositionalEmbedding):
    """Rotary positions with a choice of pairs and of `RopeScaling`."""

    def __init__(
        self,
        theta: float,
        d_k: int,
        max_seq_len: int,
        device: torch.device | str | None = None,
        *,
        pairs: RopePairs = "interleaved",
        scaling: RopeScaling | None = None,
    ):
        super().__init__(theta, d_k, 1, device)
        self.pairs = pairs
        self._tabulate(scaled_frequencies(theta, d_k, scaling, device), max_seq_len)
        factor = attention_factor(scaling)
        if factor != 1.0:
            self.cos *= factor
            self.sin *= factor

    def forward(self, x: Float[Tensor, "... seq d_k"], token_positions: Int[Tensor, "... seq"]) -> Tensor:
        """Rotate `x` (..., seq, d_k) by `token_positions` (..., seq), broadcast over missing axes such as heads."""
        if self.pairs == "interleaved":
            return super().forward(x, token_positions)
        cos, sin = self.cos[token_positions].float(), self.sin[token_positions].float()
        if 2 < cos.dim() < x.dim():  # positions (batch, seq) against x (batch, heads, seq, d_k)
            cos, sin = cos.unsqueeze(-3), sin.unsqueeze(-3)
        a, b = nn_utils.upcast(x).chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)
