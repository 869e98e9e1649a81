"""Softmax over the last axis, any width: y = exp(x - m) / l with m = max x, l = sum exp(x - m).

The online form finds m and l in one pass over the row, block by block; when a block raises the maximum, the sum so far
shrinks with it:

    m' = max(m, max of block);   l = e^(m - m') l + sum of exp(block - m')

A second pass writes y. The same two lines are at the heart of FlashAttention and of the cross-entropy kernel.
Backward: dx = y * (dy - sum_j dy_j y_j).

Source: Milakov and Gimelshein 2018. Handout: none (assignment 1 has softmax). Left out: other axes. Read next:
`flash_attention.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cs336_systems.kernels.triton_kernel import as_rows, check_launch, kernel, launch_on, next_power_of_2, tl

MAX_BLOCK = 4096


def softmax_reference(x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
    """Softmax over the last axis in float32 (float64 for float64), returned in x's dtype."""
    z = x.to(torch.promote_types(x.dtype, torch.float32))
    e = torch.exp(z - z.amax(dim=-1, keepdim=True))
    return (e / e.sum(dim=-1, keepdim=True)).to(x.dtype)


class SoftmaxPyTorch(torch.autograd.Function):
    """apply(x (..., width))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Keep y."""
        _check(x)
        y = softmax_reference(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """y * (dy - sum(dy y))."""
        (y,) = ctx.saved_tensors
        z, dy = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (y, grads[0]))
        return (z * (dy - (dy * z).sum(dim=-1, keepdim=True))).to(y.dtype)


@kernel
def softmax_forward(X, Y, x_row, width, BLOCK: tl.constexpr):
    """One row, in two passes; a row whose numbers so far are all -inf keeps m = -inf and l = 0."""
    row = tl.program_id(0).to(tl.int64)
    m = tl.full((BLOCK,), float("-inf"), dtype=tl.float32)
    l = tl.zeros((BLOCK,), dtype=tl.float32)
    # every lane keeps a maximum and a sum of its own; they meet after the loop
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(X + row * x_row + columns, mask=columns < width, other=float("-inf")).to(tl.float32)
        m_new = tl.maximum(m, x)
        shift = tl.where(m_new == float("-inf"), 0.0, m_new)
        l = l * tl.exp(m - shift) + tl.exp(x - shift)
        m = m_new
    top = tl.max(m, 0)
    total = tl.sum(l * tl.exp(m - top), 0)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(X + row * x_row + columns, mask=columns < width, other=float("-inf")).to(tl.float32)
        y = tl.exp(x - top) / total
        tl.store(Y + row * width + columns, y.to(Y.dtype.element_ty), mask=columns < width)


@kernel
def softmax_backward(Y, DY, DX, dy_row, width, BLOCK: tl.constexpr):
    """One row: the sum of dy y, then dx."""
    row = tl.program_id(0).to(tl.int64)
    products = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        y = tl.load(Y + row * width + columns, mask=columns < width, other=0.0).to(tl.float32)
        dy = tl.load(DY + row * dy_row + columns, mask=columns < width, other=0.0).to(tl.float32)
        products += y * dy
    total = tl.sum(products, 0)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        y = tl.load(Y + row * width + columns, mask=columns < width, other=0.0).to(tl.float32)
        dy = tl.load(DY + row * dy_row + columns, mask=columns < width, other=0.0).to(tl.float32)
        tl.store(DX + row * width + columns, (y * (dy - total)).to(DX.dtype.element_ty), mask=columns < width)


class SoftmaxTriton(torch.autograd.Function):
    """As SoftmaxPyTorch, on the GPU (or in Triton's interpreter)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Keep y."""
        _check(x)
        y = torch.ops.cs336.softmax_forward(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """One program per row."""
        return torch.ops.cs336.softmax_backward(*ctx.saved_tensors, grads[0])


@torch.library.custom_op("cs336::softmax_forward", mutates_args=(), schema="(Tensor x) -> Tensor")
def _forward(x: Tensor) -> Tensor:
    check_launch(x=x)
    y = x.new_empty(x.shape)
    if x.numel():
        rows = as_rows(x)
        with launch_on(x):
            softmax_forward[(len(rows),)](rows, y, rows.stride(0), rows.shape[1], BLOCK=_block(x))
    return y


@torch.library.custom_op("cs336::softmax_backward", mutates_args=(), schema="(Tensor y, Tensor dy) -> Tensor")
def _backward(y: Tensor, dy: Tensor) -> Tensor:
    check_launch(y=y, dy=dy)
    dx = y.new_empty(y.shape)
    if y.numel():
        rows = as_rows(dy)
        with launch_on(y):
            softmax_backward[(len(rows),)](y.contiguous(), rows, dx, rows.stride(0), rows.shape[1], BLOCK=_block(y))
    return dx


@_forward.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@_backward.register_fake
def _(y: Tensor, dy: Tensor) -> Tensor:
    return y.new_empty(y.shape)


def _block(x: Tensor) -> int:
    return min(MAX_BLOCK, max(16, next_power_of_2(x.shape[-1])))


def _check(x: Tensor) -> None:
    if x.ndim < 1 or not x.shape[-1]:
        raise ValueError(f"softmax needs a last axis of at least one number; got shape {tuple(x.shape)}")
