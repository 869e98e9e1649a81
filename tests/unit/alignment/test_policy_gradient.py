"""Losses and advantages beyond the handout, against loops, identities and differences; errors that name the rule."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cs336_alignment.advantages import compute_group_normalized_rewards, compute_rollout_rewards
from cs336_alignment.kl_divergence import kl_divergence
from cs336_alignment.policy_gradient import (
    aggregate_loss_across_microbatch,
    clipped_surrogate_loss,
    compute_policy_gradient_loss,
    truncated_importance_weights,
)


def tensors(rows: int = 5, seq: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probs, old log-probs and advantages in float64."""
    generator = torch.Generator().manual_seed(7)
    old = torch.randn(rows, seq, generator=generator, dtype=torch.float64) - 1
    return old + 0.5 * torch.randn(rows, seq, generator=generator, dtype=torch.float64), old, torch.tensor(
        [[1.0], [-1.0], [2.0], [-0.5], [0.0]], dtype=torch.float64
    )  # fmt: skip


def gradient(function, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    function(x).sum().backward()
    assert x.grad is not None
    return x.grad


def differences(function, x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    found = torch.zeros_like(x)
    for place in itertools.product(*map(range, x.shape)):
        sides = []
        for sign in (1, -1):
            moved = x.clone()
            moved[place] += sign * eps
            sides.append(function(moved).sum())
        found[place] = (sides[0] - sides[1]) / (2 * eps)
    return found


def test_asymmetric_clip():
    """DAPO: held at 1 + high above and 1 - low below."""
    ratio = torch.tensor([[0.5], [0.85], [1.25], [1.5]])
    for sign in (1.0, -1.0):
        loss, clipped = clipped_surrogate_loss(ratio, torch.full((4, 1), sign), clip_low=0.2, clip_high=0.3)
        expected = [-min(w * sign, min(max(w, 0.8), 1.3) * sign) for w in (0.5, 0.85, 1.25, 1.5)]
        np.testing.assert_allclose(loss[:, 0], expected, rtol=1e-6)
        assert clipped[:, 0].tolist() == ([False, False, False, True] if sign > 0 else [True, False, False, False])


def test_ratio_cap_bounds_the_loss_of_bad_responses():
    ratio = torch.tensor([[0.5, 2.0, 5.0]], requires_grad=True)
    loss, clipped = clipped_surrogate_loss(ratio, torch.tensor([[-1.0]]), clip_low=0.2, ratio_cap=3.0)
    assert loss.tolist() == [[pytest.approx(0.8), 2.0, 3.0]]
    loss.sum().backward()
    assert ratio.grad is not None and ratio.grad.tolist() == [[0.0, 1.0, 0.0]]
    assert clipped.tolist() == [[True, False, True]]


def test_cispo_keeps_every_gradient():
    """The gradient is -min(w, 1 + high) A for each token: bounded, never zero."""
    x, old, a = tensors()

    def loss(log_probs):
        return compute_policy_gradient_loss(a, log_probs, "cispo", old, 0.2)[0]

    weight = torch.exp(x - old).clamp(max=1.2)
    torch.testing.assert_close(gradient(loss, x), -weight * a)


@pytest.mark.parametrize("method", ["noclip", "grpo", "gspo"])
def test_gradients_by_differences(method):
    x, old, a = tensors()
    mask = torch.rand(5, 4, generator=torch.Generator().manual_seed(1)) > 0.3

    def loss(log_probs):
        options = {"cliprange_high": 0.28, "ratio_cap": 2.0} if method != "noclip" else {}
        losses, _ = compute_policy_gradient_loss(a, log_probs, method, old, 0.2, mask, **options)
        return aggregate_loss_across_microbatch(losses, mask)

    torch.testing.assert_close(gradient(loss, x), differences(loss, x), atol=1e-8, rtol=1e-6)


def test_all_methods_agree_on_policy():
    """Where old and new are the same, every ratio is 1 and every gradient that of REINFORCE."""
    x, _, a = tensors()
    expected = gradient(lambda p: compute_policy_gradient_loss(a, p)[0], x)
    for method in ("noclip", "grpo", "cispo"):
        found = gradient(lambda p, m=method: compute_policy_gradient_loss(a, p, m, x, 0.2)[0], x)
        torch.testing.assert_close(found, expected)
    mask = torch.ones(5, 4, dtype=torch.bool)
    spread = gradient(lambda p: compute_policy_gradient_loss(a, p, "gspo", x, 0.2, mask)[0], x)
    torch.testing.assert_close(spread, expected), "a sequence's ratio spreads its gradient over the tokens"


def test_advantages_per_token():
    x, old, _ = tensors()
    a = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    loss, _ = compute_policy_gradient_loss(a, x, "noclip", old)
    for b, t in itertools.product(range(5), range(4)):
        assert loss[b, t].item() == pytest.approx(-a[b, t].item() * math.exp(x[b, t].item() - old[b, t].item()))


def test_clip_report():
    x = torch.log(torch.tensor([[2.0, 0.5, 1.0], [2.0, 0.5, 1.0]]))
    _, details = compute_policy_gradient_loss(torch.tensor([1.0, -1.0]), x, "grpo", torch.zeros(2, 3), 0.2)
    assert details["clipped_high"].tolist() == [[True, False, False], [False, False, False]]
    assert details["clipped_low"].tolist() == [[False, False, False], [False, True, False]]
    assert not any(value.requires_grad for value in details.values())


def test_leave_one_out_is_a_multiple_of_the_group_mean():
    """RLOO = (r - mean) G / (G - 1), and each baseline is the mean of the others."""
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.5, 1.0, 1.0], dtype=torch.float64)
    rloo, _ = compute_group_normalized_rewards(rewards, 3, "leave_one_out", 1e-6, "none")
    others = [(0 + 0) / 2, (1 + 0) / 2, (1 + 0) / 2, (1 + 1) / 2, (0.5 + 1) / 2, (0.5 + 1) / 2]
    np.testing.assert_allclose(rloo, rewards.numpy() - others)
    centred, _ = compute_group_normalized_rewards(rewards, 3, "mean", 1e-6, "none")
    torch.testing.assert_close(rloo, centred * 3 / 2)


