"""Cross-entropy kernels and the fused head against torch in float64."""

from __future__ import annotations

import pytest
import torch

from cs336_systems.kernels import cross_entropy
from cs336_systems.kernels.cross_entropy import CrossEntropyPyTorch, CrossEntropyTriton, fused_linear_cross_entropy

from kernel_oracle import assert_matches, expanded, randn  # isort: skip

TARGETS = torch.tensor([0, 69, 3, 3, 40])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(cross_entropy, "MAX_BLOCK", 32)


def oracle(logits, z_loss=0.01):
    losses = torch.nn.functional.cross_entropy(logits, TARGETS, reduction="none")
    return losses + z_loss * logits.logsumexp(-1).square()


@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
@pytest.mark.parametrize("function", [CrossEntropyPyTorch, CrossEntropyTriton])
def test_against_float64(function, scale, request):
    device = "cpu" if function is CrossEntropyPyTorch else request.getfixturevalue("kernel_device")
    targets = TARGETS.to(device)
    assert_matches(
        lambda x: function.apply(x, targets, 0.01), oracle, [randn(5, 70, seed=0, scale=scale)], device=device,
        grads=expanded if scale == 1.0 else None, tolerance=2e-5,
    )  # fmt: skip


def test_gradient_in_place(kernel_device):
    x = randn(5, 70, seed=0)
    assert_matches(
        lambda x: CrossEntropyTriton.apply(x * 1, TARGETS.to(kernel_device), 0.01, True), oracle, [x],
        device=kernel_device,
    )  # fmt: skip
    leaf = x.to(kernel_device).requires_grad_()
    logits = leaf * 1
    place = logits.data_ptr()
    logits.register_hook(lambda grad: pytest.fail("not in place") if grad.data_ptr() != place else None)
    loss = CrossEntropyTriton.apply(logits, TARGETS.to(kernel_device), 0.0, True).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert torch.equal(leaf.detach().cpu(), x)


def test_a_leaf_is_never_overwritten(kernel_device):
    x = randn(5, 70, seed=0)
    leaf = x.to(kernel_device).requires_grad_()
    CrossEntropyTriton.apply(leaf, TARGETS.to(kernel_device), 0.0, True).sum().backward()
    assert torch.equal(leaf.detach().cpu(), x)


def test_a_target_outside_the_vocabulary_gives_nan(kernel_device):
    targets = torch.tensor([0, 70, -1, 3, 4], device=kernel_device)
    loss = CrossEntropyTriton.apply(randn(5, 70, seed=0).to(kernel_device), targets)
    assert loss.isnan().tolist() == [False, True, True, False, False]


@pytest.mark.parametrize("chunk", [2, 100])
def test_fused_head(chunk, kernel_device):
    targets = TARGETS.to(kernel_device)
    assert_matches(
        lambda h, w: fused_linear_cross_entropy(h, w, targets, chunk_tokens=chunk, z_loss=0.01),
        lambda h, w: oracle(h @ w.T).mean(), [randn(5, 8, seed=0), randn(70, 8, seed=1)], device=kernel_device,
    )  # fmt: skip


def test_fused_head_without_gradients(kernel_device):
    h, w = randn(5, 8, seed=0), randn(70, 8, seed=1)
    with torch.no_grad():
        actual = fused_linear_cross_entropy(h.to(kernel_device), w.to(kernel_device), TARGETS.to(kernel_device))
    torch.testing.assert_close(actual.cpu(), oracle(h @ w.T, 0.0).mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it traces an autograd.Function
def test_fused_head_under_torch_compile(kernel_device):
    targets = TARGETS.to(kernel_device)
    fused = torch.compile(
        lambda h, w: fused_linear_cross_entropy(h, w, targets, chunk_tokens=3), backend="aot_eager", fullgraph=True
    )
    inputs = [randn(5, 8, seed=0), randn(70, 8, seed=1)]
    assert_matches(fused, lambda h, w: oracle(h @ w.T, 0.0).mean(), inputs, device=kernel_device)


def test_wrong_arguments_are_named():
    h, w = torch.zeros(5, 8), torch.zeros(70, 8)
    with pytest.raises(ValueError, match="at least one token"):
        fused_linear_cross_entropy(h[:0], w, TARGETS[:0])
    with pytest.raises(ValueError, match="chunk_tokens must be at least 1"):
        fused_linear_cross_entropy(h, w, TARGETS, chunk_tokens=0)
    with pytest.raises(ValueError, match="targets must be integers"):
        CrossEntropyPyTorch.apply(h, torch.zeros(5))
