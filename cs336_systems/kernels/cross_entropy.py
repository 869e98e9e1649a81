"""Cross-entropy over a large vocabulary: one pass for the loss, the gradient written where the logits were.

    loss_i = lse_i - x_iy + z_loss lse_i^2,  lse_i = m + ln sum_j exp(x_ij - m)       (m and the sum online, by blocks)
    dx_ij  = (exp(x_ij - lse_i) (1 + 2 z_loss lse_i) - [j = y_i]) * scale_i

The logits of a batch are the largest tensor of a training step. Plain autograd keeps them, their softmax and a
gradient; here backward overwrites them with their gradient. Who still needs the logits after backward says
in_place=False.

`fused_linear_cross_entropy` goes further: it takes hidden states and the head's matrix, and makes logits for a chunk of
tokens at a time; this is `cs336_basics/chunked_loss.py` (the PyTorch form, and the explanation) around this kernel.

Source: Hsu et al. 2024 (Liger Kernel), section 3.2. Handout: cross_entropy is the plain form. Left out: label
smoothing, softcap. Read next: `swiglu.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from cs336_systems.kernels.triton_kernel import as_rows, check_launch, kernel, launch_on, next_power_of_2, tl

MAX_BLOCK = 8192


def cross_entropy_reference(
    logits: Float[Tensor, "tokens vocab"], targets: Int[Tensor, " tokens"], z_loss: float = 0.0
) -> Float[Tensor, " tokens"]:
    """Loss of each token in float32 (float64 for float64); targets are ids in [0, vocab)."""
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    lse = torch.logsumexp(z, dim=-1)
    return lse - z.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1) + z_loss * lse.square()


class CrossEntropyPyTorch(torch.autograd.Function):
    """apply(logits (tokens, vocab), targets (tokens,), z_loss=0.0) -> loss of each token."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, z_loss: float = 0.0) -> Tensor:
        """Keep logits and targets."""
        _check(logits, targets)
        ctx.save_for_backward(logits, targets)
        ctx.z_loss = z_loss
        return cross_entropy_reference(logits, targets, z_loss)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Softmax minus one-hot, by the gradient of each token's loss."""
        logits, targets = ctx.saved_tensors
        z = logits.to(torch.promote_types(logits.dtype, torch.float32))
        lse = torch.logsumexp(z, dim=-1, keepdim=True)
        d = torch.exp(z - lse) * (1 + 2 * ctx.z_loss * lse)
        d.scatter_add_(-1, targets.long().unsqueeze(-1), torch.full_like(lse, -1.0))
        return (d * grads[0].unsqueeze(-1)).to(logits.dtype), None, None


@kernel
def cross_entropy_forward(X, TARGETS, LOSS, LSE, x_row, vocab, z_loss, BLOCK: tl.constexpr):
    """Loss and logsumexp of one token; a target outside the vocabulary gives NaN."""
    row = tl.program_id(0).to(tl.int64)
    m = tl.full((BLOCK,), float("-inf"), dtype=tl.float32)
    l = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, vocab, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(X + row * x_row + columns, mask=columns < vocab, other=float("-inf")).to(tl.float32)
        m_new = tl.maximum(m, x)
        shift = tl.where(m_new == float("-inf"), 0.0, m_new)
        l = l * tl.exp(m - shift) + tl.exp(x - shift)
        m = m_new
    top = tl.max(m, 0)
    lse = top + tl.log(tl.sum(l * tl.exp(m - top), 0))
    target = tl.load(TARGETS + row)
    known = (target >= 0) & (target < vocab)
    chosen = tl.load(X + row * x_row + target, mask=known, other=float("nan")).to(tl.float32)
    tl.store(LSE + row, lse)
    tl.store(LOSS + row, lse - chosen + z_loss * lse * lse)


