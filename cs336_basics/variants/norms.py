"""Other norms: LayerNorm, and RMSNorm without weights.

    LayerNorm(x) = (x - mean x) / sqrt(var x + eps) * g + b          (Ba et al. 2016, 1607.06450)
    RMSNorm without gain: x / sqrt(mean(x^2) + eps)                  (nanochat)

Both compute in float32 inside. Chosen by norm_type="layernorm" and norm_gain=False. Read next: `block_layouts.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cs336_basics import nn_utils


class LayerNorm(nn.Module):
    """Mean 0 and variance 1 over the last axis, then a learned gain and shift per coordinate."""

    def __init__(
        self,
        d_model: int,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(d_model, device=device, dtype=dtype))

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Normalise the last axis."""
        wide = nn_utils.upcast(x)
        centred = wide - wide.mean(dim=-1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + self.eps)
        return (centred * scale * self.weight + self.bias).to(x.dtype)


class RMSNormWithoutGain(nn.Module):
    """x / sqrt(mean(x^2) + eps) over the last axis."""

    def __init__(self, eps: float = 1e-5):
        super().__init__()
        self.eps = eps

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Normalise the last axis."""
        wide = nn_utils.upcast(x)
        return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)).to(x.dtype)
