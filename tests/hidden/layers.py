"""Assignment 1, layers: against `numpy_transformer` in float64 with fresh shapes, weights and inputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cs336_course.grading.suite import Case

from . import numpy_transformer as oracle
from .comparing import call, difference

Rng = np.random.Generator


def normal(rng: Rng, *shape: int, scale: float = 1.0) -> np.ndarray:
    """float32 normal numbers."""
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def double(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights in float64."""
    return {name: value.astype(np.float64) for name, value in weights.items()}


def linear(rng: Rng) -> list[Case]:
    cases = []
    for shape in [(3, 5), (2, 3, 4), ()]:
        d_in, d_out = (int(n) for n in rng.integers(4, 12, size=2) + np.array([0, 8]))
        weights, x = normal(rng, d_out, d_in), normal(rng, *shape, d_in)
        arguments = {"d_in": d_in, "d_out": d_out, "weights": weights, "in_features": x}
        expected = lambda x=x, w=weights: x.astype(np.float64) @ w.T.astype(np.float64)  # noqa: E731
        cases.append(
            call(f"{len(shape)}-leading-axes", "x times the transposed weight", "run_linear", arguments, expected)
        )
    square = normal(rng, 6, 6)
    x = normal(rng, 4, 6)
    arguments = {"d_in": 6, "d_out": 6, "weights": square, "in_features": x}
    return [
        *cases,
        call("square", "the weight is transposed, not the input", "run_linear", arguments, lambda: x @ square.T),
    ]


def embedding(rng: Rng) -> list[Case]:
    cases = []
    for shape in [(7,), (2, 5), (2, 2, 3)]:
        weights, ids = normal(rng, 23, 6), rng.integers(0, 23, size=shape)
        ids.flat[0], ids.flat[-1] = 22, 0
        arguments = {"vocab_size": 23, "d_model": 6, "weights": weights, "token_ids": ids}
        expected = lambda ids=ids, weights=weights: weights[ids]  # noqa: E731
        cases.append(
            call(
                f"{len(shape)}-axes", "rows of the table, exactly", "run_embedding", arguments, expected, atol=0, rtol=0
            )
        )
    return cases


def rmsnorm(rng: Rng) -> list[Case]:
    def case(id: str, text: str, x: np.ndarray, eps: float, **options) -> Case:
        gain = normal(rng, x.shape[-1]) + np.float32(1)
        arguments = {"d_model": x.shape[-1], "eps": eps, "weights": gain, "in_features": x}
        expected = lambda: oracle.rmsnorm(x.astype(np.float64), gain.astype(np.float64), eps)  # noqa: E731
        return call(id, text, "run_rmsnorm", arguments, expected, **options)

    half = normal(rng, 3, 8, scale=400).astype(np.float16).astype(np.float32)
    return [
        case("plain", "x g / sqrt(mean of x^2 + eps) over the last axis", normal(rng, 2, 3, 8) + 0.5, 1e-5),
        case("small", "eps stands inside the root and is the one given", normal(rng, 4, 8, scale=0.05), 1e-2),
        case("wide", "each position for itself", normal(rng, 3, 16) * np.array([[1], [10], [100]], np.float32), 1e-6),
        case("half", "float16 is computed in float32 and returned as float16", half, 1e-5, dtype="float16",
             atol=2e-2, rtol=4e-3),
    ]  # fmt: skip


def positionwise_feedforward(rng: Rng) -> list[Case]:
    def case(id: str, text: str, shape: tuple[int, ...], d: int, d_ff: int, scale: float) -> Case:
        weights = {
            "w1": normal(rng, d_ff, d, scale=0.5),
            "w2": normal(rng, d, d_ff, scale=0.5),
            "w3": normal(rng, d_ff, d),
        }
        x = normal(rng, *shape, d, scale=scale)
        arguments: dict[str, Any] = {f"{name}_weight": value for name, value in weights.items()}
        arguments |= {"d_model": d, "d_ff": d_ff, "in_features": x}
        named = double({f"{name}.weight": value for name, value in weights.items()})
        expected = lambda: oracle.feedforward(x.astype(np.float64), named)  # noqa: E731
        return call(id, text, "run_swiglu", arguments, expected, atol=1e-4)

    return [
        case("plain", "W2 (SiLU(W1 x) * W3 x)", (2, 5), 8, 12, 1.0),
        case("square", "the three matrices have their own places", (3,), 6, 6, 1.0),
        case("large", "SiLU of large arguments", (4,), 8, 16, 20.0),
    ]


