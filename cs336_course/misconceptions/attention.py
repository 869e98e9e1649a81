"""Wrong attention, RoPE, blocks and language models, as settings of one small right implementation.

`Knobs` names each deviation; with the defaults `model` is right. Read next: `updates.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cs336_course.misconceptions.bank import Misconception, wrong

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Knobs:
    """The right choice is each field's default."""

    scale: str = "root of d_k"
    mask: str = "true attends"
    softmax_axis: int = -1
    causal_shift: int = 0
    causal: bool = True
    heads: str = "head-major rows"
    rope: str = "pairs"
    rope_on: str = "qk"
    rope_width: str = "head"
    output_projection: bool = True
    swap: str = ""
    norm: str = "pre"
    residual: bool = True
    eps: float = 1e-5
    final_norm: bool = True
    output: str = "logits"
    layers: str = "all"
    positions: str = "given"


def bank() -> list[Misconception]:
    """All entries of this file."""
    return [*_attention(), *_rope(), *_multihead(), *_block(), *_model()]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, knobs: Knobs) -> Tensor:
    """softmax(Q K^T / sqrt(d_k)) V, or not quite."""
    d_k = q.shape[-1]
    divisor = {"root of d_k": math.sqrt(d_k), "none": 1.0, "d_k": d_k, "root of keys": math.sqrt(k.shape[-2])}[
        knobs.scale
    ]
    scores = q @ k.transpose(-2, -1) / divisor
    if mask is not None and knobs.mask != "ignored":
        keep = ~mask if knobs.mask == "true hides" else mask
        if knobs.mask == "after softmax":
            return (torch.softmax(scores, knobs.softmax_axis) * keep) @ v
        scores = (
            scores * keep
            if knobs.mask == "multiplied"
            else scores.masked_fill(~keep, -1.0 if knobs.mask == "minus one" else -math.inf)
        )
    return torch.softmax(scores, knobs.softmax_axis) @ v


