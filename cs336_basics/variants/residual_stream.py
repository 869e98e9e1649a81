"""What happens to the residual stream between the blocks: scalars per layer, smear, backout.

    smear              x_t <- x_t + a sigmoid(W x_t[:24]) x_(t-1)         on the embeddings: a cheap bigram
    residual scalars   x <- r_l x + s_l x_0  before layer l               x_0 the (smeared) embeddings
    backout            x <- x - b x_middle  before the last norm          x_middle the stream behind the middle layer

a, b, r, s and W are learned. Smear remembers the last token's embedding when decoding. Source: modded-nanogpt
(2024-25), nanochat (2026). Chosen by the fields smear, residual_scalars and backout. Read next: `initialization.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cs336_basics.layers import Linear
from cs336_basics.model_config import ModelConfig
from cs336_basics.variants.shared_state import SharedState

GATE_CHANNELS = 24
"""channels of the embedding that the gate of smear sees"""


class LastEmbedding:
    """The embedding of the newest token so far, (batch, 1, d_model), before smearing; None at the start."""

    def __init__(self) -> None:
        self.value: Tensor | None = None


class ResidualStream(nn.Module):
    """Runs the layers of a model and changes the stream around them."""

    def __init__(self, config: ModelConfig, device: torch.device | str | None, dtype: torch.dtype | None):
        super().__init__()
        self.config = config
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        if config.residual_scalars:
            self.stream_scale = nn.Parameter(torch.ones(config.num_layers, **place))
            self.embedding_scale = nn.Parameter(torch.zeros(config.num_layers, **place))
        if config.smear:
            self.smear_gate = Linear(min(GATE_CHANNELS, config.d_model), 1, device, dtype)
            self.smear_scale = nn.Parameter(torch.zeros(1, **place))
        if config.backout:
            self.backout_scale = nn.Parameter(torch.full((1,), 0.2, **place))

    def forward(
        self, layers: nn.ModuleList, x: Tensor, token_ids: Tensor, positions: Tensor, cache: list[Any] | None
    ) -> Tensor:
        """The stream behind the last layer, from the embeddings `x`; `cache` is that of `TransformerLM.new_cache`."""
        shared, middle = SharedState(token_ids), len(layers) // 2
        if self.config.smear:
            x = self._smear(x, None if cache is None else cache[-1])
        embeddings = after_middle = x
        for index, layer in enumerate(layers):
            if self.config.residual_scalars:
                x = self.stream_scale[index] * x + self.embedding_scale[index] * embeddings
            reads = getattr(layer.attn, "reads_shared", False)
            x = layer(x, positions, None if cache is None else cache[index], shared if reads else None)
            if index == middle:
                after_middle = x
        return x - self.backout_scale * after_middle if self.config.backout else x

    def _smear(self, x: Tensor, memory: LastEmbedding | None) -> Tensor:
        """Add each token's predecessor; the first one of a sequence has none."""
        before = torch.zeros_like(x[..., :1, :]) if memory is None or memory.value is None else memory.value
        former = torch.cat((before, x[..., :-1, :]), dim=-2)
        if memory is not None:
            memory.value = x[..., -1:, :]
        gate = self.smear_scale * torch.sigmoid(self.smear_gate(x[..., :GATE_CHANNELS]))
        return x + gate * former

    def new_cache(self, batch: int, capacity: int) -> list[Any]:
        """The entry that decoding needs beside those of the layers, if any."""
        return [LastEmbedding()] if self.config.smear else []
