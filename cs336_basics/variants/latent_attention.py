"""Multi-head latent attention: all heads' keys and values from one small vector per token, which alone is cached.

    c = norm(W_down x)   (kv_rank)        k_h = [U_h c ; rope(W_r x)]     v_h = V_h c
    q_h = [content ; rope(rotary part)], from x directly or from a latent norm(W_q x) of its own
    weights = softmax(q_h k_h / sqrt(content_dim + rope_dim))

The rotary part of the key is shared by all heads and stands apart, because a rotation between U_h and c would forbid
the trick of decoding: (U_h c) q = c (U_h^T q), so a new token's query is carried into the latent space and attends to
the cached latents themselves, and V_h is applied once, to the weighted sum. The cache holds kv_rank + rope_dim numbers
per token and layer instead of 2 num_heads d_head.

DeepSeek-AI 2024 (DeepSeek-V2, 2405.04434), section 2.1. Left out: YaRN's correction of the softmax scale. Read next:
`value_embeddings.py`.
"""

from __future__ import annotations

import math

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from cs336_basics import model
from cs336_basics.kv_cache import KVCache, LayerCache
from cs336_basics.layers import Linear, RotaryPositionalEmbedding
from cs336_basics.model_config import ModelConfig


class LatentAttention(nn.Module):
    """Causal self-attention through a latent; `config.latent_attention` holds its widths."""

    def __init__(
        self,
        config: ModelConfig,
        positional_encoder: RotaryPositionalEmbedding | None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        assert config.latent_attention is not None and positional_encoder is not None  # checked by ModelConfig
        model.check_attention_name(config.attention)
        self.config, self.sizes, self.positional_encoder = config, config.latent_attention, positional_encoder
        sizes, heads, d_model = self.sizes, config.num_heads, config.d_model
        query_width = heads * (sizes.content_dim + sizes.rope_dim)
        if sizes.q_rank is not None:
            self.q_down = Linear(d_model, sizes.q_rank, device, dtype)
            self.q_norm = model.make_norm(config, sizes.q_rank, device, dtype)
        self.q_proj = Linear(sizes.q_rank or d_model, query_width, device, dtype)
        self.kv_down = Linear(d_model, sizes.kv_rank + sizes.rope_dim, device, dtype)
        self.kv_norm = model.make_norm(config, sizes.kv_rank, device, dtype)
        self.kv_up = Linear(sizes.kv_rank, heads * (sizes.content_dim + sizes.value_dim), device, dtype)
        self.output_proj = Linear(heads * sizes.value_dim, d_model, device, dtype)

    def forward(
        self,
        x: Float[Tensor, "... seq d_model"],
        token_positions: Int[Tensor, "... seq"] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "... seq d_model"]:
        """Attend within `x` (and to the cache's earlier tokens); positions default to 0..seq-1."""
        if token_positions is None:
            token_positions = torch.arange(x.shape[-2], device=x.device)
        sizes = self.sizes
        query = self.q_proj(x if sizes.q_rank is None else self.q_norm(self.q_down(x)))
        query = rearrange(query, "... seq (heads d) -> ... heads seq d", heads=self.config.num_heads)
        q_content, q_rope = query.split((sizes.content_dim, sizes.rope_dim), dim=-1)
        latent, k_rope = self.kv_down(x).split((sizes.kv_rank, sizes.rope_dim), dim=-1)
        latent, k_rope = self.kv_norm(latent).unsqueeze(-3), k_rope.unsqueeze(-3)  # one head
        q_rope, k_rope = (self.positional_encoder(part, token_positions) for part in (q_rope, k_rope))
        if cache is not None:
            latent, k_rope = cache.append(latent, k_rope)
        pdrop = self.config.attn_pdrop if self.training else 0.0
        attend = self._absorbed if cache is not None and x.shape[-2] == 1 else self._expanded
        heads = attend(q_content, q_rope, latent, k_rope, pdrop)
        return self.output_proj(rearrange(heads, "... heads seq d -> ... seq (heads d)"))

    def _expanded(self, q_content: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, pdrop: float) -> Tensor:
        """Keys and values of every head are written out: the form for many queries."""
        heads = self.config.num_heads
        pairs = rearrange(self.kv_up(latent), "... 1 seq (heads d) -> ... heads seq d", heads=heads)
        k_content, v = pairs.split((self.sizes.content_dim, self.sizes.value_dim), dim=-1)
        k = torch.cat((k_content, k_rope.expand(*k_content.shape[:-1], -1)), dim=-1)
        q = torch.cat((q_content, q_rope), dim=-1)
        return model.ATTENTION_FUNCTIONS[self.config.attention](q, k, v, pdrop)

    def _absorbed(self, q_content: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, pdrop: float) -> Tensor:
        """One query per head, carried into the latent space: the heads are rows that share one key head."""
        sizes = self.sizes
        up = rearrange(self.kv_up.weight, "(heads d) rank -> heads d rank", heads=self.config.num_heads)
        up_keys, up_values = up.split((sizes.content_dim, sizes.value_dim), dim=1)
        carried = einsum(q_content, up_keys, "... heads one d, heads d rank -> ... one heads rank")
        q = torch.cat((carried, q_rope.transpose(-3, -2)), dim=-1)
        width = sizes.content_dim + sizes.rope_dim
        q = q * math.sqrt(q.shape[-1] / width)  # attention divides by the root of the carried width
        read = model.scaled_dot_product_attention(q, torch.cat((latent, k_rope), dim=-1), latent, None, pdrop)
        return einsum(read, up_values, "... one heads rank, heads d rank -> ... heads one d")

    def new_cache(self, batch: int, capacity: int) -> LayerCache:
        """An empty cache for the latents (as keys) and rotary keys (as values) of `capacity` tokens."""
        return KVCache(capacity)
