"""Value residual: later layers attend over a mixture of their own values and those of the first layer.

    V'_n = (1 - lambda_n) V_n + lambda_n V_1;      U_n = softmax(Q_n K_n^T / sqrt(d)) V'_n          for n = 2, 3, ...

Deep in the stack the hidden states have drifted far from the tokens; V_1 gives each later layer a direct view of them,
and gradients a direct way back. Source: Zhou et al. 2024 (2410.17897), ResFormer. Of the paper's forms this is the one
with one learned number per layer, its two weights tied to sum to one; it starts at lambda = 1/2, the paper's fixed
("identity") form. Left out: untied weights, one lambda per head, values kept from several layers, SVFormer (all layers
share V_1, which is lambda = 1).

Values are mixed before they enter the key-value cache: the cache then holds V'_n, and decoding needs V_1 of the new
tokens only. Read next: `state_space.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def mix_values(
    values: Float[Tensor, "..."], first_values: Float[Tensor, "..."], lam: Float[Tensor, ""] | float
) -> Float[Tensor, "..."]:
    """(1 - lam) values + lam first_values, in the dtype of `values`.

    Args:
        values: this layer's values, such as (batch, heads, seq, d_v).
        first_values: the first layer's values of the same tokens, same shape.
        lam: weight of the first layer; any real number, 0 is plain attention.

    Raises:
        ValueError: the shapes differ (they would otherwise broadcast).
    """
    if values.shape != first_values.shape:
        raise ValueError(
            f"value residual needs the first layer's values of the same tokens and heads, shape {tuple(values.shape)}; "
            f"got {tuple(first_values.shape)}; give all layers the same num_heads and head width"
        )
    return ((1.0 - lam) * values + lam * first_values).to(values.dtype)


class ValueResidual(nn.Module):
    """One later layer's lambda and the mixing with it.

    The first layer has none: it leaves its values where the others find them, and each later layer's attention replaces
    its values by `self.value_residual(values, first_values)` before it caches or attends.

    Args:
        initial: lambda to start from.
    """

    def __init__(
        self, initial: float = 0.5, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ):
        super().__init__()
        self.lam = nn.Parameter(torch.tensor(initial, device=device, dtype=dtype))

    def forward(self, values: Float[Tensor, "..."], first_values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the values to attend over; see `mix_values`."""
        return mix_values(values, first_values, self.lam)
