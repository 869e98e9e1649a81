"""Wrong FlashAttention and RMSNorm, as deviations (`how`) of one small right implementation each; "" is right.

Read next: `data_parallel.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cs336_course.misconceptions.bank import Misconception, wrong

TILE = 64
EPS = 1e-5


def bank() -> list[Misconception]:
    """All entries of this file."""
    return [*_flash_forward(), *_flash_backward(), *_rmsnorm_forward(), *_gain(), *_input(), *_rmsnorm_backward()]


def flash(how: str = "") -> type[torch.autograd.Function]:
    """FlashAttention-2 in tiles, or not quite."""

    class Flash(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, is_causal: bool = how == "causal-by-default") -> Tensor:
            out, lse, kept = attend(q, k, v, is_causal, how)
            ctx.save_for_backward(q, k, v, out, lse, *kept)
            ctx.is_causal = is_causal
            return out

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            q, k, v, out, lse, *_ = ctx.saved_tensors
            return *attention_gradients(q, k, v, out, lse, grads[0], ctx.is_causal, how), None

    return Flash


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, how: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Output, L, and further tensors to save."""
    tile = max(len(t) for t in (q[0], k[0])) if how == "all-scores-at-once" else TILE
    parts = [_row_of_tiles(q[:, i : i + tile], k, v, i, causal, tile, how) for i in range(0, q.shape[1], tile)]
    out, lse = (torch.cat([part[n] for part in parts], dim=1) for n in (0, 1))
    return out, lse, [scores_of(q, k, causal, how).softmax(-1)] if how == "saves-scores" else []


def _row_of_tiles(
    q: Tensor, k: Tensor, v: Tensor, start: int, causal: bool, tile: int, how: str
) -> tuple[Tensor, Tensor]:
    """One tile of queries with all tiles of keys."""
    top, total, out = torch.full(q.shape[:2], -math.inf), torch.zeros(q.shape[:2]), torch.zeros_like(q)
    for j in range(0, k.shape[1], tile):
        scores = scores_of(q, k[:, j : j + tile], causal, how, 0 if how == "mask-counts-in-tile" else start - j)
        new = torch.maximum(top, scores.amax(-1))
        if how == "no-maximum":
            new = torch.zeros_like(top)
        p, shrink = torch.exp(scores - new[..., None]), torch.exp(top - new)
        total = total * (1.0 if how == "normaliser-not-rescaled" else shrink) + p.sum(-1)
        out = out * (1.0 if how == "output-not-rescaled" else shrink[..., None]) + p @ v[:, j : j + tile]
        top = new
    lse = {"L-without-maximum": total.log(), "L-is-the-maximum": top, "L-without-log": top + total}.get(
        how, top + total.log()
    )
    return (
        out if how == "not-normalised" else out / total[..., None],
        lse * math.log2(math.e) if how == "L-in-log2" else lse,
    )


def scores_of(q: Tensor, k: Tensor, causal: bool, how: str, ahead: int = 0) -> Tensor:
    """Scaled and masked scores; the first query stands `ahead` places after the first key."""
    d = q.shape[-1]
    scores = q @ k.transpose(-2, -1) * {"no-scale": 1.0, "scale-by-d": 1 / d}.get(how, d**-0.5)
    if not causal or how in ("causal-ignored", "backward-causal-ignored"):
        return scores
    distance = torch.arange(k.shape[1])[None, :] - torch.arange(q.shape[1])[:, None] - ahead
    later = distance > {"sees-the-next": 1, "hides-itself": -1}.get(how, 0)
    return scores.masked_fill(later, 0.0 if how == "masked-to-zero" else -math.inf)


