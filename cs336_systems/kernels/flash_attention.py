"""FlashAttention-2: exact attention whose T x T scores never leave the chip. Reference, tiled PyTorch, entry points.

Forward, for one tile of queries, over tiles of keys:

    S = Q K^T / sqrt(d);  m' = max(m, rowmax S);  P = exp(S - m')
    l = e^(m - m') l + rowsum P;   O = e^(m - m') O + P V;   m = m'        at the end  O /= l,  L = m + ln l

O / l is at any time the softmax-weighted mean of the values seen so far: that is why one pass is enough. Only O and the
logarithm of the normaliser L are kept; the backward pass computes P again:

    D = rowsum(dO * O);  P = exp(S - L);  dV = P^T dO;  dS = P * (dO V^T - D) / sqrt(d);  dQ = dS K;  dK = dS^T Q

Causal attention with fewer queries than keys takes the queries as the last ones. With fewer heads of keys than of
queries (grouped queries), query head h reads key head h // (heads / key heads).

Source: Dao 2023 (FlashAttention-2), algorithms 1 and 2. Handout: flash_forward, flash_backward. Left out: dropout,
windows, sinks; the Triton kernels (`flash_attention_triton.py`, read next). Registered for the model as
attention="flash".
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cs336_basics import model

QUERY_TILE, KEY_TILE = 64, 64
MAX_HEAD_DIM = 128


def attention_reference(
    Q: Float[Tensor, "... queries d"], K: Float[Tensor, "... keys d"], V: Float[Tensor, "... keys d"],
    is_causal: bool = False,
) -> tuple[Float[Tensor, "... queries d"], Float[Tensor, "... queries"]]:  # fmt: skip
    """Attention with all scores in memory.

    Args:
        Q, K, V: (batch, tokens, d) or (batch, heads, tokens, d); K and V may have fewer heads, a divisor of Q's.
        is_causal: query i of n sees the keys up to number_of_keys - n + i.

    Returns:
        Output in Q's dtype; natural logarithm of each query's normaliser, in the dtype of the computation.

    Numerics: in float32, or float64 for float64 inputs.
    """
    check_shapes(Q, K, V, is_causal)
    dtype = torch.promote_types(Q.dtype, torch.float32)
    group = Q.shape[1] // K.shape[1] if Q.ndim == 4 else 1
    k, v = (x.to(dtype).repeat_interleave(group, dim=1) for x in (K, V))
    scores = Q.to(dtype) @ k.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if is_causal:
        scores = scores.masked_fill(_future(0, Q.shape[-2], 0, K.shape[-2], K.shape[-2] - Q.shape[-2], Q), -math.inf)
    L = torch.logsumexp(scores, dim=-1)
    return (torch.exp(scores - L.unsqueeze(-1)) @ v).to(Q.dtype), L


def check_shapes(Q: Tensor, K: Tensor, V: Tensor, is_causal: bool) -> None:
    """Raise a ValueError unless the three belong together (see attention_reference)."""
    shapes = f"got Q {tuple(Q.shape)}, K {tuple(K.shape)}, V {tuple(V.shape)}"
    if Q.ndim not in (3, 4) or K.ndim != Q.ndim or K.shape != V.shape:
        raise ValueError(f"Q, K, V must be (batch, tokens, d) or (batch, heads, tokens, d), K and V alike; {shapes}")
    if Q.shape[0] != K.shape[0] or Q.shape[-1] != K.shape[-1]:
        raise ValueError(f"Q, K, V must have equal batch and head dimension; {shapes}")
    if Q.ndim == 4 and (K.shape[1] == 0 or Q.shape[1] % K.shape[1]):
        raise ValueError(f"the number of query heads must be a multiple of the number of key heads; {shapes}")
    if K.shape[-2] == 0 or Q.shape[-1] == 0:
        raise ValueError(f"attention needs at least one key and one coordinate; {shapes}")
    if is_causal and Q.shape[-2] > K.shape[-2]:
        raise ValueError(f"causal attention takes the queries as the last ones: at most as many as keys; {shapes}")
    if len({Q.dtype, K.dtype, V.dtype}) != 1:
        raise ValueError(f"Q, K, V must have one dtype; got {Q.dtype}, {K.dtype}, {V.dtype}")


class FlashAttentionPyTorch(torch.autograd.Function):
    """apply(Q, K, V, is_causal=False): the algorithm tile by tile, for all batches and heads at once, in plain PyTorch.

    The tiles are visited as the kernels visit them, so this is the form to read, and to compare intermediate values
    with. Saves Q, K, V, O and L.
    """

    @staticmethod
    def forward(ctx: Any, Q: Tensor, K: Tensor, V: Tensor, is_causal: bool = False) -> Tensor:
        """One pass over the keys for each tile of queries."""
        check_shapes(Q, K, V, is_causal)
        q, k, v = _grouped(Q, K), _upcast(K).unsqueeze(-3), _upcast(V).unsqueeze(-3)
        O, L = torch.empty_like(q), q.new_empty(q.shape[:-1])
        for start in range(0, q.shape[-2], QUERY_TILE):
            tile = slice(start, start + QUERY_TILE)
            O[..., tile, :], L[..., tile] = _attend(q[..., tile, :], k, v, start, is_causal, q.shape[-2])
        output = O.reshape(Q.shape).to(Q.dtype)
        ctx.save_for_backward(Q, K, V, output, L.reshape(Q.shape[:-1]))
        ctx.is_causal = is_causal
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Scores again, tile by tile; the gradients of keys and values add up over the tiles of queries."""
        Q, K, V, output, logsumexp = ctx.saved_tensors
        q, k, v = _grouped(Q, K), _upcast(K).unsqueeze(-3), _upcast(V).unsqueeze(-3)
        d_O, L = _grouped(grads[0], K), logsumexp.reshape(q.shape[:-1])
        D = (d_O * _grouped(output, K)).sum(dim=-1)
        d_q, d_k, d_v = torch.zeros_like(q), torch.zeros_like(_upcast(K)), torch.zeros_like(_upcast(V))
        scale, queries, keys = 1 / math.sqrt(q.shape[-1]), q.shape[-2], k.shape[-2]
        for first in range(0, keys, KEY_TILE):
            cols = slice(first, first + KEY_TILE)
            for start in range(0, queries, QUERY_TILE):
                rows = slice(start, start + QUERY_TILE)
                S = _scores(q[..., rows, :], k[..., cols, :], start, first, keys - queries, ctx.is_causal)
                P = torch.exp(S - L[..., rows, None])
                d_v[..., cols, :] += (P.transpose(-2, -1) @ d_O[..., rows, :]).sum(dim=-3)
                d_S = P * (d_O[..., rows, :] @ v[..., cols, :].transpose(-2, -1) - D[..., rows, None]) * scale
                d_q[..., rows, :] += d_S @ k[..., cols, :]
                d_k[..., cols, :] += (d_S.transpose(-2, -1) @ q[..., rows, :]).sum(dim=-3)
        return d_q.reshape(Q.shape).to(Q.dtype), d_k.to(K.dtype), d_v.to(V.dtype), None


