"""Problems softmax, cross_entropy and gradient_clipping: against torch and float64 loops, with inputs that overflow."""

from __future__ import annotations

import math

import pytest
import torch

from .assertions import assert_close

CLIP_HINT = (
    "one factor max_norm / (norm + 1e-6) for all gradients, norm over all of them together, only if norm > max_norm"
)


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("atol", [1e-5, pytest.param(1e-6, marks=pytest.mark.edition2025)])
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_softmax_matches_pytorch(adapters, device, dim, shift, atol):
    x = randn(5, 7, seed=1) + shift
    expected = torch.softmax(x.double(), dim=dim)
    hint = "subtract the maximum over dim before exp: softmax does not change under a shift"
    assert_close(adapters.run_softmax(x.to(device), dim=dim), expected, atol=atol, hint=hint)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_softmax_does_not_overflow(adapters, device, shift):
    x = torch.tensor([[shift, shift + 1.0, shift + 2.0]], device=device)
    expected = [[math.exp(i) / (1 + math.e + math.e**2) for i in range(3)]]
    assert_close(adapters.run_softmax(x, dim=-1), expected, atol=1e-6, hint="subtract the maximum before exp")


def test_softmax_subtracts_the_maximum_of_each_row(adapters, device):
    """One maximum for the whole tensor leaves the small rows 0 / 0."""
    x = torch.tensor([[0.0, 1.0], [1000.0, 1001.0]], device=device)
    expected = [[1 / (1 + math.e), math.e / (1 + math.e)]] * 2
    assert_close(adapters.run_softmax(x, dim=-1), expected, atol=1e-6, hint="the maximum is taken over dim only")


def float64_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Mean of log(sum(exp(row - max))) + max - row[target], row by row in Python floats."""
    rows = logits.double().flatten(0, -2).tolist()
    losses = []
    for row, target in zip(rows, targets.flatten().tolist(), strict=True):
        top = max(row)
        losses.append(math.log(math.fsum(math.exp(value - top) for value in row)) + top - row[target])
    return math.fsum(losses) / len(losses)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_cross_entropy(adapters, device, scale):
    """Logits times 1000 overflow exp; log(softmax) would give log 0."""
    logits, targets = scale * randn(8, 5, seed=2), torch.arange(8) % 5
    actual = adapters.run_cross_entropy(logits.to(device), targets.to(device))
    assert actual.shape == (), f"return the mean, a 0-d tensor; got shape {tuple(actual.shape)}"
    hint = "logsumexp(logits) - logits[target] with the maximum subtracted; never log(softmax(x))"
    assert_close(actual, float64_cross_entropy(logits, targets), atol=1e-4, rtol=1e-5, hint=hint)
    assert_close(actual, torch.nn.functional.cross_entropy(logits, targets), atol=1e-4, rtol=1e-5, hint=hint)


def test_cross_entropy_keeps_small_losses(adapters, device):
    """A confident and right model: the loss 4.54e-5 must not be rounded to nothing by a large shift."""
    logits = torch.tensor([[10.0, 0.0]], device=device)
    actual = adapters.run_cross_entropy(logits, torch.tensor([0], device=device))
    assert_close(actual, math.log1p(math.exp(-10)), atol=1e-6, hint="subtract the maximum, then log of the sum of exp")


def test_cross_entropy_averages_over_all_leading_axes(adapters, device):
    logits, targets = randn(3, 4, 6, seed=3), torch.arange(12).reshape(3, 4) % 6
    actual = adapters.run_cross_entropy(logits.to(device), targets.to(device))
    hint = "the mean is over all leading axes, here (batch, seq)"
    assert_close(actual, float64_cross_entropy(logits, targets), atol=1e-5, hint=hint)


def test_cross_entropy_gradient(adapters, device):
    """(softmax - one hot) / number of targets."""
    logits, targets = randn(4, 5, seed=4).to(device).requires_grad_(), torch.tensor([0, 4, 2, 2], device=device)
    adapters.run_cross_entropy(logits, targets).backward()
    expected = (torch.softmax(logits.detach(), -1) - torch.eye(5, device=device)[targets]) / 4
    assert_close(logits.grad, expected, atol=1e-6, hint="the loss must be differentiable: no detach, no .item()")


def parameters_with_gradients(seed: int) -> list[torch.nn.Parameter]:
    """Six (5, 5) parameters; the fourth is frozen and has no gradient."""
    parameters = [torch.nn.Parameter(randn(5, 5, seed=seed + i)) for i in range(6)]
    parameters[3].requires_grad_(False)
    torch.cat([p for p in parameters if p.requires_grad]).pow(2).sum().backward()
    return parameters


def assert_same_gradients(actual, expected) -> None:
    for mine, theirs in zip(actual, expected, strict=True):
        assert (mine.grad is None) == (theirs.grad is None), "a parameter without gradient must stay without gradient"
        if theirs.grad is not None:
            assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-5, hint=CLIP_HINT)


@pytest.mark.parametrize("max_norm", [1e-2, 1.0, 1e4], ids=["far_below", "below", "above"])
@pytest.mark.parametrize("as_iterable", [list, iter], ids=["list", "generator"])
def test_gradient_clipping(adapters, max_norm, as_iterable):
    """Equals torch.nn.utils.clip_grad_norm_; model.parameters() is a generator that can be read once only."""
    mine, theirs = parameters_with_gradients(5), parameters_with_gradients(5)
    adapters.run_gradient_clipping(as_iterable(mine), max_norm)
    torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert_same_gradients(mine, theirs)


def test_gradient_clipping_leaves_small_gradients_bitwise_alone(adapters):
    parameters = parameters_with_gradients(6)
    before = [None if p.grad is None else p.grad.clone() for p in parameters]
    adapters.run_gradient_clipping(parameters, 1e4)
    for parameter, grad in zip(parameters, before, strict=True):
        assert grad is None or torch.equal(parameter.grad, grad), "below max_norm the gradients must not change at all"


def test_gradient_clipping_works_in_place(adapters):
    """The tensor that .grad names is scaled itself: others may hold a view of it."""
    parameters = [p for p in parameters_with_gradients(7) if p.grad is not None]
    held = [p.grad for p in parameters]
    adapters.run_gradient_clipping(parameters, 1.0)
    assert all(p.grad is grad for p, grad in zip(parameters, held, strict=True)), "scale .grad in place"
    norm = math.sqrt(sum(grad.double().pow(2).sum().item() for grad in held))
    assert norm <= 1.0 and norm > 0.999, f"joint norm {norm} after clipping to 1. {CLIP_HINT}"


def test_gradient_clipping_without_any_gradient(adapters):
    parameter = torch.nn.Parameter(torch.ones(2))
    adapters.run_gradient_clipping([parameter], 1.0)
    assert parameter.grad is None and torch.equal(parameter.detach(), torch.ones(2))
