"""Other feed-forward networks: gates with GELU and ReLU, and squared ReLU.

    GEGLU      W2 (GELU(W1 x) * W3 x)        ReGLU   W2 (ReLU(W1 x) * W3 x)        (Shazeer 2020, 2002.05202)
    ReLU^2     W2 max(W1 x, 0)^2             (So et al. 2021, Primer, 2109.08668; nanochat)

Chosen by ffn="geglu", "reglu", "relu2". Left out: sigmoid and bilinear gates. Read next: `norms.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cs336_basics import nn_utils
from cs336_basics.layers import Linear


def squared_relu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """max(x, 0)^2, element by element."""
    return nn_utils.relu(x).square()


class GatedFeedForward(nn.Module):
    """W2 (gate(W1 x) * W3 x), the form of SwiGLU with another gate."""

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        gate: Callable[[Tensor], Tensor],
    ):
        super().__init__()
        self.gate = gate
        self.w1 = Linear(d_model, d_ff, device, dtype)
        self.w2 = Linear(d_ff, d_model, device, dtype)
        self.w3 = Linear(d_model, d_ff, device, dtype)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Apply to each position alone."""
        return self.w2(self.gate(self.w1(x)) * self.w3(x))