def flash_causal_attention(Q: Tensor, K: Tensor, V: Tensor, pdrop: float = 0.0) -> Tensor:
    """The model's attention="flash": as `model.causal_attention`, by the Triton kernels, with any leading axes.

    Args:
        Q, K, V: (..., heads, tokens, d); K and V may have fewer heads.
        pdrop: must be 0.

    Raises:
        ValueError: dropout on the attention weights, tensors that are not on a GPU, d above 128.
        ImportError: no Triton.
    """
    from cs336_systems.kernels.flash_attention_triton import FlashAttentionTriton

    if pdrop:
        raise ValueError(f"attention='flash' has no dropout; got attn_pdrop={pdrop}; use attention='plain' or pdrop 0")
    if Q.ndim > 4:
        flat = (x.flatten(0, -4) for x in (Q, K, V))
        return FlashAttentionTriton.apply(*flat, True).reshape(Q.shape)
    if Q.ndim == 2:
        return FlashAttentionTriton.apply(Q[None], K[None], V[None], True)[0]
    return FlashAttentionTriton.apply(Q, K, V, True)


def _upcast(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _grouped(x: Tensor, K: Tensor) -> Tensor:
    """(..., heads, queries, d) as (..., key heads, group, queries, d); a group of one where there are no heads."""
    return _upcast(x).reshape(*K.shape[:-2], -1, *x.shape[-2:])


def _future(first_query: int, queries: int, first_key: int, keys: int, offset: int, like: Tensor) -> Tensor:
    """True where the key comes after the query."""
    rows = torch.arange(first_query, first_query + queries, device=like.device)
    columns = torch.arange(first_key, first_key + keys, device=like.device)
    return columns[None, :] > rows[:, None] + offset


def _scores(q: Tensor, k: Tensor, first_query: int, first_key: int, offset: int, is_causal: bool) -> Tensor:
    """One tile of scaled scores, the future at -inf."""
    S = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if is_causal:
        S = S.masked_fill(_future(first_query, q.shape[-2], first_key, k.shape[-2], offset, q), -math.inf)
    return S


def _attend(q: Tensor, k: Tensor, v: Tensor, first: int, is_causal: bool, queries: int) -> tuple[Tensor, Tensor]:
    """O and L of one tile of queries, the first of which is number `first`."""
    keys, offset = k.shape[-2], k.shape[-2] - queries
    seen = min(keys, first + q.shape[-2] + offset) if is_causal else keys
    m, l, O = q.new_full(q.shape[:-1], -math.inf), q.new_zeros(q.shape[:-1]), torch.zeros_like(q)
    for start in range(0, seen, KEY_TILE):
        columns = slice(start, start + KEY_TILE)
        S = _scores(q, k[..., columns, :], first, start, offset, is_causal)
        m_new = torch.maximum(m, S.amax(dim=-1))
        P, shrink = torch.exp(S - m_new.unsqueeze(-1)), torch.exp(m - m_new)
        l = shrink * l + P.sum(dim=-1)
        O = shrink.unsqueeze(-1) * O + P @ v[..., columns, :]
        m = m_new
    return O / l.unsqueeze(-1), m + l.log()


model.ATTENTION_FUNCTIONS["flash"] = flash_causal_attention
