"""Attention without a mask: every token sees every other. Registered as attention="bidirectional" of a ModelConfig.

A model built with it is an encoder: `masked_lm.py` and `masked_diffusion.py` fill gaps with it. It cannot generate from
left to right, and a cross-entropy against the next token would only teach it to look one place ahead.
"""

from __future__ import annotations

from torch import Tensor

from cs336_basics.model import ATTENTION_FUNCTIONS, scaled_dot_product_attention


def bidirectional_attention(Q: Tensor, K: Tensor, V: Tensor, pdrop: float = 0.0) -> Tensor:
    """softmax(Q K^T / sqrt(d_k)) V over all keys."""
    return scaled_dot_product_attention(Q, K, V, None, pdrop)


ATTENTION_FUNCTIONS["bidirectional"] = bidirectional_attention
