"""The Transformer language model: token ids in, logits for the next token out.

    h = embed(ids)                                   (batch, seq, d_model)
    for each block:   h = h + attn(norm(h));  h = h + ffn(norm(h))
    logits = head(norm(h))                           (batch, seq, vocab)

Pre-norm blocks with RMSNorm, rotary positions and SwiGLU by default, as in LLaMA (Touvron et al. 2023); `ModelConfig`
also offers the 2024 edition's choices (GELU, learned positions, dropout, tied embeddings) and the handout's ablations
(post-norm, no norm, no positions). Weights have the names of the course's checkpoints.

The parts are built by the `make_` functions at the end; what a config asks for beyond the above comes from
`variants/build.py`, which a plain model never imports.

Handout: scaled_dot_product_attention, multihead_self_attention, transformer_block, transformer_lm. Left out: the
layers underneath (`layers.py`), everything in `variants/`. Read next: `optimizer.py`.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cs336_basics import nn_utils
from cs336_basics.checkpoint import check_weights, load_state
from cs336_basics.kv_cache import KVCache, LayerCache
from cs336_basics.layers import (
    Embedding,
    FeedForward,
    Linear,
    RMSNorm,
    RotaryPositionalEmbedding,
    SwiGLU,
    dropout,
    rms_norm,
    sinusoidal_positions,
)
from cs336_basics.model_config import ModelConfig, check_heads
from cs336_basics.runs.config import config_from_dict

__all__ = [
    "ATTENTION_FUNCTIONS", "CausalMultiHeadSelfAttention", "Embedding", "FeedForward", "LayerCache", "Linear",
    "ModelConfig", "RMSNorm", "RotaryPositionalEmbedding", "SwiGLU", "TransformerBlock", "TransformerLM",
    "causal_attention", "dropout", "rms_norm", "scaled_dot_product_attention", "sinusoidal_positions",
]  # fmt: skip

Device = torch.device | str | None


def scaled_dot_product_attention(
    Q: Float[Tensor, "... queries d_k"],
    K: Float[Tensor, "... keys d_k"],
    V: Float[Tensor, "... keys d_v"],
    mask: Bool[Tensor, "... queries keys"] | None = None,
    pdrop: float = 0.0,
) -> Float[Tensor, "... queries d_v"]:
    """softmax(Q K^T / sqrt(d_k)) V.

    Args:
        Q, K, V: queries, keys and values with any equal leading axes.
        mask: True = this query may attend to this key; a query with no True attends to nothing and gets zeros.
        pdrop: dropout rate on the attention weights (the caller passes 0 outside training).

    Source: Vaswani et al. 2017, section 3.2.1; handout problem scaled_dot_product_attention.
    """
    scores = (Q / math.sqrt(Q.shape[-1])) @ K.transpose(-2, -1)
    if mask is not None:
        scores += torch.zeros(mask.shape, dtype=Q.dtype, device=Q.device).masked_fill_(~mask, -math.inf)
    return dropout(nn_utils.softmax(scores, dim=-1), pdrop, training=True) @ V


def causal_attention(Q: Tensor, K: Tensor, V: Tensor, pdrop: float = 0.0) -> Tensor:
    """Each query attends to the keys up to its own; with fewer queries than keys, the queries are the last ones."""
    queries, keys = Q.shape[-2], K.shape[-2]
    mask = None
    if queries > 1:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=Q.device).tril(diagonal=keys - queries)
    return scaled_dot_product_attention(Q, K, V, mask, pdrop)


ATTENTION_FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {"plain": causal_attention}
"""Causal attention by the name ModelConfig.attention gives; faster kernels add themselves here from the floor above."""


def check_attention_name(name: str) -> None:
    """Raise a ValueError unless ATTENTION_FUNCTIONS has (or can get) an entry `name`.

    An installed package offers one by an entry point `name` of group "cs336.attention": the function itself.
    """
    if name == "blocked":
        import cs336_basics.blocked_attention  # noqa: F401  (it registers itself)
    if name not in ATTENTION_FUNCTIONS:
        for offer in importlib.metadata.entry_points(group="cs336.attention", name=name):
            ATTENTION_FUNCTIONS[name] = offer.load()
    if name not in ATTENTION_FUNCTIONS:
        raise ValueError(f"attention={name!r} is not known; choose one of {sorted(ATTENTION_FUNCTIONS)}")


class CausalMultiHeadSelfAttention(nn.Module):
    """num_heads attentions of width d_model/num_heads side by side, then one output projection."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        positional_encoder: RotaryPositionalEmbedding | None = None,
        *,
        attn_pdrop: float = 0.0,
        attention: str = "plain",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_heads(d_model, num_heads)
        check_attention_name(attention)
        self.num_heads, self.attn_pdrop, self.attention = num_heads, attn_pdrop, attention
        self.q_proj = Linear(d_model, d_model, device, dtype)
        self.k_proj = Linear(d_model, d_model, device, dtype)
        self.v_proj = Linear(d_model, d_model, device, dtype)
        self.output_proj = Linear(d_model, d_model, device, dtype)
        self.positional_encoder = positional_encoder

    def forward(
        self,
        x: Float[Tensor, "... seq d_model"],
        token_positions: Int[Tensor, "... seq"] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "... seq d_model"]:
        """Attend within `x` (and to the cache's earlier tokens); positions default to 0..seq-1."""
        q, k, v = (
            rearrange(project(x), "... seq (heads d_k) -> ... heads seq d_k", heads=self.num_heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.positional_encoder is not None:
            if token_positions is None:
                token_positions = torch.arange(x.shape[-2], device=x.device)
            q, k = self.positional_encoder(q, token_positions), self.positional_encoder(k, token_positions)
        if cache is not None:
            k, v = cache.append(k, v)
        pdrop = self.attn_pdrop if self.training else 0.0
        heads = ATTENTION_FUNCTIONS[self.attention](q, k, v, pdrop)
        return self.output_proj(rearrange(heads, "... heads seq d_k -> ... seq (heads d_k)"))

    def new_cache(self, batch: int, capacity: int) -> LayerCache:
        """An empty cache for `capacity` tokens; it takes its shape from what is appended."""
        return KVCache(capacity)


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each added to the residual stream; `config.norm` says where the norms stand.

    `layer` counts from 0: a config may give each layer its own mixer in the place of attention.
    """

    def __init__(
        self,
        config: ModelConfig,
        positional_encoder: RotaryPositionalEmbedding | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        layer: int = 0,
    ):
        super().__init__()
        self.norm, self.residual_pdrop = config.norm, config.residual_pdrop
        self.attn = make_mixer(config, layer, positional_encoder, device, dtype)
        self.ffn = make_feed_forward(config, device, dtype)
        self.ln1 = nn.Identity() if config.norm == "none" else make_norm(config, config.d_model, device, dtype)
        self.ln2 = nn.Identity() if config.norm == "none" else make_norm(config, config.d_model, device, dtype)

    def forward(
        self,
        x: Float[Tensor, "... seq d_model"],
        token_positions: Int[Tensor, "... seq"] | None = None,
        cache: Any = None,
        shared: Any = None,
    ) -> Float[Tensor, "... seq d_model"]:
        """Return the residual stream after this block; `shared` is for attention that reads it (a variant)."""
        extra = () if shared is None else (shared,)
        if self.norm == "post":
            x = self.ln1(x + self.drop(self.attn(x, token_positions, cache, *extra)))
            return self.ln2(x + self.drop(self.ffn(x)))
        x = x + self.drop(self.attn(self.ln1(x), token_positions, cache, *extra))
        return x + self.drop(self.ffn(self.ln2(x)))

    def drop(self, x: Tensor) -> Tensor:
        """Dropout on a sublayer's output."""
        return dropout(x, self.residual_pdrop, self.training)


class TransformerLM(nn.Module):
    """A decoder-only language model; see the module docstring for the data flow and `ModelConfig` for the choices."""

    sinusoids: Tensor

    def __init__(self, config: ModelConfig, device: Device = None, dtype: torch.dtype | None = None):
        super().__init__()
        self.config = config
        d_model, num_positions = config.d_model, config.context_length
        std = d_model**-0.5 if config.tie_embeddings else 1.0  # a tied table is also the head: logits of size 1
        self.token_embeddings = Embedding(config.vocab_size, d_model, device, dtype, std=std)
        self.positional_encoder = make_rotary(config, device)
        if config.positions == "learned":
            self.position_embeddings = Embedding(num_positions, d_model, device, dtype, std=std)
        elif config.positions == "sinusoidal":
            self.register_buffer("sinusoids", sinusoidal_positions(num_positions, d_model).to(device), persistent=False)
        self.embedding_norm = make_norm(config, d_model, device, dtype) if config.embedding_norm else nn.Identity()
        self.layers = nn.ModuleList(
            make_block(config, layer, self.positional_encoder, device, dtype) for layer in range(config.num_layers)
        )
        has_last_norm = config.norm not in ("post", "none")
        self.ln_final = make_norm(config, d_model, device, dtype) if has_last_norm else nn.Identity()
        self.lm_head = Linear(d_model, config.vocab_size, device, dtype)
        if config.tie_embeddings:
            self.lm_head.weight = self.token_embeddings.weight
        self.stream: Any = make_stream(config, device, dtype)
        if config.initialization != "course":
            from cs336_basics.variants.initialization import initialize

            initialize(self)

    def forward(
        self, token_ids: Int[Tensor, "... seq"], cache: list[Any] | None = None, start: int = 0
    ) -> Float[Tensor, "... seq vocab"]:
        """Logits of the token after each position.

        Args:
            token_ids: ids in [0, vocab_size), at most context_length - start of them.
            cache: what `new_cache` gave, holding the `start` tokens before these.
            start: position of the first id.

        Raises:
            ValueError: the sequence runs past context_length.
        """
        logits = self.lm_head(self.hidden_states(token_ids, cache, start))
        cap = self.config.logit_softcap
        return logits if cap is None else nn_utils.softcap(logits, cap)

    def hidden_states(
        self, token_ids: Int[Tensor, "... seq"], cache: list[Any] | None = None, start: int = 0
    ) -> Float[Tensor, "... seq d_model"]:
        """What `lm_head` turns into logits: the residual stream after the last norm; arguments as in `forward`."""
        seq = token_ids.shape[-1]
        if start + seq > self.config.context_length:
            raise ValueError(
                f"the model sees at most context_length={self.config.context_length} tokens; got {start + seq}; "
                "shorten the input or keep only its last tokens"
            )
        positions = torch.arange(start, start + seq, device=token_ids.device)
        x = self._embed(token_ids, positions)
        if self.stream is not None:
            x = self.stream(self.layers, x, token_ids, positions, cache)
        else:
            for index, layer in enumerate(self.layers):
                x = layer(x, positions, None if cache is None else cache[index])
        return self.ln_final(x)

    def _embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        x = self.token_embeddings(token_ids)
        if self.config.positions == "learned":
            x = x + self.position_embeddings(positions)
        elif self.config.positions == "sinusoidal":
            x = x + self.sinusoids[positions].to(x.dtype)
        return dropout(self.embedding_norm(x), self.config.residual_pdrop, self.training)

    def new_cache(self, batch: int, capacity: int) -> list[Any]:
        """Empty memory for decoding `batch` sequences of up to `capacity` tokens: an entry per layer.

        A variant of the whole model may add an entry of its own at the end.
        """
        own = [] if self.stream is None else self.stream.new_cache(batch, capacity)
        mixers: list[Any] = [layer.attn for layer in self.layers]
        return [mixer.new_cache(batch, capacity) for mixer in mixers] + own

    def auxiliary_loss(self) -> Tensor | None:
        """Sum of the losses that layers left in their last forward pass (experts' balance); None when there are none.

        Training adds it to the cross-entropy.
        """
        parts = [part for layer in self.layers for part in (layer.attn, layer.ffn)]
        losses = [loss for part in parts if (loss := getattr(part, "auxiliary_loss", None)) is not None]
        return torch.stack(losses).sum() if losses else None

    def get_num_params(self, non_embedding: bool = False) -> int:
        """Number of weights, a shared table counted once; without the input tables when `non_embedding`."""
        total = sum(p.numel() for p in self.parameters())
        if non_embedding:
            tables = [m for m in self.modules() if isinstance(m, Embedding)]
            total -= sum(m.weight.numel() for m in tables)
        return total

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> TransformerLM:
        """Load `model_config.json` and `model.pt`, a state dict (`_orig_mod.` prefixes of torch.compile are cut)."""
        folder = Path(directory)
        values = json.loads((folder / "model_config.json").read_text(encoding="utf-8"))
        state = load_state(folder / "model.pt")
        weights = {key.removeprefix("_orig_mod."): value for key, value in state.items()}
        model = cls(config_from_dict(ModelConfig, values))
        check_weights(weights, model)
        model.load_state_dict(weights)
        return model


# The parts of a model, by its config. What is not plain is built by `variants/build.py`, imported only then.


def make_norm(config: ModelConfig, width: int, device: Device, dtype: torch.dtype | None) -> nn.Module:
    """The norm of a residual stream or a head of that width."""
    if config.norm_type == "rmsnorm" and config.norm_gain:
        return RMSNorm(width, config.norm_eps, device=device, dtype=dtype)
    from cs336_basics.variants.build import build_norm

    return build_norm(config, width, device, dtype)


def make_rotary(config: ModelConfig, device: Device) -> RotaryPositionalEmbedding | None:
    """The rotary positions that all layers share; None when the config has others."""
    if config.positions != "rope":
        return None
    if config.rope_pairs == "interleaved" and config.rope_scaling is None and config.latent_attention is None:
        return RotaryPositionalEmbedding(config.rope_theta, config.d_head, config.context_length, device)
    from cs336_basics.variants.build import build_rotary

    return build_rotary(config, device)


def make_feed_forward(config: ModelConfig, device: Device, dtype: torch.dtype | None) -> nn.Module:
    """The feed-forward network of a block."""
    assert config.d_ff is not None  # filled in by ModelConfig
    if config.moe is None and config.ffn == "swiglu":
        return SwiGLU(config.d_model, config.d_ff, device, dtype)
    if config.moe is None and config.ffn in ("gelu", "silu", "relu"):
        return FeedForward(config.d_model, config.d_ff, device, dtype, activation=config.ffn)
    from cs336_basics.variants.build import build_feed_forward

    return build_feed_forward(config, device, dtype)


def make_mixer(
    config: ModelConfig, layer: int, rotary: RotaryPositionalEmbedding | None, device: Device, dtype: torch.dtype | None
) -> nn.Module:
    """What lets the positions of a layer see each other: attention, unless the config says otherwise."""
    if config.has_plain_attention(layer):
        return CausalMultiHeadSelfAttention(
            config.d_model, config.num_heads, rotary, attn_pdrop=config.attn_pdrop, attention=config.attention,
            device=device, dtype=dtype,
        )  # fmt: skip
    from cs336_basics.variants.build import build_mixer

    return build_mixer(config, layer, rotary, device, dtype)


def make_block(
    config: ModelConfig, layer: int, rotary: RotaryPositionalEmbedding | None, device: Device, dtype: torch.dtype | None
) -> nn.Module:
    """Block number `layer`."""
    block: type[TransformerBlock] = TransformerBlock
    if config.norm in ("sandwich", "parallel"):
        from cs336_basics.variants.block_layouts import BLOCKS

        block = BLOCKS[config.norm]
    return block(config, rotary, device, dtype, layer=layer)


def make_stream(config: ModelConfig, device: Device, dtype: torch.dtype | None) -> nn.Module | None:
    """None for a plain model, else the module that runs its layers and changes the stream between them."""
    if not config.changes_the_stream:
        return None
    from cs336_basics.variants.residual_stream import ResidualStream

    return ResidualStream(config, device, dtype)
