"""Attention put together from the config: shared keys and values, biases, normalised queries and keys, score rules.

    grouped queries   num_heads queries share num_kv_heads keys and values   (Ainslie et al. 2023, 2305.13245;
                      one head: multi-query attention, Shazeer 2019, 1911.02150)
    QKV bias          q = W x + b, likewise k and v                          (Qwen2.5, 2412.15115)
    QK-norm           q and k normalised over their head before the rotation (Henry et al. 2020, 2010.04245; Qwen3)
    score rules       window, soft cap, ALiBi, sinks                         `score_rules.py`
    values            value residual, value embeddings                       `value_residual.py`, `value_embeddings.py`

All of these combine. When no rule changes the scores, the heads are computed by ATTENTION_FUNCTIONS[config.attention]
as in the plain model (ALiBi too, in float32, as a coordinate of the keys, when the name is not "plain"); layers with
other rules have their own computation whatever the name. Weights have the plain model's
names. Read next: `latent_attention.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from cs336_basics import model
from cs336_basics.kv_cache import KVCache, LayerCache, WindowCache
from cs336_basics.layers import Linear, RotaryPositionalEmbedding
from cs336_basics.model_config import ModelConfig
from cs336_basics.variants.alibi import alibi_slopes, with_bias_coordinate
from cs336_basics.variants.score_rules import ScoreRules, attention_by_rules
from cs336_basics.variants.shared_state import SharedState
from cs336_basics.variants.value_embeddings import ValueEmbedding, has_value_embedding


class ConfigurableAttention(nn.Module):
    """Causal self-attention with every choice that `ModelConfig` offers but the latent one."""

    slopes: Tensor | None

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        positional_encoder: RotaryPositionalEmbedding | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        model.check_attention_name(config.attention)
        self.config, self.positional_encoder = config, positional_encoder
        self.window = config.attention_window if config.layer_mixers[layer] == "window" else None
        width, kv_width = config.num_heads * config.d_head, config.kv_heads * config.d_head
        self.q_proj = Linear(config.d_model, width, device, dtype, bias=config.qkv_bias)
        self.k_proj = Linear(config.d_model, kv_width, device, dtype, bias=config.qkv_bias)
        self.v_proj = Linear(config.d_model, kv_width, device, dtype, bias=config.qkv_bias)
        self.output_proj = Linear(width, config.d_model, device, dtype)
        normed = config.qk_norm
        self.q_norm = model.make_norm(config, config.d_head, device, dtype) if normed else nn.Identity()
        self.k_norm = model.make_norm(config, config.d_head, device, dtype) if normed else nn.Identity()
        alibi = config.positions == "alibi"
        self.register_buffer("slopes", alibi_slopes(config.num_heads, device) if alibi else None, persistent=False)
        has_sinks = config.attention_sinks
        self.sinks = nn.Parameter(torch.zeros(config.num_heads, device=device, dtype=dtype)) if has_sinks else None
        self.value_embedding = self.value_residual = None
        if has_value_embedding(config, layer):
            self.value_embedding = ValueEmbedding(config, device, dtype)
        if config.value_residual and any(mixer in ("attention", "window") for mixer in config.layer_mixers[:layer]):
            from cs336_basics.variants.value_residual import ValueResidual

            self.value_residual = ValueResidual(device=device, dtype=dtype)
        self.reads_shared = config.value_residual or config.value_embeddings

    def forward(
        self,
        x: Float[Tensor, "... seq d_model"],
        token_positions: Int[Tensor, "... seq"] | None = None,
        cache: LayerCache | None = None,
        shared: SharedState | None = None,
    ) -> Float[Tensor, "... seq d_model"]:
        """Attend within `x` (and to the cache's earlier tokens); positions default to 0..seq-1.

        Raises:
            ValueError: the config mixes values between layers, but `shared` is not given.
        """
        d_head = self.config.d_head
        q = rearrange(self.q_proj(x), "... seq (heads d) -> ... heads seq d", d=d_head)
        k = rearrange(self.k_proj(x), "... seq (heads d) -> ... heads seq d", d=d_head)
        v = rearrange(self.v_proj(x), "... seq (heads d) -> ... heads seq d", d=d_head)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.positional_encoder is not None:
            if token_positions is None:
                token_positions = torch.arange(x.shape[-2], device=x.device)
            q, k = self.positional_encoder(q, token_positions), self.positional_encoder(k, token_positions)
        if self.config.attention_scale != 1.0:
            q = q * self.config.attention_scale
        if self.reads_shared:
            v = self._mixed_values(v, x, shared)
        if cache is not None:
            k, v = cache.append(k, v)
        heads = self._attend(q, k, v, self.config.attn_pdrop if self.training else 0.0)
        return self.output_proj(rearrange(heads, "... heads seq d -> ... seq (heads d)"))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, pdrop: float) -> Tensor:
        rules = ScoreRules(self.window, self.config.attention_softcap, self.slopes, self.sinks)
        only_slopes = rules == ScoreRules(slopes=self.slopes) and k.shape[-3] == q.shape[-3]
        if self.slopes is not None and only_slopes and self.config.attention != "plain" and q.dtype == torch.float32:
            q, k = with_bias_coordinate(q, k, self.slopes)
        elif rules != ScoreRules():
            return attention_by_rules(q, k, v, rules, pdrop)
        group = q.shape[-3] // k.shape[-3]
        if group > 1 and q.shape[-2] == 1:  # decoding: the queries of a group are rows of one product, no key is copied
            rows = rearrange(q, "... (kv group) 1 d -> ... kv group d", group=group)
            heads = model.scaled_dot_product_attention(rows, k, v, None, pdrop)
            return rearrange(heads, "... kv group d -> ... (kv group) 1 d")
        if group > 1:
            k, v = k.repeat_interleave(group, dim=-3), v.repeat_interleave(group, dim=-3)
        return model.ATTENTION_FUNCTIONS[self.config.attention](q, k, v, pdrop)

    def _mixed_values(self, v: Tensor, x: Tensor, shared: SharedState | None) -> Tensor:
        """Values with the token's own embedding and the first layer's values mixed in."""
        if shared is None:
            raise ValueError("this attention mixes values between layers and needs `shared`; call the whole model")
        if self.value_embedding is not None:
            v = v + self.value_embedding(x, shared.token_ids)
        if self.value_residual is not None:
            return self.value_residual(v, shared.first_values)
        if shared.first_values is None:
            shared.first_values = v
        return v

    def new_cache(self, batch: int, capacity: int) -> Any:
        """An empty cache for `capacity` tokens; a windowed layer keeps the last window - 1 only."""
        return KVCache(capacity) if self.window is None or self.window >= capacity else WindowCache(self.window)
