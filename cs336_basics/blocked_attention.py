"""Causal attention that skips the future: queries in blocks, each against the keys it may see, gradients by hand.

Plain attention computes all T x T scores and then masks half of them away; it also keeps three T x T tensors for the
backward pass. Here a block of queries meets only the keys up to its own end, and one tensor E = exp(S - max) per
block is kept:

    S = Q K^T / sqrt(d);  E = exp(S - rowmax S);  l = rowsum E;  O = (E V) / l
    dV += E^T (dO / l);   dS = E * ((dO / l) V^T - rowsum(dO * O) / l);   dQ = dS K / sqrt(d);   dK += dS^T Q / sqrt(d)

The same mathematics as `model.scaled_dot_product_attention`, which stays the oracle, faster on a CPU;
registered as attention="blocked". Source of the backward form: Dao 2023 (FlashAttention-2), section 2.3. Left out:
tiling over keys and half-precision accumulation (`cs336_systems/kernels/flash_attention.py`). Read next:
`training.py`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cs336_basics import model

QUERY_BLOCK = 64
"""queries per block: small enough to skip most of the masked scores, large enough for an efficient matrix product"""


def _blocks(Q: Tensor, K: Tensor) -> list[tuple[int, int, int]]:
    """(first query, end of queries, end of visible keys) per block; the last query sees the last key."""
    queries, keys = Q.shape[-2], K.shape[-2]
    starts = range(0, queries, QUERY_BLOCK)
    return [(s, min(s + QUERY_BLOCK, queries), min(s + QUERY_BLOCK, queries) + keys - queries) for s in starts]


class _BlockedCausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
        Q = Q / math.sqrt(Q.shape[-1])
        out = torch.empty_like(V[..., :1, :].expand(*Q.shape[:-1], V.shape[-1]), memory_format=torch.contiguous_format)
        saved = []
        for start, end, seen in _blocks(Q, K):
            E = Q[..., start:end, :] @ K[..., :seen, :].transpose(-2, -1)
            size = end - start
            E[..., seen - size :] += torch.full((size, size), -math.inf, dtype=E.dtype, device=E.device).triu_(1)
            E.sub_(E.amax(dim=-1, keepdim=True)).exp_()
            total = E.sum(dim=-1, keepdim=True)
            torch.div(E @ V[..., :seen, :], total, out=out[..., start:end, :])
            saved += [E, total]
        ctx.save_for_backward(Q, K, V, out, *saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (d_O,) = grads
        Q, K, V, out, *saved = ctx.saved_tensors
        d_Q, d_K, d_V = torch.empty_like(Q), torch.zeros_like(K), torch.zeros_like(V)
        for (start, end, seen), E, total in zip(_blocks(Q, K), saved[::2], saved[1::2], strict=True):
            scaled = d_O[..., start:end, :] / total
            delta = (scaled * out[..., start:end, :]).sum(dim=-1, keepdim=True)
            d_V[..., :seen, :] += E.transpose(-2, -1) @ scaled
            d_S = (scaled @ V[..., :seen, :].transpose(-2, -1)).sub_(delta).mul_(E)
            d_Q[..., start:end, :] = d_S @ K[..., :seen, :]
            d_K[..., :seen, :] += d_S.transpose(-2, -1) @ Q[..., start:end, :]
        return d_Q / math.sqrt(Q.shape[-1]), d_K, d_V


def blocked_causal_attention(Q: Tensor, K: Tensor, V: Tensor, pdrop: float = 0.0) -> Tensor:
    """Same as `model.causal_attention`: (..., queries, d_k), (..., keys, d_k), (..., keys, d_v) -> (..., queries, d_v).

    Raises:
        ValueError: dropout on the attention weights is asked for; use attention="plain".
    """
    if pdrop:
        raise ValueError(
            f"attention='blocked' has no dropout; got attn_pdrop={pdrop}; use attention='plain' or attn_pdrop=0"
        )
    if Q.shape[-2] == 1:
        return model.causal_attention(Q, K, V)
    return _BlockedCausalAttention.apply(Q, K, V)


model.ATTENTION_FUNCTIONS["blocked"] = blocked_causal_attention
