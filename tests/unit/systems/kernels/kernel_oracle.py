"""Comparison of a function and all its gradients with an oracle in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def randn(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def as_tuple(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def assert_matches(
    function: Callable, oracle: Callable, inputs: list[Tensor], *, device: str, tolerance: float = 1e-5,
    grads: Callable[[Tensor], Tensor] | None = None, floor: float = 1e-12,
) -> None:  # fmt: skip
    """Outputs and gradients agree to `tolerance` of each tensor's largest entry.

    A tensor with no entry above `floor` is compared as it is: what should cancel to zero leaves rounding behind.
    `grads` makes the incoming gradient out of random numbers of an output's shape (their own values by default).
    """
    actual_in = [x.detach().to(device).requires_grad_() for x in inputs]
    oracle_in = [x.detach().double().requires_grad_() for x in inputs]
    actual, expected = as_tuple(function(*actual_in)), as_tuple(oracle(*oracle_in))
    incoming = [randn(*y.shape, seed=1000 + i) for i, y in enumerate(expected)]
    incoming = [grads(g) for g in incoming] if grads else incoming
    mine = torch.autograd.grad(actual, actual_in, [g.to(device) for g in incoming])
    theirs = torch.autograd.grad(expected, oracle_in, [g.double() for g in incoming])
    for number, (a, b) in enumerate(zip([*actual, *mine], [*expected, *theirs], strict=True)):
        assert a.shape == b.shape
        assert a.isfinite().all(), f"result {number} is not finite"
        largest = b.abs().max().item() if b.numel() else 0.0
        scale = largest if largest > floor else 1.0
        torch.testing.assert_close(
            a.detach().cpu().double() / scale, b.detach() / scale, rtol=0, atol=tolerance,
            msg=lambda text, number=number: f"result {number} (outputs, then gradients): {text}",
        )  # fmt: skip


def expanded(grad: Tensor) -> Tensor:
    """One number in all places, with strides of zero: what sum() sends back."""
    return torch.full((), 0.5).expand(grad.shape)


def transposed(grad: Tensor) -> Tensor:
    """The same numbers, the last axis not dense."""
    return grad.transpose(-1, -2).contiguous().transpose(-1, -2) if grad.ndim > 1 else grad
