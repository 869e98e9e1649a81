"""Other places for the norms of a block: around each sublayer, or one for two sublayers side by side.

    sandwich   x = x + norm(attn(norm(x)));  x = x + norm(ffn(norm(x)))      (Ding et al. 2021, 2105.13290; Gemma 2)
    parallel   x = x + attn(norm(x)) + ffn(norm(x))                          (Wang & Komatsuzaki 2021; PaLM 2204.02311)

The parallel block shares one norm, and neither sublayer waits for the other. Pre, post and none stand in `model.py`.
Handout 2024: the parallel layers of the ablations. Read next: `configurable_attention.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cs336_basics.layers import RotaryPositionalEmbedding
from cs336_basics.model import TransformerBlock, make_norm
from cs336_basics.model_config import ModelConfig

Device = torch.device | str | None


class SandwichBlock(TransformerBlock):
    """A norm before and a norm after each sublayer; `ln1_out` and `ln2_out` stand after."""

    def __init__(
        self,
        config: ModelConfig,
        positional_encoder: RotaryPositionalEmbedding | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        layer: int = 0,
    ):
        super().__init__(config, positional_encoder, device, dtype, layer=layer)
        self.ln1_out = make_norm(config, config.d_model, device, dtype)
        self.ln2_out = make_norm(config, config.d_model, device, dtype)

    def forward(
        self, x: Tensor, token_positions: Tensor | None = None, cache: Any = None, shared: Any = None
    ) -> Tensor:
        """Return the residual stream after this block."""
        extra = () if shared is None else (shared,)
        x = x + self.drop(self.ln1_out(self.attn(self.ln1(x), token_positions, cache, *extra)))
        return x + self.drop(self.ln2_out(self.ffn(self.ln2(x))))


class ParallelBlock(TransformerBlock):
    """Attention and feed-forward read the same normalised stream."""

    def __init__(
        self,
        config: ModelConfig,
        positional_encoder: RotaryPositionalEmbedding | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        layer: int = 0,
    ):
        super().__init__(config, positional_encoder, device, dtype, layer=layer)
        self.ln2 = nn.Identity()

    def forward(
        self, x: Tensor, token_positions: Tensor | None = None, cache: Any = None, shared: Any = None
    ) -> Tensor:
        """Return the residual stream after this block."""
        extra = () if shared is None else (shared,)
        y = self.ln1(x)
        return x + self.drop(self.attn(y, token_positions, cache, *extra)) + self.drop(self.ffn(y))


BLOCKS: dict[str, type[TransformerBlock]] = {"sandwich": SandwichBlock, "parallel": ParallelBlock}
"""block by the name of ModelConfig.norm"""
