"""RMSNorm: y = x r g with r = (mean(x^2) + eps)^(-1/2), and its gradients; with the residual addition before it, fused.

    dg = sum_rows dy * x r          dx = r * (dy * g - x r * mean_j(dy_j g_j x_j r))

A memory-bound operation: the aim is to read and write every number once. Forward keeps r, one number a row. Backward
runs few programs that each go through many rows: a program adds its share of dg up in registers and writes one line of
a buffer, which is summed at the end: no atomics, the same bits in every run.

With `residual`, h = x + residual is computed, written and normalised in the same pass (the pre-norm block's pattern
h = h + sublayer(...); y = norm(h)), and backward adds the gradient that comes to h directly.

Source: Zhang and Sennrich 2019. Handout (2024): pytorch_layernorm, triton_rmsnorm_forward, rmsnorm_jvp_g,
rmsnorm_jvp_x, triton_rmsnorm_backward. Left out: rows above MAX_WIDTH. Read next: `softmax.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cs336_systems.kernels.triton_kernel import (
    as_rows,
    check_launch,
    kernel,
    launch_on,
    next_power_of_2,
    num_programs,
    tl,
)

EPS = 1e-5
MAX_WIDTH = 8192
"""longest row that a program keeps in its registers"""


def rms_norm_reference(
    x: Float[Tensor, "... width"], g: Float[Tensor, " width"], eps: float = EPS
) -> Float[Tensor, "... width"]:
    """x * rsqrt(mean(x^2) + eps) * g in float32 (float64 for float64), returned in x's dtype."""
    z = x.to(torch.promote_types(x.dtype, torch.float32))
    return (z * torch.rsqrt(z.square().mean(dim=-1, keepdim=True) + eps) * g).to(x.dtype)


def rms_norm_backward_g(
    grad: Float[Tensor, "... width"], x: Float[Tensor, "... width"], g: Float[Tensor, " width"], eps: float = EPS
) -> Float[Tensor, " width"]:
    """Gradient of RMSNorm for g, given the gradient of its output."""
    z, dy = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (x, grad))
    d_g = dy * z * torch.rsqrt(z.square().mean(dim=-1, keepdim=True) + eps)
    return d_g.reshape(-1, x.shape[-1]).sum(dim=0).to(g.dtype)


def rms_norm_backward_x(
    grad: Float[Tensor, "... width"], x: Float[Tensor, "... width"], g: Float[Tensor, " width"], eps: float = EPS
) -> Float[Tensor, "... width"]:
    """Gradient of RMSNorm for x, given the gradient of its output."""
    z, dy = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (x, grad))
    r = torch.rsqrt(z.square().mean(dim=-1, keepdim=True) + eps)
    normed, dy_g = z * r, dy * g
    return (r * (dy_g - normed * (dy_g * normed).mean(dim=-1, keepdim=True))).to(x.dtype)


