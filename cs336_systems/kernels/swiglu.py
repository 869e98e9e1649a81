"""The gate of SwiGLU in one pass: y = SiLU(a) * b, SiLU(a) = a sigmoid(a); a = W1 x, b = W3 x come from the outside.

    db = dy SiLU(a)          da = dy b sigmoid(a) (1 + a (1 - sigmoid(a)))

In plain PyTorch the sigmoid, the two products and their backward steps each read and write tensors of d_ff numbers a
token; here forward moves three, backward five. Backward computes the sigmoid again instead of keeping it.

Source: Shazeer 2020. Handout: positionwise_feedforward has the layer. Left out: the matrix products (`matmul.py`).
Read next: `matmul.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cs336_systems.kernels.triton_kernel import check_launch, kernel, launch_on, tl

BLOCK = 4096


def swiglu_reference(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """SiLU(a) * b in float32 (float64 for float64), returned in a's dtype."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    z = a.to(dtype)
    return (z * torch.sigmoid(z) * b.to(dtype)).to(a.dtype)


class SwiGLUPyTorch(torch.autograd.Function):
    """apply(a, b) -> SiLU(a) * b for tensors of one shape and dtype."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """Keep both."""
        _check(a, b)
        ctx.save_for_backward(a, b)
        return swiglu_reference(a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """(da, db)."""
        a, b, dy = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (*ctx.saved_tensors, grads[0]))
        s, dtype = torch.sigmoid(a), grads[0].dtype
        return (dy * b * s * (1 + a * (1 - s))).to(dtype), (dy * a * s).to(dtype)


@kernel
def swiglu_forward(A, B, Y, total, BLOCK: tl.constexpr):
    """y for BLOCK numbers."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(A + at, mask=at < total, other=0.0).to(tl.float32)
    b = tl.load(B + at, mask=at < total, other=0.0).to(tl.float32)
    tl.store(Y + at, (a * tl.sigmoid(a) * b).to(Y.dtype.element_ty), mask=at < total)


@kernel
def swiglu_backward(A, B, DY, DA, DB, total, BLOCK: tl.constexpr):
    """da and db for BLOCK numbers."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(A + at, mask=at < total, other=0.0).to(tl.float32)
    b = tl.load(B + at, mask=at < total, other=0.0).to(tl.float32)
    dy = tl.load(DY + at, mask=at < total, other=0.0).to(tl.float32)
    s = tl.sigmoid(a)
    tl.store(DA + at, (dy * b * s * (1 + a * (1 - s))).to(DA.dtype.element_ty), mask=at < total)
    tl.store(DB + at, (dy * a * s).to(DB.dtype.element_ty), mask=at < total)


class SwiGLUTriton(torch.autograd.Function):
    """As SwiGLUPyTorch, on the GPU (or in Triton's interpreter)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """Keep both."""
        _check(a, b)
        ctx.save_for_backward(a, b)
        return torch.ops.cs336.swiglu_forward(a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """(da, db)."""
        return torch.ops.cs336.swiglu_backward(*ctx.saved_tensors, grads[0])


@torch.library.custom_op("cs336::swiglu_forward", mutates_args=(), schema="(Tensor a, Tensor b) -> Tensor")
def _forward(a: Tensor, b: Tensor) -> Tensor:
    check_launch(a=a, b=b)
    y = a.new_empty(a.shape)
    if a.numel():
        with launch_on(a):
            swiglu_forward[(-(-a.numel() // BLOCK),)](a.contiguous(), b.contiguous(), y, a.numel(), BLOCK=BLOCK)
    return y


@torch.library.custom_op(
    "cs336::swiglu_backward", mutates_args=(), schema="(Tensor a, Tensor b, Tensor dy) -> (Tensor, Tensor)"
)
def _backward(a: Tensor, b: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    check_launch(a=a, b=b, dy=dy)
    da, db = a.new_empty(a.shape), b.new_empty(b.shape)
    if a.numel():
        with launch_on(a):
            swiglu_backward[(-(-a.numel() // BLOCK),)](
                a.contiguous(), b.contiguous(), dy.contiguous(), da, db, a.numel(), BLOCK=BLOCK
            )
    return da, db


@_forward.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape)


@_backward.register_fake
def _(a: Tensor, b: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape), b.new_empty(b.shape)


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(
            f"a and b must have one shape and dtype; got {tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}"
        )
