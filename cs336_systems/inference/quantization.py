"""Weights as int8 with a scale per row: a quarter of the bytes, half a step of error.

    scale_o = max_i |w_oi| / 127        q_oi = round(w_oi / scale_o)        |w_oi - scale_o q_oi| <= scale_o / 2

so a row's output moves by at most scale_o / 2 * sum_i |x_i|. Activations stay float32 ("weight-only"): decoding waits
for the bytes of the weights, not for arithmetic. `quantize_linears` rounds every Linear of any model for its modules;
the fused decoder packs the same numbers (`fused_model.py`).

Source: Dettmers et al. 2022 (2208.07339), section 2 (vector-wise scales; their outlier split is left out). Read next:
`int8_kernel.py`.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from cs336_basics.layers import Linear
from cs336_basics.model import TransformerLM

LARGEST = 127
"""largest magnitude of a quantized weight; -128 is not used, so that signs are symmetric"""


def quantize_rows(
    weight: Float[Tensor, "outputs inputs"],
) -> tuple[Int8[Tensor, "outputs inputs"], Float[Tensor, " outputs"]]:
    """Int8 weights and the scale of each row.

    Returns:
        q in [-127, 127] and scale >= 0 in float32; a row of zeros has scale 0.

    Raises:
        ValueError: a weight that is not finite, or not two axes.
    """
    if weight.dim() != 2:
        raise ValueError(f"a matrix (outputs, inputs) is needed; got shape {tuple(weight.shape)}")
    wide = weight.detach().float()
    if not torch.isfinite(wide).all():
        raise ValueError("weights must be finite to be rounded to int8; got NaN or infinity: training has diverged")
    scale = wide.abs().amax(dim=1) / LARGEST
    steps = wide / torch.where(scale > 0, scale, 1.0)[:, None]
    return steps.round().clamp(-LARGEST, LARGEST).to(torch.int8), scale


def dequantize_rows(
    quantized: Int8[Tensor, "outputs inputs"], scale: Float[Tensor, " outputs"]
) -> Float[Tensor, "outputs inputs"]:
    """The weights that int8 stands for, in float32."""
    return quantized.float() * scale[:, None]


class Int8Linear(nn.Module):
    """A Linear whose weights are int8; the product is the readable one, over the widened matrix."""

    quantized: Tensor
    scale: Tensor

    def __init__(self, linear: Linear):
        super().__init__()
        quantized, scale = quantize_rows(linear.weight)
        self.dtype, self.bias = linear.weight.dtype, linear.bias
        self.register_buffer("quantized", quantized)
        self.register_buffer("scale", scale)

    @property
    def weight(self) -> Tensor:
        """The matrix in the dtype of the model."""
        return dequantize_rows(self.quantized, self.scale).to(self.dtype)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """Multiply the last axis."""
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


def quantize_linears(model: TransformerLM) -> TransformerLM:
    """A copy of any model with every Linear rounded to int8; the embedding table stays.

    Saves memory for every variant; it is faster than float32 only through the fused decoder.
    """
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Linear):
                setattr(module, name, Int8Linear(child))
    return model
