"""The Transformer language model: token ids in, logits for the next token out.

    h = embed(ids)                                   (batch, seq, d_model)
    for each block:   h = h + attn(norm(h));  h = h + ffn(norm(h))
    logits = head(norm(h))                           (batch, seq, vocab)

Pre-norm blocks with RMSNorm, rotary positions and SwiGLU by default, as in LLaMA (Touvron et al. 2023); `ModelConfig`
also offers the 2024 edition's choices (GELU, learned positions, dropout, tied embeddings) and the handout's ablations
(post-norm, no norm, no positions). Nothing here has a bias. Weights have shape (d_out, d_in) and the names of the
course's checkpoints.

Handout: linear, embedding, rmsnorm, positionwise_feedforward, rope, scaled_dot_product_attention,
multihead_self_attention, transformer_block, transformer_lm. Left out: everything in `variants/`. Read next:
`optimizer.py`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cs336_basics import nn_utils
from cs336_basics.checkpoint import check_weights, load_state
from cs336_basics.model_config import ModelConfig, check_heads


def _truncated_normal(shape: tuple[int, ...], std: float, device: torch.device | str | None, dtype: torch.dtype | None):
    weight = torch.empty(shape, device=device, dtype=dtype)
    return nn.Parameter(nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std))


class Linear(nn.Module):
    """y = x W^T with W of shape (out_features, in_features), no bias; W ~ N(0, 2/(in+out)) cut at 3 sigma."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        std = math.sqrt(2.0 / (in_features + out_features))
        self.weight = _truncated_normal((out_features, in_features), std, device, dtype)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """Multiply the last axis."""
        return x @ self.weight.T


class Embedding(nn.Module):
    """A table of vectors, one row per id; rows ~ N(0, std^2) cut at 3 sigma."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        std: float = 1.0,
    ):
        super().__init__()
        self.weight = _truncated_normal((num_embeddings, embedding_dim), std, device, dtype)

    def forward(self, token_ids: Int[Tensor, "..."]) -> Float[Tensor, "... d_model"]:
        """Look up each id; an id past the table raises torch's IndexError (a negative one counts from the end)."""
        return self.weight[token_ids]


def rms_norm(x: Float[Tensor, "... d_model"], weight: Float[Tensor, " d_model"], eps: float = 1e-5) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in float32 inside, dtype of `x` outside.

    Source: Zhang & Sennrich 2019; handout problem rmsnorm.
    """
    wide = nn_utils.upcast(x)
    return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * weight).to(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned gain per coordinate; see `rms_norm`."""

    def __init__(
        self,
        d_model: int,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model, device=device, dtype=dtype))

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Normalise the last axis."""
        return rms_norm(x, self.weight, self.eps)


def dropout(x: Float[Tensor, "..."], rate: float, training: bool) -> Float[Tensor, "..."]:
    """Zero each element with probability `rate` and scale the rest by 1/(1-rate); the identity when not training."""
    if rate == 0.0 or not training:
        return x
    return x * (torch.rand_like(x) >= rate) / (1.0 - rate)


class RotaryPositionalEmbedding(nn.Module):
    """Turn each pair (x_2k, x_2k+1) by the angle position * theta^(-2k/d_k) (Su et al. 2021).

    Pairs are neighbours (interleaved), not halves. The tables of cosines and sines are buffers outside the state dict.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, theta: float, d_k: int, max_seq_len: int, device: torch.device | str | None = None):
        super().__init__()
        if d_k % 2:
            raise ValueError(f"rotary positions turn pairs of coordinates, so d_k must be even; got {d_k}")
        frequency = theta ** (-torch.arange(0, d_k, 2, device=device, dtype=torch.float64) / d_k)
        angle = torch.arange(max_seq_len, device=device, dtype=torch.float64)[:, None] * frequency
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, x: Float[Tensor, "... seq d_k"], token_positions: Int[Tensor, "... seq"]) -> Tensor:
        """Rotate `x` (..., seq, d_k) by `token_positions` (..., seq), broadcast over missing axes such as heads.

        A pair (a, b) is the complex number a + ib; turning it is one multiplication by cos + i sin, in float32.
        """
        turn = torch.complex(self.cos[token_positions].float(), self.sin[token_positions].float())
        if 2 < turn.dim() < x.dim():  # positions (batch, seq) against x (batch, heads, seq, d_k)
            turn = rearrange(turn, "b ... s k -> b ... 1 s k")
        pairs = torch.view_as_complex(nn_utils.upcast(x).unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def sinusoidal_positions(num_positions: int, d_model: int) -> Float[Tensor, "positions d_model"]:
    """sin (even columns) and cos (odd columns) of position / 10000^(2i/d_model) (Vaswani et al. 2017)."""
    angle = torch.arange(num_positions)[:, None] * 10000.0 ** (-torch.arange(0, d_model, 2) / d_model)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)[:, :d_model]


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


@runtime_checkable
class LayerCache(Protocol):
    """What attention asks of a key-value cache: remember this layer's new keys and values, return all so far."""

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take (batch, heads, new, d_k) tensors; return those of every token so far."""
        ...


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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_heads(d_model, num_heads)
        if attention == "blocked":
            import cs336_basics.blocked_attention  # noqa: F401  (it registers itself)
        if attention not in ATTENTION_FUNCTIONS:
            raise ValueError(f"attention={attention!r} is not known; choose one of {sorted(ATTENTION_FUNCTIONS)}")
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


class SwiGLU(nn.Module):
    """W2(SiLU(W1 x) * W3 x): one half of the hidden layer gates the other (Shazeer 2020)."""

    def __init__(
        self, d_model: int, d_ff: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ):
        super().__init__()
        self.w1 = Linear(d_model, d_ff, device, dtype)
        self.w2 = Linear(d_ff, d_model, device, dtype)
        self.w3 = Linear(d_model, d_ff, device, dtype)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Apply to each position alone."""
        return self.w2(nn_utils.silu(self.w1(x)) * self.w3(x))


