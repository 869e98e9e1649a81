"""The language-model loss from hidden states, without ever holding the logits of all tokens.

    for each chunk of tokens:   logits = h W^T;   p = softmax(logits)
        loss     += logsumexp(logits) - logits_y + z_loss * logsumexp(logits)^2
        d_logits  = p (1 + 2 z_loss logsumexp) - onehot(y)
        d_h       = d_logits W;     d_W += d_logits^T h

With a large vocabulary the logits of a batch, their exponentials and their gradients are the largest tensors of a
training step: batch * seq * vocab numbers each. But once a token's loss is known, so is the gradient of its logits; a
chunk can go all the way to d_h and d_W before the next begins. The price is one more tensor of W's size, and no second
matrix product: forward and backward together do the plain loss's work. The gradient is computed in the forward pass
(for a gradient of 1) and scaled in the backward pass.

Source: the idea is that of Hsu et al. 2024 (Liger Kernel), section 3.2, and Wijmans et al. 2024 (Cut your losses).
Handout: none; cross_entropy is the plain form (`nn_utils.py`). Left out: masks; pass only the rows that count,
`chunked_cross_entropy(hidden[mask], weight, targets[mask])`. Read next: `training_loss.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from cs336_basics.nn_utils import upcast


def chunked_cross_entropy(
    hidden: Float[Tensor, "*batch d_model"],
    weight: Float[Tensor, "vocab d_model"],
    targets: Int[Tensor, "*batch"],
    *,
    chunk_tokens: int,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean loss of a linear head over all tokens, computed `chunk_tokens` at a time.

    Args:
        hidden: what the head multiplies; weight: the head's matrix.
        targets: class ids in [0, vocab).
        chunk_tokens: tokens whose logits exist at one time, at least 1.
        z_loss: coefficient of the mean squared logsumexp.
        softcap: squash logits to (-softcap, softcap) by softcap * tanh(logits / softcap) first (Gemma 2).

    Returns:
        (cross-entropy + z_loss * mean logsumexp^2, which has gradients; the cross-entropy alone, which has none).

    Raises:
        ValueError: shapes that do not belong together, no tokens, chunk_tokens below 1, softcap not positive.
        RuntimeError: a target outside the vocabulary (torch's own message names the index).

    Numerics: matrix products in autocast's dtype where it is on, else in hidden's; softmax, sums and d_W in float32 or
        better. Equal to the plain loss up to the order of summation.
    Complexity: time of the plain loss; memory chunk_tokens * vocab + (tokens + 2 vocab) * d_model numbers.
    """
    if hidden.shape[:-1] != targets.shape or hidden.shape[-1:] != weight.shape[1:] or not targets.numel():
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and targets {tuple(targets.shape)} must have "
            "shapes (*batch, d_model), (vocab, d_model) and (*batch) with at least one token"
        )
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1; got {chunk_tokens}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap must be positive, or None for none; got {softcap}")
    return _ChunkedLoss.apply(
        hidden.flatten(0, -2), weight, targets.flatten().long(), chunk_tokens, z_loss, softcap, torch.is_grad_enabled()
    )


class _ChunkedLoss(torch.autograd.Function):
    """Accumulates the loss and, if anyone may ask, both gradients chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, z_loss: float, cap: float | None,
        training: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        cast_weight, sums = weight.to(dtype), upcast(hidden.new_zeros(2))
        wants_hidden, wants_weight = (training and wanted for wanted in ctx.needs_input_grad[:2])
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = upcast(torch.zeros_like(weight)) if wants_weight else None
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(hidden), chunk):
                part = hidden[start : start + chunk].to(dtype)
                logits = upcast(part @ cast_weight.T)
                cross_entropy, squares, d_logits = _rows(logits, targets[start : start + chunk], z_loss, cap)
                sums += torch.stack((cross_entropy, squares))
                d_logits = d_logits.div_(len(hidden)).to(dtype)
                if d_hidden is not None:
                    d_hidden[start : start + chunk] = d_logits @ cast_weight
                if d_weight is not None and d_weight.dtype == dtype:
                    d_weight.addmm_(d_logits.T, part)
                elif d_weight is not None:
                    d_weight += d_logits.T @ part
        ctx.save_for_backward(d_hidden, None if d_weight is None else d_weight.to(weight.dtype))
        cross_entropy, squares = sums / len(hidden)
        objective = cross_entropy + z_loss * squares
        cross_entropy = cross_entropy.clone()  # a view of `sums` could not be marked
        ctx.mark_non_differentiable(cross_entropy)
        return objective, cross_entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight = (None if g is None else g * grads[0] for g in ctx.saved_tensors)
        return d_hidden, d_weight, None, None, None, None, None


def _rows(logits: Tensor, targets: Tensor, z_loss: float, cap: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of cross-entropy and of squared logsumexp, and the gradient of their objective; overwrites `logits`."""
    if cap is not None:
        logits = logits.div_(cap).tanh_().mul_(cap)
    slope = None if cap is None else 1 - (logits / cap).square_()
    column = targets.unsqueeze(-1)
    top = logits.amax(dim=-1, keepdim=True)
    chosen = logits.gather(-1, column)
    exps = logits.sub_(top).exp_()
    total = exps.sum(dim=-1, keepdim=True)
    lse = total.log() + top
    d_logits = exps.mul_((1 + 2 * z_loss * lse) / total)
    d_logits.scatter_add_(-1, column, torch.full_like(chosen, -1.0))
    if slope is not None:
        d_logits *= slope
    return (lse - chosen).sum(), lse.square().sum(), d_logits
