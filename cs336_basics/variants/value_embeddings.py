"""Value embeddings: a second vector per token id, added to the values of attention.

    v_t <- v_t + 3 sigmoid(W x_t[:12])_h e(id_t)_h           for each head h of keys and values

A table of its own in every other layer, the last included, gives the model weights that cost no matrix product; the
gate looks at the first 12 channels of the layer's input (all of a narrower one). Source: modded-nanogpt (2024),
nanochat (2026). Chosen by value_embeddings. Read next: `value_residual.py`.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from cs336_basics.layers import Embedding, Linear
from cs336_basics.model_config import ModelConfig

GATE_CHANNELS = 12
"""channels of the layer's input that the gate sees"""


def has_value_embedding(config: ModelConfig, layer: int) -> bool:
    """Whether the layer's attention has a table: every other layer, the last included."""
    return config.value_embeddings and (config.num_layers - 1 - layer) % 2 == 0


class ValueEmbedding(nn.Module):
    """One layer's table and gate."""

    def __init__(self, config: ModelConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None):
        super().__init__()
        self.kv_heads = config.kv_heads
        self.table = Embedding(config.vocab_size, config.kv_heads * config.d_head, device, dtype)
        self.gate = Linear(min(GATE_CHANNELS, config.d_model), config.kv_heads, device, dtype)

    def forward(
        self, x: Float[Tensor, "... seq d_model"], token_ids: Int[Tensor, "... seq"]
    ) -> Float[Tensor, "... kv_heads seq d_v"]:
        """What to add to the values."""
        gate = 3 * torch.sigmoid(self.gate(x[..., :GATE_CHANNELS]))
        values = rearrange(self.table(token_ids), "... seq (heads d) -> ... heads seq d", heads=self.kv_heads)
        return rearrange(gate, "... seq heads -> ... heads seq 1") * values
