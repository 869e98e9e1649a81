"""RMSNorm as an autograd.Function (2024): against torch's own operations in float64. Triton needs a GPU.

Without one, TRITON_INTERPRET=1 in the environment runs the Triton tests in Triton's interpreter.
"""

from __future__ import annotations

import os

import pytest
import torch

from .assertions import assert_close

pytestmark = pytest.mark.edition2024
HINT = "y = x * rsqrt(mean(x^2) + 1e-5) * g over the last axis; dx has two terms, dg is a sum over all rows"
KINDS = ["pytorch", "triton"]


def function_and_device(adapters, require, kind: str):
    """The class under test and where to run it; skips where Triton cannot run."""
    if kind == "pytorch":
        return adapters.get_rmsnorm_autograd_function_pytorch(), "cpu"
    require("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        require("cuda")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return adapters.get_rmsnorm_autograd_function_triton(), device


def problem(shape: tuple[int, ...] = (10, 20, 50)):
    """x, g and dy; a width of 50 is no power of two."""
    generator = torch.Generator().manual_seed(0)
    x, g, dy = (torch.randn(s, generator=generator) for s in (shape, shape[-1:], shape))
    return x, g, 0.1 * dy


def oracle(x, g, dy):
    """y, dx, dg by autograd in float64."""
    x, g = (t.double().requires_grad_() for t in (x, g))
    y = x / torch.sqrt(x.pow(2).mean(dim=-1, keepdim=True) + 1e-5) * g
    return y.detach(), *torch.autograd.grad(y, (x, g), dy.double())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(10, 20, 50), (3, 64), (2, 1, 2, 7)])
def test_forward_and_backward(adapters, require, kind, shape):
    function, device = function_and_device(adapters, require, kind)
    x, g, dy = problem(shape)
    y, d_x, d_g = oracle(x, g, dy)
    x, g = (t.to(device).requires_grad_() for t in (x, g))
    out = function.apply(x, g)
    assert_close(out, y, atol=1e-5, hint=HINT)
    out.backward(dy.to(device))
    assert_close(x.grad, d_x, atol=1e-5, hint=HINT)
    assert_close(g.grad, d_g, atol=1e-5, hint=HINT)


def test_gradient_functions(adapters):
    x, g, dy = problem()
    _, d_x, d_g = oracle(x, g, dy)
    assert_close(adapters.rmsnorm_backward_x_pytorch(dy, x, g), d_x, atol=1e-5, hint=HINT)
    assert_close(adapters.rmsnorm_backward_g_pytorch(dy, x, g), d_g, atol=1e-5, hint=HINT)


def test_the_adapter_returns_the_class(adapters):
    function = adapters.get_rmsnorm_autograd_function_pytorch()
    assert isinstance(function, type) and issubclass(function, torch.autograd.Function), (
        "return the autograd.Function class itself, not its .apply and not an instance"
    )
