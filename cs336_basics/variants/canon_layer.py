"""Canon layer: a short causal convolution, so that every position sees its last few neighbours before attention.

    y_t = x_t + w_1 * x_{t-1} + ... + w_{n-1} * x_{t-n+1}          (* per channel; w = 0 at first, so it begins plain)

"Mia was in the garden" binds a name to a place four tokens on. Attention must spend a layer of heads on finding the
neighbour at a fixed distance before another layer can look up what belongs together; here that first step costs n
multiplications per channel, and the tour's model learns to bind from far fewer tokens.

Source: So et al. 2021 (Primer, 2109.08668: three wide, behind the projections); Fu et al. 2022 (H3, 2212.14052: the
shift); Allen-Zhu 2025 (Canon layers, position A). Chosen by `canon_width`. Read next: `state_space.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _AddNeighbours(torch.autograd.Function):
    """The sum above in place, tap by tap; autograd's own form would keep a padded copy per tap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = x.clone()
        for distance in range(1, min(len(weight), x.shape[-2] - 1) + 1):
            y[..., distance:, :].addcmul_(x[..., :-distance, :], weight[distance - 1])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (d_y,) = grads
        x, weight = ctx.saved_tensors
        d_x, d_weight = d_y.clone(), torch.zeros_like(weight)
        for distance in range(1, min(len(weight), x.shape[-2] - 1) + 1):
            later, earlier = d_y[..., distance:, :], x[..., :-distance, :]
            d_x[..., :-distance, :].addcmul_(later, weight[distance - 1])
            d_weight[distance - 1] = (later * earlier).flatten(0, -2).sum(dim=0)
        return d_x, d_weight


class CanonLayer(nn.Module):
    """Each channel plus its weighted last `width` - 1 values; `weight` (width - 1, d_model) begins at zero."""

    def __init__(
        self, d_model: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width - 1, d_model, device=device, dtype=dtype))

    def forward(
        self, x: Float[Tensor, "... seq d_model"], before: Float[Tensor, "... earlier d_model"] | None = None
    ) -> Float[Tensor, "... seq d_model"]:
        """Convolve `x`, which continues the inputs `before` (zeros by default)."""
        weight = self.weight.to(x.dtype)
        if before is None:
            return _AddNeighbours.apply(x, weight)
        return _AddNeighbours.apply(torch.cat((before, x), dim=-2), weight)[..., before.shape[-2] :, :]


class CanonCache:
    """The inputs that the next position's convolution reaches, and the cache of the mixer behind it."""

    def __init__(self, mixer: Any) -> None:
        self.mixer = mixer
        self.inputs: Tensor | None = None


class MixerBehindCanon(nn.Module):
    """A Canon layer, then another mixer such as attention."""

    def __init__(self, mixer: nn.Module, canon: CanonLayer):
        super().__init__()
        self.canon, self.mixer = canon, mixer

    def forward(self, x: Tensor, token_positions: Tensor | None = None, cache: Any = None, *shared: Any) -> Tensor:
        """As the mixer's own; with a cache, `x` continues what it has seen."""
        if cache is None:
            return self.mixer(self.canon(x), token_positions, None, *shared)
        mixed = self.mixer(self.canon(x, cache.inputs), token_positions, cache.mixer, *shared)
        seen = x if cache.inputs is None else torch.cat((cache.inputs, x), dim=-2)
        reach = len(self.canon.weight)
        cache.inputs = seen[..., max(0, seen.shape[-2] - reach) :, :]
        return mixed

    def new_cache(self, batch: int, capacity: int) -> CanonCache:
        """An empty cache."""
        new_cache: Any = self.mixer.new_cache
        return CanonCache(new_cache(batch, capacity))

    @property
    def auxiliary_loss(self) -> Tensor | None:
        """The mixer's, if it has one."""
        return getattr(self.mixer, "auxiliary_loss", None)