class FeedForward(nn.Module):
    """W2 f(W1 x) with f one of GELU, SiLU, ReLU."""

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: Literal["gelu", "silu", "relu"] = "gelu",
    ):
        super().__init__()
        self.activation = {"gelu": nn_utils.gelu, "silu": nn_utils.silu, "relu": nn_utils.relu}[activation]
        self.w1 = Linear(d_model, d_ff, device, dtype)
        self.w2 = Linear(d_ff, d_model, device, dtype)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Apply to each position alone."""
        return self.w2(self.activation(self.w1(x)))


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each added to the residual stream; `config.norm` says where the norms stand."""

    def __init__(
        self,
        config: ModelConfig,
        positional_encoder: RotaryPositionalEmbedding | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        d_model, d_ff = config.d_model, config.d_ff or 0
        self.norm, self.residual_pdrop = config.norm, config.residual_pdrop
        self.attn = CausalMultiHeadSelfAttention(
            d_model, config.num_heads, positional_encoder, attn_pdrop=config.attn_pdrop, attention=config.attention,
            device=device, dtype=dtype,
        )  # fmt: skip
        if config.ffn == "swiglu":
            self.ffn: nn.Module = SwiGLU(d_model, d_ff, device, dtype)
        else:
            self.ffn = FeedForward(d_model, d_ff, device, dtype, activation=config.ffn)
        self.ln1 = nn.Identity() if config.norm == "none" else RMSNorm(d_model, device=device, dtype=dtype)
        self.ln2 = nn.Identity() if config.norm == "none" else RMSNorm(d_model, device=device, dtype=dtype)

    def forward(
        self,
        x: Float[Tensor, "... seq d_model"],
        token_positions: Int[Tensor, "... seq"] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "... seq d_model"]:
        """Return the residual stream after this block."""
        drop = lambda y: dropout(y, self.residual_pdrop, self.training)  # noqa: E731
        if self.norm == "post":
            x = self.ln1(x + drop(self.attn(x, token_positions, cache)))
            return self.ln2(x + drop(self.ffn(x)))
        x = x + drop(self.attn(self.ln1(x), token_positions, cache))
        return x + drop(self.ffn(self.ln2(x)))


class TransformerLM(nn.Module):
    """A decoder-only language model; see the module docstring for the data flow and `ModelConfig` for the choices."""

    sinusoids: Tensor

    def __init__(self, config: ModelConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None):
        super().__init__()
        self.config = config
        d_model, num_positions = config.d_model, config.context_length
        std = d_model**-0.5 if config.tie_embeddings else 1.0  # a tied table is also the head: logits of size 1
        self.token_embeddings = Embedding(config.vocab_size, d_model, device, dtype, std=std)
        self.positional_encoder = None
        if config.positions == "rope":
            d_k = d_model // config.num_heads
            self.positional_encoder = RotaryPositionalEmbedding(config.rope_theta, d_k, num_positions, device)
        elif config.positions == "learned":
            self.position_embeddings = Embedding(num_positions, d_model, device, dtype, std=std)
        elif config.positions == "sinusoidal":
            self.register_buffer("sinusoids", sinusoidal_positions(num_positions, d_model).to(device), persistent=False)
        self.layers = nn.ModuleList(
            TransformerBlock(config, self.positional_encoder, device, dtype) for _ in range(config.num_layers)
        )
        self.ln_final = RMSNorm(d_model, device=device, dtype=dtype) if config.norm == "pre" else nn.Identity()
        self.lm_head = Linear(d_model, config.vocab_size, device, dtype)
        if config.tie_embeddings:
            self.lm_head.weight = self.token_embeddings.weight

    def forward(
        self, token_ids: Int[Tensor, "... seq"], cache: list[LayerCache] | None = None, start: int = 0
    ) -> Float[Tensor, "... seq vocab"]:
        """Logits of the token after each position.

        Args:
            token_ids: ids in [0, vocab_size), at most context_length - start of them.
            cache: one key-value cache per layer, holding the `start` tokens before these.
            start: position of the first id.

        Raises:
            ValueError: the sequence runs past context_length.
        """
        return self.lm_head(self.hidden_states(token_ids, cache, start))

    def hidden_states(
        self, token_ids: Int[Tensor, "... seq"], cache: list[LayerCache] | None = None, start: int = 0
    ) -> Float[Tensor, "... seq d_model"]:
        """What `lm_head` turns into logits: the residual stream after the last norm; arguments as in `forward`."""
        seq = token_ids.shape[-1]
        if start + seq > self.config.context_length:
            raise ValueError(
                f"the model sees at most context_length={self.config.context_length} tokens; got {start + seq}; "
                "shorten the input or keep only its last tokens"
            )
        positions = torch.arange(start, start + seq, device=token_ids.device)
        x = self.token_embeddings(token_ids)
        if self.config.positions == "learned":
            x = x + self.position_embeddings(positions)
        elif self.config.positions == "sinusoidal":
            x = x + self.sinusoids[positions].to(x.dtype)
        x = dropout(x, self.config.residual_pdrop, self.training)
        for index, layer in enumerate(self.layers):
            x = layer(x, positions, None if cache is None else cache[index])
        return self.ln_final(x)

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
        config = ModelConfig(**json.loads((folder / "model_config.json").read_text(encoding="utf-8")))
        state = load_state(folder / "model.pt")
        weights = {key.removeprefix("_orig_mod."): value for key, value in state.items()}
        model = cls(config)
        check_weights(weights, model)
        model.load_state_dict(weights)
        return model
