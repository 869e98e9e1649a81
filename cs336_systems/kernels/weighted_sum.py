"""Weighted sum of rows, the first kernel to read: y_i = sum_j x_ij w_j.

    forward    one program per ROWS rows; it walks along the columns, COLUMNS at a time
    backward   dx_ij = dy_i w_j  (an outer product);   dw_j = sum_i dy_i x_ij

dw is a sum over rows that different programs hold. Each program writes the sum over its own rows to one line of a
buffer `partial`, and the lines are added afterwards: no atomics, so the result is the same in every run.

What to learn here: a program is one cell of a grid; pointers are blocks of addresses (base + row * stride + column);
masks guard the edges, so that no size has to be a multiple of the tile; sums are kept in float32 whatever the input.

Handout: the weighted-sum example. Left out: speed (this is memory-bound and any tile that fills a row will do). Read
next: `rmsnorm.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cs336_systems.kernels.triton_kernel import as_rows, check_launch, kernel, launch_on, tl

ROWS, COLUMNS = 16, 128


def weighted_sum_reference(x: Float[Tensor, "... columns"], w: Float[Tensor, " columns"]) -> Float[Tensor, "..."]:
    """sum_j x_ij w_j in float32 (or float64 for such an input)."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return (x.to(dtype) * w.to(dtype)).sum(dim=-1).to(x.dtype)


class WeightedSumPyTorch(torch.autograd.Function):
    """apply(x (..., columns), w (columns,)) with both gradients by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        """Sum and keep the inputs."""
        _check(x, w)
        ctx.save_for_backward(x, w)
        return weighted_sum_reference(x, w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """dx is an outer product, dw a sum over rows."""
        x, w = ctx.saved_tensors
        (grad,) = grads
        d_w = (grad.unsqueeze(-1).float() * x.float()).sum(dim=tuple(range(x.ndim - 1)))
        return grad.unsqueeze(-1) * w, d_w.to(w.dtype)


@kernel
def weighted_sum_forward(
    X, W, Y,
    x_row,
    num_rows, num_columns,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """y for ROWS rows; x_row is the distance between two rows in memory, columns lie side by side."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(0, num_columns, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
        x = tl.load(X + rows.to(tl.int64)[:, None] * x_row + columns[None, :], mask=inside, other=0.0)
        w = tl.load(W + columns, mask=columns < num_columns, other=0.0)
        total += tl.sum(x.to(tl.float32) * w.to(tl.float32)[None, :], axis=1)
    tl.store(Y + rows, total.to(Y.dtype.element_ty), mask=rows < num_rows)


@kernel
def weighted_sum_backward(
    X, W, DY, DX, PARTIAL,
    x_row,
    num_rows, num_columns,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dx for ROWS rows, and the sum of dy x over these rows into line program_id of PARTIAL (programs, num_columns)."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    dy = tl.load(DY + rows, mask=rows < num_rows, other=0.0).to(tl.float32)
    for start in range(0, num_columns, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
        x = tl.load(X + rows.to(tl.int64)[:, None] * x_row + columns[None, :], mask=inside, other=0.0)
        w = tl.load(W + columns, mask=columns < num_columns, other=0.0)
        dx = dy[:, None] * w.to(tl.float32)[None, :]
        tl.store(DX + rows.to(tl.int64)[:, None] * num_columns + columns[None, :], dx.to(DX.dtype.element_ty), inside)
        d_w = tl.sum(x.to(tl.float32) * dy[:, None], axis=0)
        tl.store(PARTIAL + tl.program_id(0) * num_columns + columns, d_w, mask=columns < num_columns)


class WeightedSumTriton(torch.autograd.Function):
    """As WeightedSumPyTorch, on the GPU (or in Triton's interpreter)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        """One program per ROWS rows."""
        _check(x, w)
        ctx.save_for_backward(x, w)
        return torch.ops.cs336.weighted_sum_forward(x, w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """One program per ROWS rows, then the sum of the partial dw."""
        return torch.ops.cs336.weighted_sum_backward(*ctx.saved_tensors, grads[0])


@torch.library.custom_op("cs336::weighted_sum_forward", mutates_args=(), schema="(Tensor x, Tensor w) -> Tensor")
def _forward(x: Tensor, w: Tensor) -> Tensor:
    check_launch(x=x, w=w)
    rows, y = as_rows(x), x.new_empty(x.shape[:-1])
    if y.numel():
        with launch_on(x):
            grid = (-(-len(rows) // ROWS),)
            weighted_sum_forward[grid](rows, w.contiguous(), y, rows.stride(0), *rows.shape, ROWS=ROWS, COLUMNS=COLUMNS)
    return y


@_forward.register_fake
def _(x: Tensor, w: Tensor) -> Tensor:
    return x.new_empty(x.shape[:-1])


@torch.library.custom_op(
    "cs336::weighted_sum_backward", mutates_args=(), schema="(Tensor x, Tensor w, Tensor grad) -> (Tensor, Tensor)"
)
def _backward(x: Tensor, w: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    check_launch(x=x, w=w, grad=grad)
    rows, d_x = as_rows(x), x.new_empty(x.shape)
    programs = -(-len(rows) // ROWS)
    partial = torch.empty(programs, rows.shape[1], dtype=torch.float32, device=x.device)
    if programs:
        with launch_on(x):
            weighted_sum_backward[(programs,)](
                rows, w.contiguous(), grad.contiguous(), d_x, partial, rows.stride(0), *rows.shape,
                ROWS=ROWS, COLUMNS=COLUMNS,
            )  # fmt: skip
    return d_x, partial.sum(dim=0).to(w.dtype)


@_backward.register_fake
def _(x: Tensor, w: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), w.new_empty(w.shape)


def _check(x: Tensor, w: Tensor) -> None:
    if x.ndim < 2 or w.shape != x.shape[-1:] or not w.numel():
        raise ValueError(
            "x must be (..., columns) with rows and w (columns,), columns >= 1; "
            f"got x {tuple(x.shape)}, w {tuple(w.shape)}"
        )