def turn(x: Tensor, positions: Tensor, theta: float, knobs: Knobs) -> Tensor:
    """RoPE, or not quite."""
    d = x.shape[-1]
    if knobs.positions == "counted":
        positions = torch.arange(x.shape[-2])
    positions = positions + {"from one": 1}.get(knobs.positions, 0)
    exponent = torch.arange(0, d, 2) / d
    if knobs.rope == "exponent halved":
        exponent = torch.arange(0, d // 2) / d
    if knobs.rope == "exponent from one":
        exponent = torch.arange(2, d + 2, 2) / d
    angles = positions[..., None] * theta ** (exponent if knobs.rope == "inverse frequencies" else -exponent)
    cos, sin = angles.cos(), angles.sin()
    if knobs.rope == "backwards":
        sin = -sin
    if knobs.rope == "halves":
        a, b = x[..., : d // 2], x[..., d // 2 :]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
    a, b = x[..., 0::2], x[..., 1::2]
    if knobs.rope == "same sign":
        return torch.stack([a * cos + b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    parts = [a * cos - b * sin, a * sin + b * cos]
    return torch.cat(parts, dim=-1) if knobs.rope == "not interleaved again" else torch.stack(parts, dim=-1).flatten(-2)


def self_attention(x: Tensor, w: Weights, heads: int, theta: float | None, knobs: Knobs) -> Tensor:
    """Causal multi-head attention, or not quite."""
    seq, d = x.shape[-2:]
    q, k, v = (x @ w[f"{name}_proj.weight"].T for name in "qkv")
    if knobs.swap == "qk":
        q, k = k, q
    if knobs.swap == "kv":
        k, v = v, k
    positions = torch.arange(seq)
    if theta is not None and knobs.rope_width == "model":
        q, k = turn(q, positions, theta, knobs), turn(k, positions, theta, knobs)
    if knobs.heads != "one":
        q, k, v = (_split(t, heads, knobs) for t in (q, k, v))
    if theta is not None and knobs.rope_width == "head":
        q, k, v = (
            turn(t, positions, theta, knobs) if n in knobs.rope_on else t for n, t in zip("qkv", (q, k, v), strict=True)
        )
    mask = torch.ones(seq, seq).tril(knobs.causal_shift).bool() if knobs.causal else None
    y = attend(q, k, v, mask, knobs)
    if knobs.heads == "not transposed back":
        y = y.reshape(*x.shape[:-1], d)
    elif knobs.heads == "strided rows":
        y = y.transpose(-3, -2).transpose(-2, -1).reshape(*x.shape[:-1], d)
    elif knobs.heads != "one":
        y = y.transpose(-3, -2).reshape(*x.shape[:-1], d)
    return y @ w["output_proj.weight"].T if knobs.output_projection else y


def _split(t: Tensor, heads: int, knobs: Knobs) -> Tensor:
    """(..., seq, d) to (..., heads, seq, d_head)."""
    d_head = t.shape[-1] // heads
    if knobs.heads == "strided rows":
        return t.reshape(*t.shape[:-1], d_head, heads).movedim(-1, -3)
    if knobs.heads == "not transposed":
        return t.reshape(*t.shape[:-2], heads, t.shape[-2], d_head)
    return t.reshape(*t.shape[:-1], heads, d_head).transpose(-3, -2)


def block(x: Tensor, w: Weights, heads: int, theta: float | None, knobs: Knobs) -> Tensor:
    """Pre-norm block, or not quite."""

    def norm(y: Tensor, name: str) -> Tensor:
        return y * w[name] / (y.square().mean(-1, keepdim=True) + knobs.eps).sqrt() if knobs.norm != "none" else y

    def attention(y: Tensor) -> Tensor:
        return self_attention(
            y, {n.removeprefix("attn."): v for n, v in w.items() if n.startswith("attn.")}, heads, theta, knobs
        )

    def feed_forward(y: Tensor) -> Tensor:
        gate = y @ w["ffn.w1.weight"].T
        return (gate * torch.sigmoid(gate) * (y @ w["ffn.w3.weight"].T)) @ w["ffn.w2.weight"].T

    first, second = ("ln2.weight", "ln1.weight") if knobs.norm == "swapped" else ("ln1.weight", "ln2.weight")
    if knobs.norm == "post":
        x = norm(x + attention(x), first)
        return norm(x + feed_forward(x), second)
    if knobs.norm == "parallel":
        return x + attention(norm(x, first)) + feed_forward(norm(x, second))
    if knobs.norm == "residual of the normed":
        normed = norm(x, first)
        x = normed + attention(normed)
        normed = norm(x, second)
        return normed + feed_forward(normed)
    y = attention(norm(x, first)) + (x if knobs.residual else 0)
    return feed_forward(norm(y, second)) + (y if knobs.residual else 0)


def model(ids: Tensor, w: Weights, layers: int, heads: int, theta: float, knobs: Knobs) -> Tensor:
    """The whole language model, or not quite."""
    x = w["token_embeddings.weight"][ids]
    if knobs.output == "scaled embeddings":
        x = x * math.sqrt(x.shape[-1])
    for layer in {
        "all": range(layers),
        "first only": [0] * layers,
        "reversed": range(layers)[::-1],
        "one too few": range(layers - 1),
    }[knobs.layers]:
        prefix = f"layers.{layer}."
        x = block(x, {n.removeprefix(prefix): v for n, v in w.items() if n.startswith(prefix)}, heads, theta, knobs)
    if knobs.final_norm:
        x = x * w["ln_final.weight"] / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    logits = x @ w["token_embeddings.weight" if knobs.output == "tied" else "lm_head.weight"].T
    return {"softmax": logits.softmax(-1), "last": logits[:, -1:]}.get(knobs.output, logits)


def _attention() -> list[Misconception]:
    def entry(name: str, says: str, example: str, **knobs: Any) -> Misconception:
        def run(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None) -> Tensor:
            return attend(Q, K, V, mask, Knobs(**knobs))

        return wrong("scaled_dot_product_attention", name, says, example, run_scaled_dot_product_attention=run)

    return [
        entry("no-scale", "scores are not divided by sqrt(d_k)", "d_k = 4 with scores 2 and 0", scale="none"),
        entry("scale-d_k", "scores are divided by d_k instead of its root", "d_k = 4 with scores 2 and 0", scale="d_k"),
        entry("mask-inverted", "True in the mask hides a key instead of showing it", "a mask with a single True per row", mask="true hides"),
        entry("mask-ignored", "the mask is not used", "a mask that shows the first key only", mask="ignored"),
        entry("mask-after-softmax", "the mask is applied after softmax, so that rows no longer add up to 1", "V = 1, which must give 1", mask="after softmax"),
        entry("mask-multiplied", "scores are multiplied by the mask: exp(0) is not 0", "a mask that shows the first key only", mask="multiplied"),
        entry("mask-too-weak", "masked scores are set to -1 instead of minus infinity", "large scores behind the mask", mask="minus one"),
        entry("wrong-axis", "softmax runs over the queries instead of the keys", "one query: every weight would be 1", softmax_axis=-2),
    ]  # fmt: skip


def _rope() -> list[Misconception]:
    def entry(name: str, says: str, example: str, **knobs: Any) -> Misconception:
        def run(d_k: int, theta: float, max_seq_len: int, in_query_or_key: Tensor, token_positions: Tensor) -> Tensor:
            return turn(in_query_or_key, token_positions, theta, Knobs(**knobs))

        return wrong("rope", name, says, example, run_rope=run)

    return [
        entry("halves", "the first half is paired with the second instead of neighbours (x0, x1), (x2, x3)", "x = (1, 0, 0, 0) at position 1", rope="halves"),
        entry("backwards", "the rotation goes the other way", "x = (1, 0) at position 1: (cos 1, sin 1)", rope="backwards"),
        entry("inverse-frequencies", "angles are multiplied by theta^(2k/d) instead of divided", "d = 4, position 1", rope="inverse frequencies"),
        entry("exponent-halved", "the exponent is k/d instead of 2k/d", "d = 4: the second pair turns by theta^(-1/2)", rope="exponent halved"),
        entry("exponent-from-one", "k counts from 1, as in the paper, but the first pair must turn by the position itself", "d = 2, position 1: the angle is 1", rope="exponent from one"),
        entry("same-sign", "both halves of a pair are added: no rotation, lengths change", "the length of a turned vector", rope="same sign"),
        entry("not-interleaved", "the turned halves are put side by side instead of interleaved again", "position 0, which must change nothing", rope="not interleaved again"),
        entry("positions-ignored", "positions are counted 0, 1, 2 whatever is given", "positions (5, 3)", positions="counted"),
        entry("positions-from-one", "positions count from 1", "position 0, which must change nothing", positions="from one"),
    ]  # fmt: skip


def _multihead() -> list[Misconception]:
    def entry(name: str, says: str, example: str, **knobs: Any) -> Misconception:
        return wrong("multihead_self_attention", name, says, example, **_multihead_adapters(Knobs(**knobs)))

    return [
        entry("mask-one-late", "each position also sees the next one (tril(1))", "two tokens: the first may see itself only", causal_shift=1),
        entry("mask-one-early", "each position does not see itself (tril(-1))", "one token, which must see itself", causal_shift=-1),
        entry("not-causal", "there is no causal mask", "two tokens: the first may see itself only", causal=False),
        entry("one-head", "all heads are computed as one", "two heads that look at different keys", heads="one"),
        entry("not-transposed", "the axes of heads and positions are mixed up by a reshape without a transpose", "two heads, two tokens", heads="not transposed"),
        entry("not-transposed-back", "heads are joined by a reshape without transposing back", "two heads, two tokens", heads="not transposed back"),
        entry("strided-heads", "head h takes every num_heads-th row instead of a run of rows", "two heads of two rows", heads="strided rows"),
        entry("no-output-projection", "the output projection is left out", "an output projection of 0", output_projection=False),
        entry("query-key-swapped", "queries and keys have changed places", "W_q = 0 and a mask", swap="qk"),
        entry("key-value-swapped", "keys and values have changed places", "W_v = 0, which must give 0", swap="kv"),
        entry("scale-d_model", "scores are not divided by the root of the head's width", "scores of the head", scale="none"),
        entry("rope-on-values", "RoPE also turns the values", "one token at position 1", rope_on="qkv"),
        entry("rope-on-queries-only", "RoPE turns the queries only", "two equal tokens at equal positions", rope_on="q"),
        entry("rope-whole-width", "RoPE runs over d_model before the heads are split", "the frequencies of the second head", rope_width="model"),
        entry("rope-halves", "RoPE pairs the first half with the second instead of neighbours", "d_head = 4", rope="halves"),
    ]  # fmt: skip


def _multihead_adapters(knobs: Knobs) -> dict[str, Callable[..., Tensor]]:
    def plain(d_model: int, num_heads: int, q_proj_weight: Tensor, k_proj_weight: Tensor, v_proj_weight: Tensor,
              o_proj_weight: Tensor, in_features: Tensor, theta: float | None = None, **_: Any) -> Tensor:  # fmt: skip
        weights = {"q_proj.weight": q_proj_weight, "k_proj.weight": k_proj_weight, "v_proj.weight": v_proj_weight,
                   "output_proj.weight": o_proj_weight}  # fmt: skip
        return self_attention(in_features, weights, num_heads, theta, knobs)

    return {"run_multihead_self_attention": plain, "run_multihead_self_attention_with_rope": plain}


def _block() -> list[Misconception]:
    def entry(name: str, says: str, example: str, **knobs: Any) -> Misconception:
        def run(
            d_model: int,
            num_heads: int,
            d_ff: int,
            max_seq_len: int,
            theta: float,
            weights: Weights,
            in_features: Tensor,
        ) -> Tensor:
            return block(
                in_features, weights, num_heads, None if knobs.get("rope") == "none" else theta, Knobs(**knobs)
            )

        return wrong("transformer_block", name, says, example, run_transformer_block=run)

    return [
        entry("post-norm", "the norm comes after the residual sum (post-norm)", "sublayers of 0: the block must be the identity", norm="post"),
        entry("no-norm", "there is no norm", "an x of 100", norm="none"),
        entry("no-residual", "the residual sums are left out", "sublayers of 0: the block must be the identity", residual=False),
        entry("residual-of-the-normed", "the normed input goes into the residual sum", "sublayers of 0: the block must be the identity", norm="residual of the normed"),
        entry("parallel", "both sublayers read x (parallel layers)", "a feed-forward that depends on the attention's output", norm="parallel"),
        entry("norms-swapped", "ln1 and ln2 have changed places", "ln1 = 1, ln2 = 2", norm="swapped"),
        entry("no-rope", "RoPE is left out", "two tokens in the other order", rope="none"),
        entry("not-causal", "attention is not causal", "a change of the last token changes the first", causal=False),
    ]  # fmt: skip


def _model() -> list[Misconception]:
    def entry(name: str, says: str, example: str, **knobs: Any) -> Misconception:
        def run(vocab_size: int, context_length: int, d_model: int, num_layers: int, num_heads: int, d_ff: int,
                rope_theta: float, weights: Weights, in_indices: Tensor) -> Tensor:  # fmt: skip
            return model(in_indices, weights, num_layers, num_heads, rope_theta, Knobs(**knobs))

        return wrong("transformer_lm", name, says, example, run_transformer_lm=run)

    return [
        entry("probabilities", "softmax is applied to the logits", "rows that add up to 1", output="softmax"),
        entry("last-only", "logits of the last position only are returned", "the shape of the output", output="last"),
        entry("no-final-norm", "the final norm is left out", "ln_final = 0, which must give 0", final_norm=False),
        entry("tied", "the head uses the embedding's table instead of lm_head", "lm_head = 0, which must give 0", output="tied"),
        entry("scaled-embeddings", "embeddings are multiplied by sqrt(d_model)", "a model without layers", output="scaled embeddings"),
        entry("same-layer", "the first layer's weights are used for all layers", "two layers with different weights", layers="first only"),
        entry("layers-reversed", "layers are applied in the opposite order", "two layers with different weights", layers="reversed"),
        entry("layer-missing", "the last layer is left out", "one layer", layers="one too few"),
        entry("not-causal", "attention is not causal", "a change of the last token changes earlier logits", causal=False),
        entry("post-norm", "blocks are post-norm", "layers of 0", norm="post"),
    ]  # fmt: skip
