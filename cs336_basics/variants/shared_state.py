"""What the layers of one forward pass tell each other beside the residual stream.

Value residual (Zhou et al. 2024, 2410.17897) mixes the first layer's values into those of every later layer; value
embeddings (modded-nanogpt, nanochat) look a second vector up for each token id. Both need more than a layer's input,
so the model hands one of these objects, new for every forward pass, to all layers. It holds the present tokens only:
what is cached of earlier ones is already mixed.

Read next: `configurable_attention.py`, which reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class SharedState:
    """Made at the start of a forward pass, dropped at its end."""

    token_ids: Tensor
    """ids of this pass, (..., seq)"""
    first_values: Tensor | None = None
    """values (..., kv_heads, seq, d_v) of the first attention layer, before any mixing; set by that layer"""