def rope(rng: Rng) -> list[Case]:
    def case(id: str, text: str, shape: tuple[int, ...], d: int, theta: float, positions: np.ndarray) -> Case:
        x = normal(rng, *shape, d)
        arguments = {"d_k": d, "theta": theta, "max_seq_len": 32, "in_query_or_key": x, "token_positions": positions}
        expected = lambda: oracle.rope(x.astype(np.float64), positions, theta)  # noqa: E731
        return call(id, text, "run_rope", arguments, expected, atol=1e-4)

    return [
        case("in-order", "neighbouring pairs turned by position * theta^(-2k/d)", (2, 7), 8, 10000.0, np.arange(7)),
        case("any-positions", "the positions given, not 0, 1, 2", (2, 6), 12, 500.0, rng.permutation(31)[:6]),
        case("zero", "position 0 turns nothing", (1, 3), 4, 100.0, np.zeros(3, dtype=np.int64)),
        case("heads", "leading axes are free", (2, 3, 5), 4, 100.0, np.arange(5) + 3),
    ]


def softmax(rng: Rng) -> list[Case]:
    def case(id: str, text: str, x: np.ndarray, dim: int) -> Case:
        def expected() -> np.ndarray:
            shifted = np.exp(x.astype(np.float64) - x.max(axis=dim, keepdims=True))
            return shifted / shifted.sum(axis=dim, keepdims=True)

        return call(id, text, "run_softmax", {"in_features": x, "dim": dim}, expected, atol=1e-6)

    apart = normal(rng, 3, 5) + np.array([[0], [500], [-500]], np.float32)
    return [
        case("last", "exponentials normalised along dim", normal(rng, 4, 6), -1),
        case("first", "along the axis asked for", normal(rng, 4, 6), 0),
        case("middle", "along the axis asked for, of three", normal(rng, 3, 4, 5), 1),
        case("large", "no overflow for large numbers", normal(rng, 3, 5, scale=50) + 1000, -1),
        case("negative", "no division by zero for very negative numbers", normal(rng, 3, 5) - 2000, -1),
        case("apart", "the maximum of each slice, not of the whole tensor", apart, -1),
    ]


def cross_entropy(rng: Rng) -> list[Case]:
    def case(id: str, text: str, x: np.ndarray, y: np.ndarray, **tolerances: Any) -> Case:
        def expected() -> float:
            z = x.astype(np.float64)
            top = z.max(-1, keepdims=True)
            lse = np.log(np.exp(z - top).sum(-1)) + top[..., 0]
            return float((lse - np.take_along_axis(z, y[..., None], -1)[..., 0]).mean())

        return call(id, text, "run_cross_entropy", {"inputs": x, "targets": y}, expected, **tolerances)

    sure = np.where(np.arange(6) == np.array([[2], [5]]), 18.0, 0.0).astype(np.float32)
    y = rng.integers(0, 9, size=8)
    return [
        case("plain", "mean of log-sum-exp minus the target's logit, in nats", normal(rng, 8, 9), y),
        case("large", "no overflow for large logits", normal(rng, 8, 9, scale=1000), y, atol=1e-2),
        case("apart", "small rows beside large ones", normal(rng, 8, 9) + 400 * np.arange(8, dtype=np.float32)[:, None], y,
             atol=1e-3),
        case("sure", "a confident right answer keeps its tiny loss", sure, np.array([2, 5]), atol=2e-7, rtol=0.05),
    ]  # fmt: skip


def scaled_dot_product_attention(rng: Rng) -> list[Case]:
    def case(
        id: str, text: str, lead: tuple[int, ...], sizes: tuple[int, int, int, int], masked: bool, scale=1.0
    ) -> Case:
        queries, keys, d_k, d_v = sizes
        q, k, v = (
            normal(rng, *lead, queries, d_k, scale=scale),
            normal(rng, *lead, keys, d_k),
            normal(rng, *lead, keys, d_v),
        )
        arguments: dict[str, object] = {"Q": q, "K": k, "V": v}
        mask = None
        if masked:
            mask = rng.random((*lead, queries, keys)) > 0.4
            mask[..., 0] = True
            arguments["mask"] = mask
        q64, k64, v64 = (t.astype(np.float64) for t in (q, k, v))
        return call(id, text, "run_scaled_dot_product_attention", arguments,
                    lambda: oracle.attention(q64, k64, v64, mask), atol=1e-4)  # fmt: skip

    return [
        case("plain", "softmax(Q K^T / sqrt(d_k)) V without a mask", (2,), (4, 4, 8, 8), False),
        case("masked", "True in the mask means: may attend", (2,), (5, 7, 8, 4), True),
        case("two-axes", "leading axes are free, each with its own mask", (2, 3), (3, 5, 4, 6), True),
        case("sharp", "large scores: masked keys get exactly nothing", (2,), (6, 6, 16, 8), True, 10.0),
    ]


def _attention_weights(rng: Rng, d: int) -> dict[str, np.ndarray]:
    names = ("q_proj", "k_proj", "v_proj", "output_proj")
    return {f"{name}.weight": normal(rng, d, d, scale=1.5 / math.sqrt(d)) for name in names}


