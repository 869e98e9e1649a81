"""Short convolution: each channel sees a few of its own latest values; a part of Mamba and Hyena blocks.

    y_t = bias + sum_{k=0}^{width-1} w_k * x_{t - width + 1 + k}      (causal: nothing after t; zeros before the start)

"Depthwise": one filter per channel, channels do not mix. A cache of the last width - 1 inputs continues the sequence.
Read next: `state_space.py`, `long_convolution.py`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """Causal depthwise convolution over time; weights and bias start uniform within 1/sqrt(width).

    Raises:
        ValueError: width below 1.
    """

    def __init__(
        self, channels: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ):
        super().__init__()
        if width < 1:
            raise ValueError(f"a convolution needs a width d_conv of at least 1; got {width}")
        bound = 1 / math.sqrt(width)
        weight = torch.empty(channels, width, device=device, dtype=dtype)
        bias = torch.empty(channels, device=device, dtype=dtype)
        self.weight = nn.Parameter(nn.init.uniform_(weight, -bound, bound))
        self.bias = nn.Parameter(nn.init.uniform_(bias, -bound, bound))

    def new_tail(self, batch: int) -> Float[Tensor, "batch width_less_1 channels"]:
        """The inputs before the start: zeros."""
        channels, width = self.weight.shape
        return self.weight.new_zeros(batch, width - 1, channels)

    def forward(
        self, x: Float[Tensor, "batch seq channels"], tail: Float[Tensor, "batch width_less_1 channels"]
    ) -> tuple[Float[Tensor, "batch seq channels"], Float[Tensor, "batch width_less_1 channels"]]:
        """Return the output and the tail to continue with: the last width - 1 inputs."""
        seq, padded = x.shape[1], torch.cat((tail.to(x.dtype), x), dim=1)
        y = self.bias + sum(padded[:, k : k + seq] * w for k, w in enumerate(self.weight.unbind(dim=1)))
        return y, padded[:, seq:]