class RMSNormPyTorch(torch.autograd.Function):
    """apply(x (..., width), g (width,), eps=1e-5)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, eps: float = EPS) -> Tensor:
        """Keep x and g."""
        _check(x, g)
        ctx.save_for_backward(x, g)
        ctx.eps = eps
        return rms_norm_reference(x, g, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """(dx, dg)."""
        x, g = ctx.saved_tensors
        return rms_norm_backward_x(grads[0], x, g, ctx.eps), rms_norm_backward_g(grads[0], x, g, ctx.eps), None


@kernel
def rms_norm_forward(
    X, G, Y, R, RESIDUAL, H,
    x_row, residual_row, num_rows, width, eps,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """y and r of ROWS rows; with a residual also their sum H, which is what is normalised."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = (rows < num_rows)[:, None] & (columns < width)[None, :]
    dense = rows[:, None] * width + columns[None, :]
    x = tl.load(X + rows[:, None] * x_row + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        x += tl.load(RESIDUAL + rows[:, None] * residual_row + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        # what backward will see is the rounded sum, so normalise that
        rounded = x.to(H.dtype.element_ty)
        tl.store(H + dense, rounded, mask=inside)
        x = rounded.to(tl.float32)
    r = 1.0 / tl.sqrt(tl.sum(x * x, 1) / width + eps)
    g = tl.load(G + columns, mask=columns < width, other=0.0).to(tl.float32)
    tl.store(Y + dense, (x * r[:, None] * g[None, :]).to(Y.dtype.element_ty), mask=inside)
    tl.store(R + rows, r, mask=rows < num_rows)


@kernel
def rms_norm_backward(
    X, G, R, DY, DH, DX, PARTIAL,
    x_row, dy_row, dh_row, num_rows, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_DH: tl.constexpr,
):  # fmt: skip
    """dx of every num_programs-th group of rows (plus DH, if there is one); their dg into one line of PARTIAL."""
    columns = tl.arange(0, COLUMNS)
    g = tl.load(G + columns, mask=columns < width, other=0.0).to(tl.float32)
    d_g = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(tl.program_id(0) * ROWS, num_rows, tl.num_programs(0) * ROWS):
        rows = (first + tl.arange(0, ROWS)).to(tl.int64)
        inside = (rows < num_rows)[:, None] & (columns < width)[None, :]
        x = tl.load(X + rows[:, None] * x_row + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(DY + rows[:, None] * dy_row + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        r = tl.load(R + rows, mask=rows < num_rows, other=0.0)[:, None]
        normed = x * r
        dy_g = dy * g[None, :]
        dx = r * (dy_g - normed * (tl.sum(dy_g * normed, 1) / width)[:, None])
        if HAS_DH:
            dx += tl.load(DH + rows[:, None] * dh_row + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        tl.store(DX + rows[:, None] * width + columns[None, :], dx.to(DX.dtype.element_ty), mask=inside)
        d_g += dy * normed
    tl.store(PARTIAL + tl.program_id(0) * width + columns, tl.sum(d_g, 0), mask=columns < width)


def row_tile(width: int) -> tuple[int, int, int]:
    """(rows, columns, warps) of one program: 2048 numbers, or one row, 16 a thread."""
    columns = next_power_of_2(width)
    rows = max(1, 2048 // columns)
    return rows, columns, rows * columns // 512


class RMSNormTriton(torch.autograd.Function):
    """As RMSNormPyTorch, on the GPU (or in Triton's interpreter)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, eps: float = EPS) -> Tensor:
        """Keep x, g and r."""
        _check(x, g)
        y, r, _ = torch.ops.cs336.rms_norm_forward(x, g, None, eps)
        ctx.save_for_backward(x, g, r)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """(dx, dg)."""
        return *torch.ops.cs336.rms_norm_backward(*ctx.saved_tensors, grads[0], None), None


class AddRMSNormTriton(torch.autograd.Function):
    """apply(x, residual, g, eps=1e-5) -> (RMSNorm(x + residual), x + residual)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, g: Tensor, eps: float = EPS) -> tuple[Tensor, Tensor]:
        """Keep the sum, g and r."""
        _check(x, g)
        if residual.shape != x.shape or residual.dtype != x.dtype:
            raise ValueError(
                f"residual must have x's shape and dtype; got x {tuple(x.shape)} {x.dtype}, "
                f"residual {tuple(residual.shape)} {residual.dtype}"
            )
        y, r, h = torch.ops.cs336.rms_norm_forward(x, g, residual, eps)
        ctx.save_for_backward(h, g, r)
        return y, h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """x and the residual have one gradient."""
        dx, dg = torch.ops.cs336.rms_norm_backward(*ctx.saved_tensors, *grads)
        return dx, dx, dg, None


@torch.library.custom_op(
    "cs336::rms_norm_forward", mutates_args=(),
    schema="(Tensor x, Tensor g, Tensor? residual, float eps) -> (Tensor, Tensor, Tensor)",
)  # fmt: skip
def _forward(x: Tensor, g: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """y, r and the sum (empty without a residual)."""
    check_launch(x=x, g=g, **({} if residual is None else {"residual": residual}))
    y, r, h = _outputs(x, residual)
    if x.numel():
        rows = as_rows(x)
        added = rows if residual is None else as_rows(residual)
        ROWS, COLUMNS, warps = row_tile(rows.shape[1])
        with launch_on(x):
            rms_norm_forward[(-(-len(rows) // ROWS),)](
                rows, g.contiguous(), y, r, added, h, rows.stride(0), added.stride(0), *rows.shape, eps,
                ROWS=ROWS, COLUMNS=COLUMNS, HAS_RESIDUAL=residual is not None, num_warps=warps,
            )  # fmt: skip
    return y, r, h


@_forward.register_fake
def _(x: Tensor, g: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(x, residual)


@torch.library.custom_op(
    "cs336::rms_norm_backward", mutates_args=(),
    schema="(Tensor x, Tensor g, Tensor r, Tensor dy, Tensor? dh) -> (Tensor, Tensor)",
)  # fmt: skip
def _backward(x: Tensor, g: Tensor, r: Tensor, dy: Tensor, dh: Tensor | None) -> tuple[Tensor, Tensor]:
    check_launch(x=x, g=g, dy=dy)
    dx = x.new_empty(x.shape)
    if not x.numel():
        return dx, torch.zeros_like(g)
    rows, grads = as_rows(x), as_rows(dy)
    direct = grads if dh is None else as_rows(dh)
    ROWS, COLUMNS, warps = row_tile(rows.shape[1])
    programs = min(num_programs(x, 16 // warps), -(-len(rows) // ROWS))
    partial = torch.empty(programs, rows.shape[1], dtype=torch.float32, device=x.device)
    with launch_on(x):
        rms_norm_backward[(programs,)](
            rows, g.contiguous(), r, grads, direct, dx, partial,
            rows.stride(0), grads.stride(0), direct.stride(0), *rows.shape,
            ROWS=ROWS, COLUMNS=COLUMNS, HAS_DH=dh is not None, num_warps=warps,
        )  # fmt: skip
    return dx, partial.sum(dim=0).to(g.dtype)


@_backward.register_fake
def _(x: Tensor, g: Tensor, r: Tensor, dy: Tensor, dh: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(g)


def _outputs(x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    r = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    return x.new_empty(x.shape), r, x.new_empty((0,) if residual is None else x.shape)


def _check(x: Tensor, g: Tensor) -> None:
    if x.ndim < 1 or g.shape != x.shape[-1:] or not 1 <= g.numel() <= MAX_WIDTH:
        raise ValueError(
            f"x must be (..., width) and g (width,) with width from 1 to {MAX_WIDTH}; "
            f"got x {tuple(x.shape)}, g {tuple(g.shape)}"
        )