def multihead_self_attention(rng: Rng) -> list[Case]:
    def case(id: str, text: str, batch: int, seq: int, heads: int, d: int, theta: float | None) -> Case:
        weights, x = _attention_weights(rng, d), normal(rng, batch, seq, d)
        arguments: dict[str, Any] = {f"{short}_proj_weight": weights[f"{name}.weight"]
                     for short, name in zip("qkvo", ("q_proj", "k_proj", "v_proj", "output_proj"), strict=True)}  # fmt: skip
        arguments |= {"d_model": d, "num_heads": heads, "in_features": x}
        function = "run_multihead_self_attention"
        if theta is not None:
            function += "_with_rope"
            arguments |= {"max_seq_len": 16, "theta": theta, "token_positions": np.arange(seq)[None]}
        expected = lambda: oracle.self_attention(x.astype(np.float64), double(weights), heads, theta)  # noqa: E731
        return call(id, text, function, arguments, expected, atol=1e-4)

    return [
        case("one-head", "causal attention with four projections", 2, 6, 1, 8, None),
        case("heads", "each head has its own rows of the projections", 2, 5, 4, 12, None),
        case("one-token", "a sequence of one token", 1, 1, 2, 8, None),
        case("rope", "RoPE on queries and keys of each head, not on values", 2, 6, 2, 16, 100.0),
        case("rope-heads", "RoPE of width d_model / num_heads", 1, 7, 4, 16, 10000.0),
    ]


def block_weights(rng: Rng, d: int, d_ff: int) -> dict[str, np.ndarray]:
    """State of a pre-norm block with SwiGLU."""
    return {
        **{f"attn.{name}": value for name, value in _attention_weights(rng, d).items()},
        "ln1.weight": normal(rng, d, scale=0.3) + 1,
        "ffn.w1.weight": normal(rng, d_ff, d, scale=0.4),
        "ffn.w2.weight": normal(rng, d, d_ff, scale=0.4),
        "ffn.w3.weight": normal(rng, d_ff, d, scale=0.4),
        "ln2.weight": normal(rng, d, scale=0.3) + 1,
    }


def transformer_block(rng: Rng) -> list[Case]:
    def case(id: str, text: str, batch: int, seq: int, heads: int, d: int) -> Case:
        weights, x = block_weights(rng, d, 12), normal(rng, batch, seq, d, scale=2.0) + np.float32(0.3)
        arguments = {
            "d_model": d, "num_heads": heads, "d_ff": 12, "max_seq_len": 16, "theta": 1000.0, "weights": weights,
            "in_features": x,
        }  # fmt: skip
        expected = lambda: oracle.block(x.astype(np.float64), double(weights), heads, 1000.0)  # noqa: E731
        return call(id, text, "run_transformer_block", arguments, expected, atol=2e-4)

    return [
        case("plain", "y = x + attention(norm1 x), then y + ffn(norm2 y), with RoPE", 2, 5, 2, 8),
        case("short", "sequences shorter than max_seq_len, more heads", 3, 3, 4, 16),
    ]


def transformer_lm(rng: Rng) -> list[Case]:
    vocab, d, layers, heads, theta = 29, 16, 2, 2, 1000.0
    weights = {"token_embeddings.weight": normal(rng, vocab, d)}
    for layer in range(layers):
        weights |= {f"layers.{layer}.{name}": value for name, value in block_weights(rng, d, 24).items()}
    weights |= {"ln_final.weight": normal(rng, d, scale=0.3) + 1, "lm_head.weight": normal(rng, vocab, d, scale=0.5)}
    base = {"vocab_size": vocab, "context_length": 12, "d_model": d, "num_layers": layers, "num_heads": heads,
            "d_ff": 24, "rope_theta": theta, "weights": weights}  # fmt: skip
    ids = rng.integers(0, vocab, size=(2, 12))

    def expected(rows: np.ndarray) -> np.ndarray:
        return oracle.language_model(rows, double(weights), heads, theta)

    changed = ids.copy()
    changed[:, 7:] = (changed[:, 7:] + 1 + rng.integers(0, vocab - 1, size=(2, 5))) % vocab

    def no_leak(answer):
        value = answer.get("value")
        right = expected(ids)[:, :7]
        early = value[:, :7] if type(value) is np.ndarray and value.shape == (2, 12, vocab) else value
        return difference(early, right, atol=1e-3, rtol=1e-3, what="logits before a changed token")

    name = "run_transformer_lm"
    probe = Case("no-leak", "a later token changes no earlier logit", "call",
                 {"function": name, "arguments": {**base, "in_indices": changed}}, no_leak)  # fmt: skip
    return [
        call("full", "logits, not probabilities, of every position", name, {**base, "in_indices": ids}, lambda: expected(ids), atol=1e-3, rtol=1e-3),
        call("short", "sequences shorter than the context", name, {**base, "in_indices": ids[:, :5]}, lambda: expected(ids[:, :5]), atol=1e-3, rtol=1e-3),
        call("one", "a single token", name, {**base, "in_indices": ids[:1, :1]}, lambda: expected(ids[:1, :1]), atol=1e-3, rtol=1e-3),
        probe,
    ]  # fmt: skip
