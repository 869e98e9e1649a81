"""Entrypoint of the attention board: plain causal attention, the reference that entries are timed against.

    attention(q, k, v) -> o         (heads, tokens, d) float32 tensors with gradients; causal; scale 1/sqrt(d)

The harness calls torch.autograd.grad on the result. Beat it by blocks, by recomputing less, by a backward pass of
your own, by threads of your own making: anything that gives the same numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cs336_basics.model import scaled_dot_product_attention


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention as assignment 1 has it."""
    visible = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).tril()
    return scaled_dot_product_attention(q, k, v, visible)
