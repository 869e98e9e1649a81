"""Blocked causal attention against the plain formula, forward and backward, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from cs336_basics import blocked_attention
from cs336_basics.blocked_attention import QUERY_BLOCK, blocked_causal_attention
from cs336_basics.model import ATTENTION_FUNCTIONS, causal_attention

B = QUERY_BLOCK
SHAPES = [
    (1, 1), (1, 7), (2, 2), (2, 9), (B - 1, B - 1), (B, B), (B + 1, B + 1), (2 * B, 2 * B), (2 * B + 3, 2 * B + 3),
    (5, B), (B, B + 1), (B + 1, 2 * B + 5), (3, 3 * B),
]  # fmt: skip


def inputs(queries: int, keys: int, leading: tuple[int, ...] = (2, 3), d_k: int = 8, d_v: int = 8):
    torch.manual_seed(queries * 1000 + keys)
    shapes = ((*leading, queries, d_k), (*leading, keys, d_k), (*leading, keys, d_v))
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def formula(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """torch only: query i of n sees the keys up to keys - n + i."""
    n, m = q.shape[-2], k.shape[-2]
    future = torch.arange(m)[None, :] > torch.arange(n)[:, None] + m - n
    scores = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).masked_fill(future, -math.inf)
    return torch.softmax(scores, dim=-1) @ v


def assert_same(tensors: list[torch.Tensor], attention=blocked_causal_attention) -> None:
    """Outputs and all three gradients, with a random incoming gradient."""
    actual, expected = attention(*tensors), formula(*tensors)
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)
    incoming = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mine = torch.autograd.grad(actual, tensors, incoming)
    theirs = torch.autograd.grad(expected, tensors, incoming)
    for a, b, name in zip(mine, theirs, "QKV", strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"gradient of {name}: {text}"
        )


@pytest.mark.parametrize(("queries", "keys"), SHAPES)
@pytest.mark.parametrize("attention", [blocked_causal_attention, causal_attention])
def test_forward_and_gradients(queries, keys, attention) -> None:
    assert_same(inputs(queries, keys), attention)


@pytest.mark.parametrize("leading", [(), (1,), (2, 1, 3)])
def test_leading_axes(leading) -> None:
    assert_same(inputs(B + 2, B + 6, leading))


@pytest.mark.parametrize(("d_k", "d_v"), [(4, 16), (16, 4), (1, 1)])
def test_values_of_another_width(d_k, d_v) -> None:
    assert_same(inputs(B + 2, B + 6, d_k=d_k, d_v=d_v))


def test_inputs_that_are_not_contiguous() -> None:
    """As the model passes them: (batch, seq, heads, d_k) with two axes swapped; the incoming gradient likewise."""
    tensors = [torch.randn(2, 70, 3, 8, dtype=torch.float64).transpose(1, 2).requires_grad_() for _ in range(3)]
    assert not any(t.is_contiguous() for t in tensors)
    assert_same(tensors)
    actual, expected = blocked_causal_attention(*tensors), formula(*tensors)
    incoming = torch.randn(2, 70, 3, 8, dtype=torch.float64).transpose(1, 2)
    for a, b in zip(
        torch.autograd.grad(actual, tensors, incoming), torch.autograd.grad(expected, tensors, incoming), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("block", [1, 2, 3, 64])
def test_finite_differences(monkeypatch, block) -> None:
    monkeypatch.setattr(blocked_attention, "QUERY_BLOCK", block)
    assert gradcheck(blocked_causal_attention, inputs(5, 7, (2,), d_k=3, d_v=2))


def test_second_derivative_is_refused() -> None:
    q, k, v = inputs(4, 4, (1,), d_k=3, d_v=2)
    (gradient,) = torch.autograd.grad(blocked_causal_attention(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_large_scores_do_not_overflow() -> None:
    q, k, v = inputs(B + 2, B + 2)
    assert_same([(q * 100).detach().requires_grad_(), k, v])


def test_float32_and_bfloat16() -> None:
    tensors = inputs(B + 9, B + 9)
    expected = formula(*tensors)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        actual = blocked_causal_attention(*(t.to(dtype) for t in tensors))
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


def test_inputs_stay_as_they_were() -> None:
    tensors = inputs(B + 2, B + 2)
    before = [t.detach().clone() for t in tensors]
    assert_same(tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_dropout_is_refused() -> None:
    assert ATTENTION_FUNCTIONS["blocked"] is blocked_causal_attention
    with pytest.raises(ValueError, match=r"no dropout; got attn_pdrop=0\.1; use attention='plain'"):
        blocked_causal_attention(*inputs(2, 2), 0.1)


def test_more_queries_than_keys_are_refused_or_right() -> None:
    q, k, v = inputs(5, 3, (1,))
    try:
        actual = blocked_causal_attention(q, k, v)
    except (RuntimeError, ValueError):
        return
    torch.testing.assert_close(actual, causal_attention(q, k, v))
