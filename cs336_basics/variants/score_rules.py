"""Attention whose scores follow other rules: a window, a cap, a slope, a sink; in memory O(queries * window).

    s_ij = q_i k_j / sqrt(d)
    soft cap    s <- cap tanh(s / cap)                             (Gemma 2, 2408.00118)
    ALiBi       s <- s - slope_h (i - j)                           (2108.12409)
    window      s_ij = -inf unless i - window < j <= i             (Longformer 2004.05150; Mistral 2310.06825)
    sink        w_ij = exp(s_ij) / (exp(sink_h) + sum_j exp(s_ij)) (gpt-oss 2025; Miller 2023, "off by one")

in this order. Queries are taken in blocks and each block meets only the keys that its window reaches, so no T x T
tensor is ever built when there is a window. A sink here is a learned logit per head that takes weight and gives
nothing; the other meaning, keeping the first tokens in the cache (StreamingLLM, 2309.17453), is left out.

Keys and values may have fewer heads: the queries of a group are laid below each other, so that no key is copied.
Read next: `configurable_attention.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cs336_basics import nn_utils
from cs336_basics.layers import dropout

QUERY_BLOCK = 128
"""queries per block; a block of a windowed layer meets at most QUERY_BLOCK + window - 1 keys"""


@dataclass(frozen=True)
class ScoreRules:
    """What happens between the dot products and the weights; each None changes nothing."""

    window: int | None = None
    """keys a query sees, its own included"""
    softcap: float | None = None
    """bound of the scores"""
    slopes: Tensor | None = None
    """penalty per token of distance, (heads,)"""
    sinks: Tensor | None = None
    """logit per head, (heads,)"""


def attention_by_rules(
    Q: Float[Tensor, "*batch heads queries d_k"],
    K: Float[Tensor, "*batch kv_heads keys d_k"],
    V: Float[Tensor, "*batch kv_heads keys d_v"],
    rules: ScoreRules,
    pdrop: float = 0.0,
) -> Float[Tensor, "*batch heads queries d_v"]:
    """Causal attention; with fewer queries than keys, the queries are the last ones.

    Args:
        Q, K, V: kv_heads divides heads; query head h reads key head h // (heads / kv_heads).
        rules: what changes the scores.
        pdrop: dropout rate on the weights (the caller passes 0 outside training).
    """
    queries, keys = Q.shape[-2], K.shape[-2]
    blocks = []
    for start in range(0, queries, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, queries)
        last = keys - queries + end
        first = 0 if rules.window is None else max(0, keys - queries + start - rules.window + 1)
        seen = (slice(first, last), slice(None))
        blocks.append(_attend(Q[..., start:end, :], K[..., *seen], V[..., *seen], rules, pdrop))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-2)


def _attend(Q: Tensor, K: Tensor, V: Tensor, rules: ScoreRules, pdrop: float) -> Tensor:
    """A block of queries against all the keys that any of them may see; the last query stands at the last key."""
    kv_heads, queries, keys = K.shape[-3], Q.shape[-2], K.shape[-2]
    folded = rearrange(Q / math.sqrt(Q.shape[-1]), "... (kv group) q d -> ... kv (group q) d", kv=kv_heads)
    scores = rearrange(folded @ K.transpose(-2, -1), "... kv (group q) k -> ... (kv group) q k", q=queries)
    scores = nn_utils.upcast(scores)
    if rules.softcap is not None:
        scores = nn_utils.softcap(scores, rules.softcap)
    distance = torch.arange(keys - queries, keys, device=Q.device)[:, None] - torch.arange(keys, device=Q.device)
    if rules.slopes is not None:
        scores = scores - rules.slopes[:, None, None] * distance
    hidden = distance < 0 if rules.window is None else (distance < 0) | (distance >= rules.window)
    weights = _softmax_with_sink(scores.masked_fill(hidden, -math.inf), rules.sinks).to(V.dtype)
    weights = rearrange(dropout(weights, pdrop, training=True), "... (kv group) q k -> ... kv (group q) k", kv=kv_heads)
    return rearrange(weights @ V, "... kv (group q) d -> ... (kv group) q d", q=queries)


def _softmax_with_sink(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax over the keys and the sink; the sink's weight is dropped."""
    if sinks is None:
        return nn_utils.softmax(scores, dim=-1)
    column = sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
    return nn_utils.softmax(torch.cat((scores, column), dim=-1), dim=-1)[..., :-1]
