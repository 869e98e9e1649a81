"""Wrong linear, embedding, RMSNorm, SwiGLU, softmax and cross-entropy. Read next: `attention.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cs336_course.misconceptions.bank import Misconception, wrong


def bank() -> list[Misconception]:
    """All entries of this file."""
    return [*_linear(), *_embedding(), *_rmsnorm(), *_swiglu(), *_softmax(), *_cross_entropy()]


def _linear() -> list[Misconception]:
    def entry(name: str, says: str, example: str, compute: Any) -> Misconception:
        def run_linear(d_in: int, d_out: int, weights: Tensor, in_features: Tensor) -> Tensor:
            return compute(in_features, weights)

        return wrong("linear", name, says, example, run_linear=run_linear)

    def initial(x: Tensor, w: Tensor) -> Tensor:
        return x @ torch.zeros_like(w).T

    return [
        entry("not-transposed", "x is multiplied by W instead of its transpose", "a weight that is not symmetric", lambda x, w: x @ w),
        entry("bias", "a bias of ones is added", "x = 0, which must give 0", lambda x, w: x @ w.T + 1),
        entry("scaled", "the result is divided by sqrt(d_in)", "W = the identity", lambda x, w: x @ w.T / w.shape[1] ** 0.5),
        entry("flattened", "the leading axes are flattened into one", "x of shape (1, 1, d_in)", lambda x, w: (x @ w.T).reshape(-1, w.shape[0])),
        entry("activation", "a ReLU follows", "W = minus the identity, x = 1", lambda x, w: (x @ w.T).clamp(min=0)),
        entry("not-loaded", "the given weights are not loaded and zeros are used", "W = the identity", initial),
    ]  # fmt: skip


def _embedding() -> list[Misconception]:
    def entry(name: str, says: str, example: str, compute: Any) -> Misconception:
        def run_embedding(vocab_size: int, d_model: int, weights: Tensor, token_ids: Tensor) -> Tensor:
            return compute(weights, token_ids)

        return wrong("embedding", name, says, example, run_embedding=run_embedding)

    return [
        entry("off-by-one", "the row before the token's is taken", "token 0", lambda w, i: w[i - 1]),
        entry("clamped", "the last row is never reached", "token vocab_size - 1", lambda w, i: w[i.clamp(max=len(w) - 2)]),
        entry("scaled", "rows are multiplied by sqrt(d_model), as in Vaswani et al.", "a table of ones", lambda w, i: w[i] * w.shape[1] ** 0.5),
        entry("normalised", "rows are scaled to length 1", "a table of twos", lambda w, i: w[i] / w[i].norm(dim=-1, keepdim=True)),
        entry("flattened", "the axes of the ids are flattened", "ids of shape (1, 1)", lambda w, i: w[i.reshape(-1)]),
        entry("padding", "token 0 is taken for padding and gives zeros", "token 0", lambda w, i: w[i] * (i != 0)[..., None]),
    ]  # fmt: skip


def _rmsnorm() -> list[Misconception]:
    def entry(name: str, says: str, example: str, compute: Any) -> Misconception:
        def run_rmsnorm(d_model: int, eps: float, weights: Tensor, in_features: Tensor) -> Tensor:
            x = in_features.float()
            return compute(x, weights.float(), eps).to(in_features.dtype)

        return wrong("rmsnorm", name, says, example, run_rmsnorm=run_rmsnorm)

    def square(x: Tensor) -> Tensor:
        return x.square().mean(-1, keepdim=True)

    def half(d_model: int, eps: float, weights: Tensor, in_features: Tensor) -> Tensor:
        return in_features * weights / torch.sqrt(square(in_features) + eps)

    def returns_float(d_model: int, eps: float, weights: Tensor, in_features: Tensor) -> Tensor:
        x = in_features.float()
        return x * weights.float() / torch.sqrt(square(x) + eps)

    return [
        entry("eps-outside", "eps is added to the root instead of inside it", "x = 0.1 with eps = 0.01", lambda x, g, e: x * g / (square(x).sqrt() + e)),
        entry("eps-ignored", "eps is fixed at 1e-5 whatever is asked for", "eps = 0.01 with a small x", lambda x, g, e: x * g / (square(x) + 1e-5).sqrt()),
        entry("sum", "the sum of squares is used instead of their mean", "x = (1, 1): the norm is 1, not sqrt 2", lambda x, g, e: x * g / (x.square().sum(-1, keepdim=True) + e).sqrt()),
        entry("layer-norm", "the mean is subtracted first, which makes it LayerNorm", "x = (1, 1), which must not give 0", lambda x, g, e: (x - x.mean(-1, keepdim=True)) * g / ((x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True) + e).sqrt()),
        entry("no-gain", "the gain is left out", "g = 2", lambda x, g, e: x / (square(x) + e).sqrt()),
        entry("whole-tensor", "one norm is taken over all positions", "two rows of different size", lambda x, g, e: x * g / (x.square().mean() + e).sqrt()),
        entry("offset-gain", "1 is added to the gain", "g = 0, which must give 0", lambda x, g, e: x * (1 + g) / (square(x) + e).sqrt()),
        wrong("rmsnorm", "no-upcast", "squares are taken in float16, where anything over 255 overflows", "a float16 x of 300", run_rmsnorm=half),
        wrong("rmsnorm", "stays-float32", "the result is not cast back to the input's dtype", "any float16 x", run_rmsnorm=returns_float),
    ]  # fmt: skip


def _swiglu() -> list[Misconception]:
    def entry(name: str, says: str, example: str, compute: Any) -> Misconception:
        def run_swiglu(
            d_model: int, d_ff: int, w1_weight: Tensor, w2_weight: Tensor, w3_weight: Tensor, in_features: Tensor
        ) -> Tensor:
            return compute(in_features, w1_weight.T, w2_weight.T, w3_weight.T)

        return wrong("positionwise_feedforward", name, says, example, run_swiglu=run_swiglu)

    def silu(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    return [
        entry("swapped", "W1 and W3 have changed places", "W1 = 0, which must give 0 either way; then W1 = 1, W3 = 2", lambda x, a, b, c: ((x @ a) * silu(x @ c)) @ b),
        entry("no-gate", "W3 is not used", "W3 = 0, which must give 0", lambda x, a, b, c: silu(x @ a) @ b),
        entry("sigmoid", "the gate is a sigmoid (GLU) instead of SiLU", "W1 x = 2", lambda x, a, b, c: (torch.sigmoid(x @ a) * (x @ c)) @ b),
        entry("relu", "the gate is a ReLU", "W1 x = -1, where SiLU is -0.27", lambda x, a, b, c: ((x @ a).clamp(min=0) * (x @ c)) @ b),
        entry("gelu", "the gate is GELU", "W1 x = 1, where SiLU is 0.731", lambda x, a, b, c: (0.5 * (x @ a) * (1 + torch.erf((x @ a) / 2**0.5)) * (x @ c)) @ b),
        entry("sum", "gate and value are added instead of multiplied", "W3 = 0, which must give 0", lambda x, a, b, c: (silu(x @ a) + x @ c) @ b),
        entry("exponential", "SiLU is written with exp(x) / (1 + exp(x)), which overflows", "W1 x = 100", lambda x, a, b, c: ((x @ a) * (x @ a).exp() / (1 + (x @ a).exp()) * (x @ c)) @ b),
    ]  # fmt: skip


def _softmax() -> list[Misconception]:
    def entry(name: str, says: str, example: str, compute: Any) -> Misconception:
        def run_softmax(in_features: Tensor, dim: int) -> Tensor:
            return compute(in_features, dim)

        return wrong("softmax", name, says, example, run_softmax=run_softmax)

    return [
        entry("no-maximum", "the maximum is not subtracted before exp", "softmax of (1000, 1001)", lambda x, d: x.exp() / x.exp().sum(d, keepdim=True)),
        entry("whole-maximum", "one maximum is taken for the whole tensor, so that small rows become 0 / 0", "rows (0, 1) and (1000, 1001)", lambda x, d: (x - x.max()).exp() / (x - x.max()).exp().sum(d, keepdim=True)),
        entry("last-axis", "it always runs along the last axis", "dim = 0", lambda x, d: torch.softmax(x, -1)),
        entry("whole-sum", "everything is divided by one sum over the whole tensor", "two rows: each must add up to 1", lambda x, d: (x - x.amax(d, keepdim=True)).exp() / (x - x.amax(d, keepdim=True)).exp().sum()),
        entry("log", "the logarithm of the softmax is returned", "softmax of (0, 0), which is (0.5, 0.5)", lambda x, d: torch.log_softmax(x, d)),
        entry("not-normalised", "the exponentials are not divided by their sum", "softmax of (0, 0), which is (0.5, 0.5)", lambda x, d: (x - x.amax(d, keepdim=True)).exp()),
        entry("base-two", "powers of 2 are taken instead of e", "softmax of (0, 1)", lambda x, d: torch.softmax(x * 0.6931471805599453, d)),
        entry("absolute", "the largest absolute value is subtracted", "softmax of (-2000, -2001)", lambda x, d: (x - x.abs().amax(d, keepdim=True)).exp() / (x - x.abs().amax(d, keepdim=True)).exp().sum(d, keepdim=True)),
    ]  # fmt: skip


def _cross_entropy() -> list[Misconception]:
    def entry(name: str, says: str, example: str, compute: Any) -> Misconception:
        def run_cross_entropy(inputs: Tensor, targets: Tensor) -> Tensor:
            return compute(inputs, targets)

        return wrong("cross_entropy", name, says, example, run_cross_entropy=run_cross_entropy)

    def pick(x: Tensor, y: Tensor) -> Tensor:
        return x.gather(-1, y[..., None])[..., 0]

    def losses(x: Tensor, y: Tensor) -> Tensor:
        return torch.logsumexp(x, -1) - pick(x, y)

    return [
        entry("sum", "losses are added up instead of averaged", "two equal rows", lambda x, y: losses(x, y).sum()),
        entry("bits", "the logarithm is to base 2", "two equal logits: the loss is 0.693 nats", lambda x, y: losses(x, y).mean() / 0.6931471805599453),
        entry("sign", "the sign is turned round", "any input: the loss is never negative", lambda x, y: -losses(x, y).mean()),
        entry("softmax-then-log", "softmax is taken first and its logarithm after, so that tiny probabilities become infinite", "logits (0, 1000), target 0", lambda x, y: -pick(torch.softmax(x, -1), y).log().mean()),
        entry("clamped-log", "an epsilon is added inside the logarithm", "logits (0, 1000), target 0: the loss is 1000", lambda x, y: -(pick(torch.softmax(x, -1), y) + 1e-8).log().mean()),
        entry("no-maximum", "the maximum is not subtracted before exp", "logits (1000, 0)", lambda x, y: (x.exp().sum(-1).log() - pick(x, y)).mean()),
        entry("whole-maximum", "one maximum is taken for the whole tensor", "rows (0, 1) and (1000, 1001)", lambda x, y: ((x - x.max()).exp().sum(-1).log() + x.max() - pick(x, y)).mean()),
        entry("not-reduced", "one loss per row is returned instead of their mean", "two rows", losses),
        entry("already-probabilities", "the logits are taken for probabilities that softmax has been applied to", "logits (2, 1), target 0", lambda x, y: losses(torch.softmax(x, -1), y).mean()),
    ]  # fmt: skip
