"""The layers under the Transformer: linear map, embedding, RMSNorm, dropout, positions, feed-forward networks.

    linear     y = x W^T                          RMSNorm   y = x / sqrt(mean(x^2) + eps) * g
    rotary     (a + ib) -> (a + ib) e^(i angle)   SwiGLU    y = W2 (SiLU(W1 x) * W3 x)

Each works on the last axis alone and knows nothing of attention. Weights have shape (d_out, d_in) and the names of the
course's checkpoints.

Handout: linear, embedding, rmsnorm, positionwise_feedforward, rope. Left out: LayerNorm, other gates and other
positions (`variants/`). Read next: `model.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from cs336_basics import nn_utils


def _truncated_normal(shape: tuple[int, ...], std: float, device: torch.device | str | None, dtype: torch.dtype | None):
    weight = torch.empty(shape, device=device, dtype=dtype)
    return nn.Parameter(nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std))


class Linear(nn.Module):
    """y = x W^T with W of shape (out_features, in_features); W ~ N(0, 2/(in+out)) cut at 3 sigma.

    The course's models have no bias; `bias=True` adds one that starts at zero (Qwen2.5's queries, keys and values).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = False,
    ):
        super().__init__()
        std = math.sqrt(2.0 / (in_features + out_features))
        self.weight = _truncated_normal((out_features, in_features), std, device, dtype)
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """Multiply the last axis."""
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


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
        self._tabulate(theta ** (-torch.arange(0, d_k, 2, device=device, dtype=torch.float64) / d_k), max_seq_len)

    def _tabulate(self, frequency: Tensor, max_seq_len: int) -> None:
        angle = torch.arange(max_seq_len, device=frequency.device, dtype=torch.float64)[:, None] * frequency
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, x: Float[Tensor, "... seq d_k"], token_positions: Int[Tensor, "... seq"]) -> Tensor:
        """Rotate `x` (..., seq, d_k) by `token_positions` (..., seq), broadcast over missing axes such as heads.

        A pair (a, b) is the complex number a + ib; turning it is one multiplication by cos + i sin, in float32.
        """
        turn = torch.complex(self.cos[token_positions].float(), self.sin[token_positions].float())
        if 2 < turn.dim() < x.dim():  # positions (batch, seq) against x (batch, heads, seq, d_k)
            turn = rearrange(turn, "b ... s k -> b ... 1 s k")
        wide = nn_utils.upcast(x).contiguous()
        if wide.storage_offset() % 2:  # a slice that begins in the middle of a complex number
            wide = wide.clone()
        pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def sinusoidal_positions(num_positions: int, d_model: int) -> Float[Tensor, "positions d_model"]:
    """sin (even columns) and cos (odd columns) of position / 10000^(2i/d_model) (Vaswani et al. 2017)."""
    angle = torch.arange(num_positions)[:, None] * 10000.0 ** (-torch.arange(0, d_model, 2) / d_model)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)[:, :d_model]


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
    """W2 f(W1 x) with f one of GELU, SiLU, ReLU, or any function of one tensor."""

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: Literal["gelu", "silu", "relu"] | Callable[[Tensor], Tensor] = "gelu",
    ):
        super().__init__()
        named = {"gelu": nn_utils.gelu, "silu": nn_utils.silu, "relu": nn_utils.relu}
        self.activation = named[activation] if isinstance(activation, str) else activation
        self.w1 = Linear(d_model, d_ff, device, dtype)
        self.w2 = Linear(d_ff, d_model, device, dtype)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Apply to each position alone."""
        return self.w2(self.activation(self.w1(x)))
