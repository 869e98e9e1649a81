"""FlashAttention-2 (2025, 2026): against attention in float64 with all scores in memory. Triton needs a GPU.

Without one, TRITON_INTERPRET=1 in the environment runs the Triton tests in Triton's interpreter.
"""

from __future__ import annotations

import math
import os

import pytest
import torch

from .assertions import assert_close

TOLERANCE = 1e-2
KINDS = ["pytorch", "triton"]


def function_and_device(adapters, require, kind: str):
    """The class under test and where to run it; skips where Triton cannot run."""
    if kind == "pytorch":
        return adapters.get_flashattention_autograd_function_pytorch(), "cpu"
    require("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        require("cuda")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return adapters.get_flashattention_autograd_function_triton(), device


def problem(batch: int = 4, queries: int = 128, d: int = 64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, queries, d, generator=generator) for _ in range(4)]


def oracle(q, k, v, d_o, is_causal):
    """O, L, dQ, dK, dV by autograd in float64."""
    q, k, v = (t.double().requires_grad_() for t in (q, k, v))
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if is_causal:
        future = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    out = torch.softmax(scores, dim=-1) @ v
    logsumexp = torch.logsumexp(scores, dim=-1)
    return out.detach(), logsumexp.detach(), *torch.autograd.grad(out, (q, k, v), d_o.double())


def saved_logsumexp(out: torch.Tensor) -> torch.Tensor:
    """The one saved tensor of shape (batch, queries)."""
    found = [t for t in out.grad_fn.saved_tensors if t is not None and t.shape == out.shape[:2]]
    assert len(found) == 1, (
        f"save exactly one tensor of shape (batch, queries), the logsumexp L; found {len(found)} among shapes "
        f"{[tuple(t.shape) for t in out.grad_fn.saved_tensors if t is not None]}"
    )
    return found[0]


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_forward(adapters, require, kind, is_causal):
    function, device = function_and_device(adapters, require, kind)
    q, k, v, d_o = problem()
    expected, logsumexp, *_ = oracle(q, k, v, d_o, is_causal)
    q, k, v = (t.to(device).requires_grad_() for t in (q, k, v))
    out = function.apply(q, k, v, is_causal)
    hint = "softmax(Q K^T / sqrt(d)) V; a causal query sees keys up to its own position in the whole sequence"
    assert_close(out, expected, atol=TOLERANCE, rtol=TOLERANCE, hint=hint)
    hint = "L is the natural logarithm of sum(exp(scaled scores)); convert if you work in powers of two"
    assert_close(saved_logsumexp(out), logsumexp, atol=TOLERANCE, rtol=TOLERANCE, hint=hint)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_backward(adapters, require, kind, is_causal):
    function, device = function_and_device(adapters, require, kind)
    q, k, v, d_o = problem(batch=2)
    _, _, *expected = oracle(q, k, v, d_o, is_causal)
    q, k, v = (t.to(device).requires_grad_() for t in (q, k, v))
    function.apply(q, k, v, is_causal).backward(d_o.to(device))
    for name, tensor, gradient in zip("QKV", (q, k, v), expected, strict=True):
        hint = f"gradient of {name}: P = exp(S - L); dS = P * (dP - D), D = rowsum(dO * O); dQ and dK take 1/sqrt(d)"
        assert_close(tensor.grad, gradient, atol=TOLERANCE, rtol=TOLERANCE, hint=hint)


def test_is_causal_is_false_by_default(adapters):
    q, k, v, d_o = problem(batch=1, queries=16, d=16)
    expected, *_ = oracle(q, k, v, d_o, False)
    out = adapters.get_flashattention_autograd_function_pytorch().apply(q, k, v)
    assert_close(out, expected, atol=TOLERANCE, rtol=TOLERANCE, hint="forward(ctx, Q, K, V, is_causal=False)")


def test_expanded_gradient(adapters, require):
    """o.sum() sends back one number expanded over all places: its strides are zero."""
    q, k, v, d_o = problem(batch=1, queries=32, d=16)
    _, _, *expected = oracle(q, k, v, torch.ones_like(d_o), True)
    q, k, v = (t.requires_grad_() for t in (q, k, v))
    adapters.get_flashattention_autograd_function_pytorch().apply(q, k, v, True).sum().backward()
    for tensor, gradient in zip((q, k, v), expected, strict=True):
        assert_close(tensor.grad, gradient, atol=TOLERANCE, rtol=TOLERANCE, hint="dO need not be contiguous")