@kernel
def cross_entropy_backward(X, DX, TARGETS, LSE, SCALE, x_row, dx_row, scale_row, vocab, z_loss, BLOCK: tl.constexpr):
    """The gradient of one token's logits; DX may be X itself, as each place is read before it is written."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(TARGETS + row)
    lse = tl.load(LSE + row)
    scale = tl.load(SCALE + row * scale_row).to(tl.float32)
    for start in range(0, vocab, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(X + row * x_row + columns, mask=columns < vocab, other=float("-inf")).to(tl.float32)
        d = tl.exp(x - lse) * (1 + 2 * z_loss * lse)
        d = tl.where(columns == target, d - 1.0, d) * scale
        tl.store(DX + row * dx_row + columns, d.to(DX.dtype.element_ty), mask=columns < vocab)


class CrossEntropyTriton(torch.autograd.Function):
    """apply(logits, targets, z_loss=0.0, in_place=False) -> loss of each token, float32, on the GPU.

    With in_place, backward writes the gradient over the logits. Autograd notices if another operation still needs them,
    and refuses a second backward; but a leaf (a parameter) is never overwritten.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, z_loss: float = 0.0, in_place: bool = False) -> Tensor:
        """Keep logits, targets and the logsumexp."""
        _check(logits, targets)
        loss, lse = torch.ops.cs336.cross_entropy_forward(logits, targets, z_loss)
        ctx.save_for_backward(logits, targets, lse)
        ctx.z_loss, ctx.in_place = z_loss, in_place and not logits.is_leaf and logits.stride(-1) == 1
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Into the logits, or into a new tensor."""
        logits, targets, lse = ctx.saved_tensors
        d_logits = logits.detach() if ctx.in_place else torch.empty_like(logits, memory_format=torch.contiguous_format)
        if ctx.in_place:
            torch.ops.cs336.cross_entropy_backward_(d_logits, targets, lse, grads[0], ctx.z_loss)
        else:
            d_logits = torch.ops.cs336.cross_entropy_backward(logits, targets, lse, grads[0], ctx.z_loss)
        return d_logits, None, None, None


def fused_linear_cross_entropy(
    hidden: Float[Tensor, "*batch d_model"],
    weight: Float[Tensor, "vocab d_model"],
    targets: Int[Tensor, "*batch"],
    *,
    chunk_tokens: int = 4096,
    z_loss: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean loss of a linear head, with gradients for hidden and weight, `chunk_tokens` tokens of logits at a time.

    Args:
        hidden, weight: one dtype; outside the chunk nothing of vocab's size exists but weight's float32 gradient.
        targets: ids in [0, vocab).
        chunk_tokens: at least 1; large enough for efficient matrix products (a few thousand).
        z_loss: coefficient of the mean squared logsumexp.

    Raises:
        ValueError: shapes or dtypes that do not belong together, no tokens, chunk_tokens below 1.
        ImportError: no Triton.
    """
    if hidden.shape[:-1] != targets.shape or hidden.shape[-1:] != weight.shape[1:] or not targets.numel():
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and targets {tuple(targets.shape)} must have "
            "shapes (*batch, d_model), (vocab, d_model) and (*batch) with at least one token"
        )
    if chunk_tokens < 1 or hidden.dtype != weight.dtype:
        raise ValueError(
            f"chunk_tokens must be at least 1 and hidden and weight of one dtype; got {chunk_tokens}, {hidden.dtype} "
            f"and {weight.dtype}"
        )
    return FusedLinearCrossEntropyTriton.apply(
        hidden.flatten(0, -2), weight, targets.flatten(), chunk_tokens, z_loss, torch.is_grad_enabled()
    )