def attention_gradients(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad: Tensor, causal: bool, how: str
) -> tuple[Tensor, Tensor, Tensor]:
    """dQ, dK, dV, or not quite."""
    p = torch.exp(scores_of(q, k, causal, how) - (0.0 if how == "P-not-normalised" else lse[..., None]))
    d_p = grad @ v.transpose(-2, -1)
    rows = (grad * out).sum(-1, keepdim=True)
    rows = {"no-D": 0 * rows, "D-added": -rows, "D-is-mean": rows / grad.shape[-1]}.get(how, rows)
    if how == "D-without-dO":
        rows = out.sum(-1, keepdim=True)
    d_s = d_p - rows if how == "dS-without-P" else p * (d_p - rows)
    scale = q.shape[-1] ** -0.5
    d_q = d_s @ k * (1.0 if how in ("dQ-not-scaled", "dQ-dK-not-scaled") else scale)
    d_k = d_s.transpose(-2, -1) @ q * (1.0 if how == "dQ-dK-not-scaled" else scale)
    d_v = p @ grad if how == "dV-not-transposed" else p.transpose(-2, -1) @ grad
    return (d_k, d_q, d_v) if how == "dQ-dK-swapped" else (d_q, d_k, d_v)


def _flash_forward() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        function = flash(how)
        return wrong("flash_forward", how, says, example, get_flashattention_autograd_function_pytorch=lambda: function,
                     get_flashattention_autograd_function_triton=lambda: function)  # fmt: skip

    return [
        entry("no-scale", "scores are not divided by sqrt(d)", "d = 16 and one large score"),
        entry("scale-by-d", "scores are divided by d instead of its root", "d = 16 and one large score"),
        entry("sees-the-next", "a causal query also sees the key after its own place", "V of rows 0, 1, 2: the first output is 0"),
        entry("hides-itself", "a causal query does not see the key of its own place", "one query and one key"),
        entry("masked-to-zero", "masked scores are set to 0 instead of minus infinity", "large negative scores and a mask"),
        entry("causal-ignored", "is_causal is not used", "two queries, two keys: the first output is the first row of V"),
        entry("mask-counts-in-tile", "the causal mask counts places from the start of the tile instead of the sequence", "a sequence of two tiles"),
        entry("causal-by-default", "is_causal is True by default", "apply(q, k, v) without the argument"),
        entry("no-maximum", "exp is taken without subtracting the running maximum", "scores of 1000, which overflow"),
        entry("output-not-rescaled", "the output so far is not multiplied by exp(m_old - m_new)", "two tiles of which the second has the larger scores"),
        entry("normaliser-not-rescaled", "the normaliser so far is not multiplied by exp(m_old - m_new)", "two tiles of which the second has the larger scores"),
        entry("not-normalised", "the output is not divided by the normaliser l at the end", "V = 1, which must give 1"),
        entry("L-in-log2", "L is a logarithm to base 2", "one key with score 1: L = 1"),
        entry("L-without-maximum", "L is log l, without the maximum that was subtracted", "one key with score 5: L = 5"),
        entry("L-is-the-maximum", "L is the running maximum, without log l", "two keys with score 0: L = log 2"),
        entry("L-without-log", "L is m + l instead of m + log l", "one key with score 0: L = 0"),
        entry("all-scores-at-once", "forward makes the whole matrix of scores: right, but its memory grows with the square of the sequence", "a sequence of 512: no tensor of 512 x 512"),
        entry("saves-scores", "P is saved for backward: right, but the point is to recompute it from L", "ctx.saved_tensors"),
    ]  # fmt: skip