def test_batch_baseline():
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.5])
    found, _ = compute_group_normalized_rewards(rewards, 1, "batch", 0.0, "batch_std")
    values = np.array([1.0, 0.0, 0.0, 0.5])
    np.testing.assert_allclose(found, (values - values.mean()) / values.std(ddof=1), rtol=1e-6)


def test_equal_rewards_that_are_no_binary_fractions():
    """0.1 + 0.1 + 0.1 over 3 is not 0.1 in floating point; divided by a tiny deviation the rest would explode."""
    rewards = torch.full((7,), 0.1)
    for baseline in ("mean", "leave_one_out"):
        found, statistics = compute_group_normalized_rewards(rewards, 7, baseline, 1e-12, "std")
        assert found.tolist() == [0.0] * 7
        assert statistics["zero_variance_groups"] == 1


def test_kl_estimators_are_those_of_their_formulas_and_unbiased():
    """Summed with the policy's probabilities k1 and k3 give KL(pi || ref) exactly; k2 only nearly."""
    generator = torch.Generator().manual_seed(3)
    policy, reference = (torch.log_softmax(torch.randn(50, generator=generator).double(), -1) for _ in range(2))
    true = (policy.exp() * (policy - reference)).sum()
    for estimator in ("k1", "k3"):
        torch.testing.assert_close((policy.exp() * kl_divergence(policy, reference, estimator)).sum(), true)
    assert (kl_divergence(policy, reference, "k3") >= 0).all()
    torch.testing.assert_close(kl_divergence(policy, reference, "k2"), (reference - policy) ** 2 / 2)
    assert (kl_divergence(policy, reference, "k1") < 0).any()


def test_the_gradient_of_k2_is_that_of_the_divergence():
    """E[grad k2] = grad KL, while E[grad k1] = 0, by sums over the whole vocabulary."""
    logits = torch.randn(20, generator=torch.Generator().manual_seed(4), dtype=torch.float64).requires_grad_()
    reference = torch.log_softmax(torch.randn(20, generator=torch.Generator().manual_seed(5)).double(), -1)
    policy = torch.log_softmax(logits, -1)
    (true,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits, retain_graph=True)
    for estimator, expected in {"k2": true, "k1": torch.zeros_like(true)}.items():
        sampled = (policy.exp().detach() * kl_divergence(policy, reference, estimator)).sum()
        (found,) = torch.autograd.grad(sampled, logits, retain_graph=True)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_truncated_importance_weights():
    weights = truncated_importance_weights(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, -1.0]]), cap=2.0)
    np.testing.assert_allclose(weights, [[math.exp(-0.5), 2.0]], rtol=1e-6)


def test_rollout_rewards_refuse_nan():
    with pytest.raises(ValueError, match="'b' is nan"):
        compute_rollout_rewards(lambda r, _: {"reward": math.nan if r == "b" else 1.0}, ["a", "b"], ["", ""])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.tensor([1.0, 2.0, 3.0]), 2), "whole groups"),
        ((torch.tensor([]), 1), "whole groups"),
        ((torch.tensor([1.0, math.nan]), 2), "finite"),
        ((torch.tensor([1.0, 2.0]), 1), "group of one"),
        ((torch.tensor([1.0, 2.0]), 1, "leave_one_out", 1e-6, "none"), "group of one"),
        ((torch.tensor([1.0, 2.0]), 2, "median"), "baseline must be one of"),
    ],
)
def test_bad_groups(arguments, message):
    with pytest.raises(ValueError, match=message):
        compute_group_normalized_rewards(*arguments)


@pytest.mark.parametrize(
    ("method", "old", "clip", "message"),
    [
        ("ppo", torch.zeros(2, 3), 0.2, "must be one of"),
        ("noclip", None, None, "needs old_log_probs"),
        ("grpo", torch.zeros(2, 3), None, "needs cliprange"),
        ("grpo", torch.zeros(2, 4), 0.2, r"shape \(2, 3\); got \(2, 4\)"),
        ("grpo", torch.zeros(2, 3), -0.1, "must not be negative"),
    ],
)
def test_bad_loss_arguments(method, old, clip, message):
    with pytest.raises(ValueError, match=message):
        compute_policy_gradient_loss(torch.ones(2), torch.zeros(2, 3), method, old, clip)


def test_advantages_that_would_be_broadcast():
    """(3,) beside (2, 3) log-probs would be taken for one advantage per token."""
    with pytest.raises(ValueError, match="unless there is one per row"):
        compute_policy_gradient_loss(torch.ones(3), torch.zeros(2, 3))


@pytest.mark.parametrize(("name", "constant"), [("constant", None), ("constant", 0.0), ("mean", None)])
def test_bad_normalization(name, constant):
    with pytest.raises(ValueError, match="normalization"):
        aggregate_loss_across_microbatch(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), name, constant)
