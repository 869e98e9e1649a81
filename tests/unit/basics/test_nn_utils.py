"""Softmax, losses, activations and clipping: finite differences in float64, torch, and extreme inputs."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from cs336_basics.nn_utils import (
    clip_gradient,
    cross_entropy,
    gelu,
    log_softmax,
    logsumexp,
    relu,
    silu,
    softmax,
    token_losses,
)


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_softmax_and_its_gradients(dim, scale) -> None:
    x = randn(4, 3, 5, scale=scale).requires_grad_()
    torch.testing.assert_close(softmax(x, dim), torch.softmax(x, dim), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(log_softmax(x, dim), torch.log_softmax(x, dim), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(logsumexp(x, dim), torch.logsumexp(x, dim), rtol=1e-12, atol=1e-12)
    for function in (softmax, log_softmax, logsumexp):
        assert gradcheck(lambda y, f=function: f(y, dim), (x,))
    assert gradgradcheck(lambda y: softmax(y, dim), (x,))


@pytest.mark.parametrize("shape", [(1, 2), (7, 5), (2, 3, 11)])
def test_losses_and_their_gradients(shape) -> None:
    x = randn(*shape, scale=5.0).requires_grad_()
    targets = torch.randint(shape[-1], shape[:-1], generator=torch.Generator().manual_seed(1))
    flat = x.flatten(0, -2)
    expected = functional.cross_entropy(flat, targets.flatten(), reduction="none").reshape(targets.shape)
    torch.testing.assert_close(token_losses(x, targets), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(cross_entropy(x, targets), expected.mean(), rtol=1e-12, atol=1e-13)
    assert gradcheck(lambda y: token_losses(y, targets), (x,))
    assert gradcheck(lambda y: cross_entropy(y, targets), (x,))


def test_losses_with_uneven_weights_on_the_rows() -> None:
    """The incoming gradient belongs to its row, also when it is not contiguous."""
    x, targets, weights = randn(4, 6).requires_grad_(), torch.tensor([5, 0, 2, 2]), randn(4, 2)[:, 0]
    (actual,) = torch.autograd.grad((token_losses(x, targets) * weights).sum(), x)
    (expected,) = torch.autograd.grad((functional.cross_entropy(x, targets, reduction="none") * weights).sum(), x)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_second_derivative_of_the_loss_is_refused() -> None:
    x, targets = randn(3, 4).requires_grad_(), torch.tensor([0, 1, 3])
    (gradient,) = torch.autograd.grad(token_losses(x, targets).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("shift", [-1e30, -1e4, 0.0, 1e4, 1e30])
def test_a_common_shift_changes_nothing(shift) -> None:
    x = torch.tensor([[shift, shift], [shift, shift]])
    assert torch.equal(softmax(x, -1), torch.full((2, 2), 0.5))
    targets = torch.tensor([0, 1])
    torch.testing.assert_close(
        cross_entropy(x.double(), targets).float(), torch.tensor(math.log(2)), rtol=0, atol=1e-6 + 1e-15 * abs(shift)
    )


def test_opposite_extremes() -> None:
    """Of two logits a range of float32 apart, the lower has probability 0, a loss of their distance, no NaN."""
    x = torch.tensor([[3e38, -3e37]], requires_grad=True)
    assert torch.equal(softmax(x, -1), torch.tensor([[1.0, 0.0]]))
    loss = cross_entropy(x, torch.tensor([1]))
    assert loss.item() == pytest.approx(3.3e38, rel=1e-6)
    loss.backward()
    assert torch.equal(x.grad, torch.tensor([[1.0, -1.0]]))


def test_rows_with_minus_infinity() -> None:
    inf = math.inf
    x = torch.tensor([[0.0, -inf, 1.0], [-inf, -inf, -inf], [-inf, 5.0, -inf]], requires_grad=True)
    p = softmax(x, -1)
    torch.testing.assert_close(p[0], torch.softmax(x[0], -1))
    assert torch.equal(p[1], torch.zeros(3)) and torch.equal(p[2], torch.tensor([0.0, 1.0, 0.0]))
    (p * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.isfinite(x.grad).all() and torch.equal(x.grad[1], torch.zeros(3))
    loss = token_losses(x[[0, 2]], torch.tensor([1, 1]))
    assert loss.tolist() == [inf, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype) -> None:
    """The inputs are rounded, the arithmetic is not: bfloat16 could not even sum 2,000 ones."""
    x = randn(3, 2000, scale=0.1).to(dtype)
    assert softmax(x, -1).dtype == dtype
    torch.testing.assert_close(softmax(x, -1), torch.softmax(x.float(), -1).to(dtype))
    targets = torch.tensor([0, 1999, 7])
    expected = functional.cross_entropy(x.float(), targets)
    assert cross_entropy(x, targets).dtype == torch.float32
    torch.testing.assert_close(cross_entropy(x, targets), expected, rtol=1e-6, atol=1e-6)
    x.requires_grad_()
    cross_entropy(x, targets).backward()
    assert x.grad.dtype == dtype


def test_wrong_shapes_and_targets_are_refused() -> None:
    with pytest.raises((ValueError, TypeError)) as caught:  # a TypeError where the annotations are checked first
        cross_entropy(torch.zeros(2, 3, 5), torch.zeros(3, 2, dtype=torch.int64))
    assert caught.type is not ValueError or "shape (2, 3), the logits' shape" in str(caught.value)
    for target in (5, -1):
        with pytest.raises((RuntimeError, IndexError)):
            cross_entropy(torch.zeros(1, 5), torch.tensor([target]))


def test_inputs_stay_as_they_were() -> None:
    """The in-place steps work on copies."""
    x, targets = randn(3, 4), torch.tensor([0, 1, 3])
    before = x.clone()
    softmax(x, -1), token_losses(x, targets), logsumexp(x, -1)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("mine", "theirs"), [(silu, functional.silu), (gelu, functional.gelu), (relu, torch.relu)])
def test_activations(mine, theirs) -> None:
    x = torch.cat([torch.linspace(-40, 40, 401, dtype=torch.float64), torch.tensor([-1e30, 0.0, 1e30])])
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-12, atol=1e-15)
    assert gradcheck(mine, (randn(20, seed=3).requires_grad_(),))


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e3])
def test_clipping_returns_the_norm_of_torch(max_norm) -> None:
    def parameters() -> list[torch.nn.Parameter]:
        made = [torch.nn.Parameter(torch.zeros(3, i + 1)) for i in range(4)]
        for i, p in enumerate(made[:3]):
            p.grad = randn(3, i + 1, seed=i).float()
        return made

    mine, theirs = parameters(), parameters()
    norm, expected = clip_gradient(mine, max_norm), torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert norm.shape == ()
    torch.testing.assert_close(norm, expected)
    for a, b in zip(mine[:3], theirs[:3], strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert mine[3].grad is None


def test_clipping_nothing() -> None:
    assert clip_gradient([], 1.0).item() == 0.0
    assert clip_gradient([torch.nn.Parameter(torch.ones(2))], 1.0).item() == 0.0


def test_clipping_half_precision_gradients() -> None:
    """The squares of float16 gradients of 300 overflow; their norm does not."""
    p = torch.nn.Parameter(torch.zeros(1000, dtype=torch.float16))
    p.grad = torch.full((1000,), 300.0, dtype=torch.float16)
    assert clip_gradient([p], 1.0).item() == pytest.approx(300 * math.sqrt(1000), rel=1e-3)
    assert p.grad.dtype == torch.float16
    assert p.grad.double().norm().item() == pytest.approx(1.0, rel=2e-3)
