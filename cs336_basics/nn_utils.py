"""The functions under the layers: softmax, log-softmax, cross-entropy, activations, gradient clipping.

    softmax(x)_i        = exp(x_i - max x) / sum_j exp(x_j - max x)
    log_softmax(x)_i    = x_i - logsumexp(x)
    cross_entropy(x, y) = mean over positions of logsumexp(x) - x_y
    z_loss(x)           = mean over positions of logsumexp(x)^2

Each of the three first subtracts the row's maximum, which cancels in the quotient and keeps exp() from overflowing,
and works in float32 when given bfloat16 or float16. Softmax and cross-entropy spell out their gradients
(`autograd.Function`): the formulas are short, worth seeing once, and save the two or three extra copies of a (batch,
seq, vocab) tensor that the automatic graph keeps.

Handout: softmax, cross_entropy, gradient_clipping, positionwise_feedforward (SiLU, GELU). Left out: label smoothing;
the loss without all logits at once (`chunked_loss.py`). Read next: `model.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


def upcast(x: Tensor) -> Tensor:
    """`x` in float32 if it is float16 or bfloat16, else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _exponentials_over_sum(x: Tensor, dim: int) -> Tensor:
    """The forward pass of softmax."""
    top = x.amax(dim=dim, keepdim=True)
    p = (x - top.masked_fill_(top == -math.inf, 0.0)).exp_()
    total = p.sum(dim=dim, keepdim=True)
    p /= total.masked_fill_(total == 0, 1.0)
    return p


class _Softmax(torch.autograd.Function):
    """p = softmax(x); dx = p * (dp - sum(dp * p)). A row of -inf only (nothing to attend to) gives zeros, not NaN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        p = _exponentials_over_sum(x, dim)
        ctx.save_for_backward(p)
        ctx.dim = dim
        return p

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (p,) = ctx.saved_tensors
        weighted = grads[0] * p
        return torch.addcmul(weighted, p, weighted.sum(dim=ctx.dim, keepdim=True), value=-1), None


def softmax(x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """Normalised exponentials along `dim`, same shape and dtype as `x`.

    Numerics: the maximum is subtracted first; float16 and bfloat16 are computed in float32. A slice that is -inf
    throughout (a query that may attend to nothing) gives zeros, where the bare formula gives NaN.
    """
    if torch.is_grad_enabled():
        return _Softmax.apply(upcast(x), dim).to(x.dtype)
    return _exponentials_over_sum(upcast(x), dim).to(x.dtype)


def logsumexp(x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """log(sum(exp(x))) along `dim`, which is dropped; stable for any finite `x`."""
    x = upcast(x)
    top = x.amax(dim=dim, keepdim=True)
    return (x - top).exp().sum(dim=dim).log() + top.squeeze(dim)


def log_softmax(x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """log(softmax(x)) along `dim` without ever taking the log of an underflowed zero; float32 or better."""
    return upcast(x) - logsumexp(x, dim).unsqueeze(dim)


class _CrossEntropy(torch.autograd.Function):
    """Per row lse = log sum exp(x) and the loss lse - x_y; dx = softmax(x) * (dloss + dlse) - onehot(y) * dloss."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        top = logits.amax(dim=-1, keepdim=True)
        exps = (logits - top).exp_()
        total = exps.sum(dim=-1, keepdim=True)
        ctx.save_for_backward(exps, total, targets)
        lse = total.log() + top
        return (lse - logits.gather(-1, targets.unsqueeze(-1))).squeeze(-1), lse.squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        exps, total, targets = ctx.saved_tensors
        d_loss, d_lse = (grad.unsqueeze(-1) for grad in grads)
        d_logits = exps * ((d_loss + d_lse) / total)
        return d_logits.scatter_add_(-1, targets.unsqueeze(-1), -d_loss), None


def token_losses(inputs: Float[Tensor, "*batch vocab"], targets: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Negative log-likelihood of each target, in nats, float32 or better; see `cross_entropy`."""
    return token_losses_and_normalizers(inputs, targets)[0]


def token_losses_and_normalizers(
    inputs: Float[Tensor, "*batch vocab"], targets: Int[Tensor, "*batch"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """`token_losses`, and the logsumexp of each position's logits, which `z_loss` takes."""
    if inputs.shape[:-1] != targets.shape:
        raise ValueError(
            f"cross-entropy needs targets of shape {tuple(inputs.shape[:-1])}, the logits' shape without its last "
            f"(vocab) axis; got {tuple(targets.shape)}"
        )
    return _CrossEntropy.apply(upcast(inputs), targets.long())


def cross_entropy(inputs: Float[Tensor, "*batch vocab"], targets: Int[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Mean negative log-likelihood over all leading axes, in nats; perplexity is its exponential.

    Args:
        inputs: unnormalised logits; half precision is computed in float32.
        targets: class ids in [0, vocab).

    Raises:
        ValueError: the shapes do not belong together.
        RuntimeError: a target outside the vocabulary (torch's own message names the index).

    Source: handout problem cross_entropy.
    """
    return token_losses(inputs, targets).mean()


def z_loss(normalizers: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Mean square of the logsumexps: a small multiple of it keeps the softmax's normalizer near 1.

    The softmax does not change when a constant is added to all logits, so nothing else stops them from drifting.

    Source: Chowdhery et al. 2022 (PaLM), section 5, with the coefficient 1e-4.
    """
    return normalizers.square().mean()


def silu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x * sigmoid(x), also called swish (Elfwing et al. 2017)."""
    return x * torch.sigmoid(x)


def gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x * Phi(x) with the exact normal distribution function, 0.5 x (1 + erf(x / sqrt 2)) (Hendrycks & Gimpel 2016)."""
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


def relu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """max(0, x)."""
    return x.clamp(min=0)


def softcap(x: Float[Tensor, "..."], cap: float) -> Float[Tensor, "..."]:
    """cap * tanh(x / cap): near the identity for small x, always within (-cap, cap) (Gemma 2, 2408.00118)."""
    return cap * torch.tanh(x / cap)


@torch.no_grad()
def clip_gradient(parameters: Iterable[Tensor], max_norm: float) -> Float[Tensor, ""]:
    """Scale all gradients in place so that their joint L2 norm is at most `max_norm`; return the norm before scaling.

    Parameters without a gradient are skipped. The factor is max_norm / (norm + 1e-6), applied only when the norm
    exceeds `max_norm`, as torch's `clip_grad_norm_` and the handout have it.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.float()) for g in grads]))
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / (norm + 1e-6))
    return norm