def _flash_backward() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        function = _with_right_forward(how)
        return wrong("flash_backward", how, says, example, get_flashattention_autograd_function_pytorch=lambda: function,
                     get_flashattention_autograd_function_triton=lambda: function)  # fmt: skip

    return [
        entry("no-D", "dS = P * dP, without subtracting D", "one key: its gradient is 0"),
        entry("D-added", "D is added to dP instead of subtracted", "one key: its gradient is 0"),
        entry("D-is-mean", "D is a mean over the width instead of a sum", "one key: its gradient is 0"),
        entry("D-without-dO", "D is the row sum of O, not of O * dO", "one key: its gradient is 0"),
        entry("dS-without-P", "dS lacks the factor P", "a masked key: its gradient is 0"),
        entry("P-not-normalised", "P = exp(S) instead of exp(S - L)", "two equal keys: P is 1/2"),
        entry("dQ-not-scaled", "dQ lacks the factor 1/sqrt(d), which dK has", "d = 16: a factor of 4"),
        entry("dQ-dK-not-scaled", "dQ and dK lack the factor 1/sqrt(d)", "d = 16: a factor of 4"),
        entry("backward-causal-ignored", "backward recomputes P without the causal mask", "two queries: the second key has no gradient from the first"),
        entry("dV-not-transposed", "dV = P dO instead of P^T dO", "two queries that look at one key"),
        entry("dQ-dK-swapped", "the gradients of Q and K have changed places", "K = 0: dQ is 0"),
    ]  # fmt: skip


def _with_right_forward(how: str) -> type[torch.autograd.Function]:
    """The class whose backward alone deviates."""

    class Flash(flash()):  # type: ignore[misc]
        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            q, k, v, out, lse = ctx.saved_tensors
            return *attention_gradients(q, k, v, out, lse, grads[0], ctx.is_causal, how), None

    return Flash


def root_of(x: Tensor, how: str = "") -> Tensor:
    """sqrt(mean of squares + eps), or not quite."""
    mean = x.square().sum(-1, keepdim=True) if how == "sum-not-mean" else x.square().mean(-1, keepdim=True)
    if how == "eps-outside":
        return mean.sqrt() + EPS
    value = mean + {"no-eps": 0.0, "eps-1e-6": 1e-6}.get(how, EPS)
    return value if how == "no-root" else value.sqrt()


def norm(x: Tensor, g: Tensor, how: str = "") -> Tensor:
    """RMSNorm, or not quite."""
    if how == "mean-subtracted":
        x = x - x.mean(-1, keepdim=True)
    y = x / root_of(x, how)
    return y * {"no-gain": torch.ones_like(g), "gain-plus-one": g + 1}.get(how, g)


def gain_gradient(grad: Tensor, x: Tensor, g: Tensor, how: str = "") -> Tensor:
    """The gradient of the gain, or not quite."""
    product = grad * (x if how == "not-normalised" else x / root_of(x, how))
    if how == "times-gain":
        product = product * g
    if how == "first-row":
        return product.reshape(-1, x.shape[-1])[0]
    if how == "last-axis":
        return product.sum(-1).flatten()
    if how == "first-axis":
        return product.sum(0)
    return product.reshape(-1, x.shape[-1]).mean(0) if how == "mean-of-rows" else product.reshape(-1, len(g)).sum(0)


def input_gradient(grad: Tensor, x: Tensor, g: Tensor, how: str = "") -> Tensor:
    """The gradient of the input, or not quite."""
    root = root_of(x, how)
    y = x / root
    scaled = grad if how in ("no-gain", "gain-last") else grad * g
    through = y * (scaled * y).mean(-1, keepdim=True)
    if how == "sum-in-second-term":
        through = through * x.shape[-1]
    if how == "y-once":
        through = (scaled * y).mean(-1, keepdim=True)
    through = {"direct-term-only": 0 * through, "terms-added": -through}.get(how, through)
    d_x = scaled - through if how == "not-divided" else (scaled - through) / root
    return d_x * g if how == "gain-last" else d_x


def rmsnorm(forward_how: str = "", input_how: str = "", gain_how: str = "") -> type[torch.autograd.Function]:
    """RMSNorm as a Function, or not quite."""

    class RMSNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
            ctx.save_for_backward(x, g)
            return norm(x, g, forward_how)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            x, g = ctx.saved_tensors
            return input_gradient(grads[0], x, g, input_how), gain_gradient(grads[0], x, g, gain_how)

    return RMSNorm