class FusedLinearCrossEntropyTriton(torch.autograd.Function):
    """Computes both gradients during forward, chunk by chunk, and scales them in backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, z_loss: float, training: bool
    ) -> Tensor:
        """Mean loss; gradients for those who may ask."""
        wants_hidden, wants_weight = (training and wanted for wanted in ctx.needs_input_grad[:2])
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wants_weight else None
        scale = torch.full((1,), 1 / len(hidden), dtype=torch.float32, device=hidden.device)
        losses = []
        for start in range(0, len(hidden), chunk):
            part, ids = hidden[start : start + chunk], targets[start : start + chunk]
            logits = part @ weight.T
            loss, lse = torch.ops.cs336.cross_entropy_forward(logits, ids, z_loss)
            losses.append(loss.sum())
            if wants_hidden or wants_weight:
                torch.ops.cs336.cross_entropy_backward_(logits, ids, lse, scale.expand(len(part)), z_loss)
            if d_hidden is not None:
                d_hidden[start : start + chunk] = logits @ weight
            if d_weight is not None:
                d_weight += logits.T @ part
        ctx.save_for_backward(d_hidden, None if d_weight is None else d_weight.to(weight.dtype))
        return torch.stack(losses).sum() / len(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """What forward found, times the loss's gradient."""
        d_hidden, d_weight = (None if g is None else g * grads[0].to(g.dtype) for g in ctx.saved_tensors)
        return d_hidden, d_weight, None, None, None, None


@torch.library.custom_op(
    "cs336::cross_entropy_forward", mutates_args=(),
    schema="(Tensor logits, Tensor targets, float z_loss) -> (Tensor, Tensor)",
)  # fmt: skip
def _forward(logits: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    check_launch(logits=logits)
    loss, lse = (torch.empty(len(logits), dtype=torch.float32, device=logits.device) for _ in range(2))
    if len(logits):
        rows = as_rows(logits)
        with launch_on(logits):
            cross_entropy_forward[(len(rows),)](
                rows, targets.contiguous(), loss, lse, rows.stride(0), rows.shape[1], z_loss, BLOCK=_block(rows)
            )
    return loss, lse


@_forward.register_fake
def _(logits: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    shape = logits.shape[:1]
    return logits.new_empty(shape, dtype=torch.float32), logits.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op(
    "cs336::cross_entropy_backward", mutates_args=(),
    schema="(Tensor logits, Tensor targets, Tensor lse, Tensor grad, float z_loss) -> Tensor",
)  # fmt: skip
def _backward(logits: Tensor, targets: Tensor, lse: Tensor, grad: Tensor, z_loss: float) -> Tensor:
    check_launch(logits=logits, grad=grad)
    d_logits = logits.new_empty(logits.shape)
    _launch_backward(as_rows(logits), d_logits, targets, lse, grad, z_loss)
    return d_logits


@_backward.register_fake
def _(logits: Tensor, targets: Tensor, lse: Tensor, grad: Tensor, z_loss: float) -> Tensor:
    return logits.new_empty(logits.shape)


@torch.library.custom_op(
    "cs336::cross_entropy_backward_", mutates_args=("logits",),
    schema="(Tensor(a!) logits, Tensor targets, Tensor lse, Tensor grad, float z_loss) -> ()",
)  # fmt: skip
def _backward_in_place(logits: Tensor, targets: Tensor, lse: Tensor, grad: Tensor, z_loss: float) -> None:
    check_launch(logits=logits, grad=grad)
    _launch_backward(logits, logits, targets, lse, grad, z_loss)


def _launch_backward(
    logits: Tensor, d_logits: Tensor, targets: Tensor, lse: Tensor, grad: Tensor, z_loss: float
) -> None:
    if len(logits):
        with launch_on(logits):
            cross_entropy_backward[(len(logits),)](
                logits, d_logits, targets.contiguous(), lse, grad, logits.stride(0), d_logits.stride(0),
                grad.stride(0), logits.shape[1], z_loss, BLOCK=_block(logits),
            )  # fmt: skip


def _block(rows: Tensor) -> int:
    return min(MAX_BLOCK, max(16, next_power_of_2(rows.shape[1])))


def _check(logits: Tensor, targets: Tensor) -> None:
    if logits.ndim != 2 or targets.shape != logits.shape[:1] or not logits.shape[1]:
        raise ValueError(
            "logits must be (tokens, vocab) with vocab >= 1 and targets (tokens,); "
            f"got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    if targets.is_floating_point():
        raise ValueError(f"targets must be integers; got {targets.dtype}")
