"""Matrix product in tiles: C = A B, programs ordered so that neighbours share what the L2 cache holds.

A program computes one M x N tile of C, walking along the inner axis K at a time:   C_tile += A[M, K] B[K, N]

Reading A and B from device memory for every tile costs 2 M N K / (M + N) operations a number. Programs run roughly in
the order of their number; row by row, the tiles in flight share A but read all of B. In groups of GROUP rows, column by
column, the tiles in flight form a block and share both:

    plain order   0 1 2 3          grouped (GROUP = 2)   0 2 4 6
                  4 5 6 7                                1 3 5 7

Backward uses the same kernel: dA = dC B^T and dB = A^T dC, transposition being a swap of strides.

Source: the grouping is that of Triton's matrix multiplication tutorial (Tillet et al. 2019). Handout: none. Left out:
split-K for small outputs, batches. Float32: exact unless torch.set_float32_matmul_precision allows TF32. Read next:
`compile_ahead.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cs336_systems.kernels.triton_kernel import check_launch, kernel, launch_on, tl

HALF_TILES = {"M": 128, "N": 128, "K": 64, "GROUP": 8, "num_warps": 8, "num_stages": 3}
FLOAT_TILES = {"M": 64, "N": 64, "K": 16, "GROUP": 8, "num_warps": 8, "num_stages": 2}
PYTORCH_TILE = 64


def matmul_reference(
    A: Float[Tensor, "rows inner"], B: Float[Tensor, "inner columns"]
) -> Float[Tensor, "rows columns"]:
    """A B with products and sums in float32 (float64 for float64), returned in A's dtype."""
    dtype = torch.promote_types(A.dtype, torch.float32)
    return (A.to(dtype) @ B.to(dtype)).to(A.dtype)


def tiled_matmul(A: Tensor, B: Tensor, *, tile: int = PYTORCH_TILE) -> Tensor:
    """The kernel's three loops in PyTorch: tiles of C, and along the inner axis a running sum."""
    _check(A, B)
    dtype = torch.promote_types(A.dtype, torch.float32)
    C = torch.zeros(A.shape[0], B.shape[1], dtype=dtype, device=A.device)
    for i in range(0, A.shape[0], tile):
        for j in range(0, B.shape[1], tile):
            for k in range(0, A.shape[1], tile):
                C[i : i + tile, j : j + tile] += A[i : i + tile, k : k + tile].to(dtype) @ B[
                    k : k + tile, j : j + tile
                ].to(dtype)
    return C.to(A.dtype)


class MatmulPyTorch(torch.autograd.Function):
    """apply(A (rows, inner), B (inner, columns)) tile by tile."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, B: Tensor) -> Tensor:
        """Keep both."""
        ctx.save_for_backward(A, B)
        return tiled_matmul(A, B)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """(dC B^T, A^T dC)."""
        A, B = ctx.saved_tensors
        return tiled_matmul(grads[0], B.T), tiled_matmul(A.T, grads[0])


@kernel
def matmul_kernel(
    A, B, C,
    a_row, a_column, b_row, b_column,
    num_rows, num_columns, inner,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of C, which is dense; A and B by strides, one of which is 1."""
    # which tile: GROUP rows of tiles form a band, walked column by column
    row_tiles, column_tiles = tl.cdiv(num_rows, M), tl.cdiv(num_columns, N)
    band = tl.program_id(0) // (GROUP * column_tiles)
    in_band = tl.program_id(0) % (GROUP * column_tiles)
    height = tl.minimum(row_tiles - band * GROUP, GROUP)
    row_tile, column_tile = band * GROUP + in_band % height, in_band // height

    # sum along the inner axis; rows beyond the end are computed on row 0 and not stored
    rows, columns = row_tile * M + tl.arange(0, M), column_tile * N + tl.arange(0, N)
    steps = tl.arange(0, K)
    a_at = A + tl.where(rows < num_rows, rows, 0).to(tl.int64)[:, None] * a_row + steps[None, :] * a_column
    b_at = B + steps[:, None] * b_row + tl.where(columns < num_columns, columns, 0).to(tl.int64)[None, :] * b_column
    total = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, inner, K):
        a = tl.load(a_at, mask=(steps < inner - start)[None, :], other=0.0)
        b = tl.load(b_at, mask=(steps < inner - start)[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        a_at += K * a_column
        b_at += K * b_row

    inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
    c_at = C + rows.to(tl.int64)[:, None] * num_columns + columns[None, :]
    tl.store(c_at, total.to(C.dtype.element_ty), mask=inside)


class MatmulTriton(torch.autograd.Function):
    """As MatmulPyTorch, on the GPU (or in Triton's interpreter)."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, B: Tensor) -> Tensor:
        """Keep both."""
        ctx.save_for_backward(A, B)
        return triton_matmul(A, B)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """(dC B^T, A^T dC)."""
        A, B = ctx.saved_tensors
        return triton_matmul(grads[0], B.T), triton_matmul(A.T, grads[0])


def triton_matmul(A: Float[Tensor, "rows inner"], B: Float[Tensor, "inner columns"]) -> Float[Tensor, "rows columns"]:
    """A B by the kernel, without gradients.

    Raises:
        ValueError: shapes or dtypes that do not belong together, tensors the kernels cannot take.
        ImportError: no Triton.
    """
    _check(A, B)
    return torch.ops.cs336.matmul(A, B)


@torch.library.custom_op("cs336::matmul", mutates_args=(), schema="(Tensor A, Tensor B) -> Tensor")
def _matmul(A: Tensor, B: Tensor) -> Tensor:
    check_launch(A=A, B=B)
    A, B = (x if 1 in x.stride() and 0 not in x.stride() else x.contiguous() for x in (A, B))
    (rows, inner), columns = A.shape, B.shape[1]
    C = A.new_empty(rows, columns)
    if not C.numel():
        return C
    tiles = FLOAT_TILES if A.dtype == torch.float32 else HALF_TILES
    grid = (-(-rows // tiles["M"]) * -(-columns // tiles["N"]),)
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    with launch_on(A):
        matmul_kernel[grid](A, B, C, *A.stride(), *B.stride(), rows, columns, inner, **tiles, PRECISION=precision)
    return C


@_matmul.register_fake
def _(A: Tensor, B: Tensor) -> Tensor:
    return A.new_empty(A.shape[0], B.shape[1])


def _check(A: Tensor, B: Tensor) -> None:
    if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[0] or A.dtype != B.dtype:
        raise ValueError(
            "A must be (rows, inner), B (inner, columns), of one dtype; "
            f"got {tuple(A.shape)} {A.dtype} and {tuple(B.shape)} {B.dtype}"
        )