def _classes(function: type[torch.autograd.Function]) -> dict[str, Callable[..., Any]]:
    return {f"get_rmsnorm_autograd_function_{kind}": lambda: function for kind in ("pytorch", "triton")}


def _rmsnorm_forward() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        return wrong("triton_rmsnorm_forward", how, says, example, **_classes(rmsnorm(how)))

    return [
        entry("no-gain", "the gain is left out", "g = 2"),
        entry("gain-plus-one", "the gain is 1 + g", "g = 0, which must give 0"),
        entry("no-eps", "eps is left out", "inputs of 0.001"),
        entry("eps-1e-6", "eps is 1e-6 instead of 1e-5", "inputs of 0.001"),
        entry("eps-outside", "eps is added to the root instead of inside", "inputs of 0.001"),
        entry("sum-not-mean", "squares are summed instead of averaged", "x = 1: y is 1"),
        entry("no-root", "x is divided by the mean square without the root", "x = 2: y is 1"),
        entry("mean-subtracted", "the mean is subtracted, as in LayerNorm", "x = 1: y is 1, not 0"),
    ]


GAIN = [
    ("mean-of-rows", "rows are averaged instead of summed", "two equal rows: twice one row's gradient"),
    (
        "not-normalised",
        "grad * x is summed, without the division by the root",
        "x = 2 everywhere: x over its root is 1",
    ),
    ("times-gain", "the gain is a factor of its own gradient", "g = 0: its gradient is not 0"),
    ("first-axis", "only the first axis is summed", "x of three axes: the gradient has one"),
    ("first-row", "only the first row counts", "two rows"),
    ("last-axis", "the sum runs over the width instead of the rows", "the shape of the gradient is that of g"),
    ("no-eps", "eps is left out when the root is recomputed", "inputs of 0.001"),
]
INPUT = [
    ("direct-term-only", "the root is taken for a constant: the second term is missing", "x of one number: the gradient is nearly 0"),
    ("terms-added", "the second term is added instead of subtracted", "x of one number: the gradient is nearly 0"),
    ("no-gain", "the gain is left out", "g = 0: the gradient is 0"),
    ("gain-last", "the gain is multiplied at the end instead of into grad before the mean", "a gain that is not constant"),
    ("sum-in-second-term", "the second term is summed over the width instead of averaged", "a width of 2"),
    ("y-once", "the second term lacks its factor x / root", "x = (1, -1)"),
    ("not-divided", "the result is not divided by the root", "x = 100: the gradient is small"),
    ("no-eps", "eps is left out when the root is recomputed", "inputs of 0.001"),
]  # fmt: skip


def _gain() -> list[Misconception]:
    return [
        wrong("rmsnorm_jvp_g", how, says, example,
              rmsnorm_backward_g_pytorch=lambda grad_output, x, g, how=how: gain_gradient(grad_output, x, g, how))
        for how, says, example in GAIN
    ]  # fmt: skip


def _input() -> list[Misconception]:
    return [
        wrong("rmsnorm_jvp_x", how, says, example,
              rmsnorm_backward_x_pytorch=lambda grad_output, x, g, how=how: input_gradient(grad_output, x, g, how))
        for how, says, example in INPUT
    ]  # fmt: skip


def _rmsnorm_backward() -> list[Misconception]:
    found = [
        wrong("triton_rmsnorm_backward", f"x-{how}", f"for x, {says}", example, **_classes(rmsnorm("", how)))
        for how, says, example in INPUT
    ]
    shapes = ("first-axis", "last-axis")  # autograd itself refuses a gradient of another shape
    found += [
        wrong("triton_rmsnorm_backward", f"g-{how}", f"for g, {says}", example, **_classes(rmsnorm("", "", how)))
        for how, says, example in GAIN
        if how not in shapes
    ]
    return found
