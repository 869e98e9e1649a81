"""Problems of the policy gradient in the 2025 and 2026 handouts: rewards, advantages, losses, aggregation, train step."""

from __future__ import annotations

import hashlib
import math
import statistics

import numpy as np
import pytest
import torch

from .assertions import assert_close
from .fixtures.alignment_files import TinyCausalLM, stored_tokenizer
from .fixtures.grpo_steps import ANSWERS, PROMPTS, REWARDS, VARIANTS, expected_step, projections

RESPONSES = [f"hmm I think ths answer is {i}" for i in range(8)]
TRUTHS = ["42"] * 8
METHODS = ["none", "noclip", "grpo", "gspo"]


def reward_fn(response: str, ground_truth: str) -> dict[str, float]:
    """Arbitrary but fixed."""
    reward = hashlib.sha256((response + ground_truth).encode()).digest()[0] % 10 / 10
    return {"reward": reward, "format_reward": 1.0, "answer_reward": reward}


def expected_advantages(rewards: list[float], group: int, baseline: str, normalizer: str, eps: float) -> list[float]:
    found = []
    for start in range(0, len(rewards), group):
        part = rewards[start : start + group]
        mean = statistics.fmean(part)
        divisor = {"none": 1.0, "std": statistics.stdev(part) + eps, "mean": mean + eps}[normalizer]
        found += [(r - (mean if baseline == "mean" else 0.0)) / divisor for r in part]
    return found


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    log_probs = torch.randn(4, 6, generator=generator) - 1
    return {
        "log_probs": log_probs,
        "old": log_probs + 0.4 * torch.randn(4, 6, generator=generator),
        "advantages": torch.tensor([[1.5], [-0.5], [0.25], [-2.0]]),
        "mask": torch.rand(4, 6, generator=generator) > 0.4,
    }


def loss_by_loop(method: str, t: dict[str, torch.Tensor], clip: float, use_mask: bool = True) -> np.ndarray:
    """Every token by the formula, in float64."""
    log_probs, old = t["log_probs"].double().tolist(), t["old"].double().tolist()
    mask, found = t["mask"].tolist(), np.zeros((4, 6))
    for b in range(4):
        a = float(t["advantages"][b, 0])
        places = [i for i in range(6) if mask[b][i] or not use_mask]
        s = math.exp(sum(log_probs[b][i] - old[b][i] for i in places) / max(1, len(places)))
        for i in range(6):
            w = s if method == "gspo" else math.exp(log_probs[b][i] - old[b][i])
            clipped = min(max(w, 1 - clip), 1 + clip)
            found[b, i] = {"none": -a * log_probs[b][i], "noclip": -a * w}.get(method, -min(w * a, clipped * a))
    return found


def test_compute_rollout_rewards(adapters):
    raw, metadata = adapters.run_compute_rollout_rewards(reward_fn, RESPONSES, TRUTHS)
    expected = [reward_fn(r, t)["reward"] for r, t in zip(RESPONSES, TRUTHS, strict=True)]
    assert_close(raw, expected, atol=1e-6, hint='the entry "reward" of each response, in order')
    assert isinstance(metadata, dict)


@pytest.mark.parametrize("baseline", ["mean", "none"])
@pytest.mark.parametrize("normalizer", ["std", "none", "mean"])
def test_group_normalized_rewards(adapters, baseline, normalizer):
    rewards = [0.2, 0.5, 0.0, 0.4, 0.9, 0.7, 0.2, 0.0]
    advantages, _ = adapters.run_compute_group_normalized_rewards(
        raw_rewards=torch.tensor(rewards), group_size=4, baseline=baseline, advantage_eps=1e-6,
        advantage_normalizer=normalizer,
    )  # fmt: skip
    expected = expected_advantages(rewards, 4, baseline, normalizer, 1e-6)
    assert_close(advantages, expected, atol=1e-5, hint="groups are consecutive; std is the unbiased one (n - 1)")


def test_equal_rewards_have_no_advantage(adapters):
    rewards = torch.tensor([0.1, 0.1, 0.1, 1.0, 1.0, 1.0])
    advantages, _ = adapters.run_compute_group_normalized_rewards(raw_rewards=rewards, group_size=3)
    assert_close(advantages, [0.0] * 6, atol=1e-4, hint="a group whose rewards are all equal teaches nothing")


@pytest.mark.edition2025
@pytest.mark.parametrize("by_std", [True, False])
def test_group_normalized_rewards_2025(adapters, by_std):
    advantages, raw, metadata = adapters.run_compute_group_normalized_rewards(
        reward_fn=reward_fn, rollout_responses=RESPONSES, repeated_ground_truths=TRUTHS, group_size=4,
        advantage_eps=1e-6, normalize_by_std=by_std,
    )  # fmt: skip
    rewards = [reward_fn(r, t)["reward"] for r, t in zip(RESPONSES, TRUTHS, strict=True)]
    assert_close(raw, rewards, atol=1e-6, hint="raw rewards are the second of three values")
    expected = expected_advantages(rewards, 4, "mean", "std" if by_std else "none", 1e-6)
    assert_close(advantages, expected, atol=1e-5, hint="groups are consecutive; std is the unbiased one (n - 1)")


@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_policy_gradient_loss(adapters, tensors, method, columns):
    advantages = tensors["advantages"] if columns else tensors["advantages"][:, 0]
    loss, _ = adapters.run_compute_policy_gradient_loss(
        raw_rewards_or_advantages=advantages, policy_log_probs=tensors["log_probs"],
        importance_reweighting_method=method, old_log_probs=tensors["old"], cliprange=0.2,
        response_mask=tensors["mask"],
    )  # fmt: skip
    assert_close(loss, loss_by_loop(method, tensors, 0.2), atol=1e-5, hint=f"method {method}, (batch, seq)")


def test_gspo_without_mask_takes_all_tokens(adapters, tensors):
    loss, _ = adapters.run_compute_policy_gradient_loss(
        tensors["advantages"], tensors["log_probs"], "gspo", tensors["old"], 0.2
    )
    assert_close(loss, loss_by_loop("gspo", tensors, 0.2, use_mask=False), atol=1e-5, hint="mean over all tokens")


@pytest.mark.parametrize("method", METHODS)
def test_gradient_by_finite_differences(adapters, tensors, method):
    """The gradient of the summed loss, token by token, against differences of the formula in float64."""
    log_probs = tensors["log_probs"].double().requires_grad_()
    loss, _ = adapters.run_compute_policy_gradient_loss(
        tensors["advantages"].double(), log_probs, method, tensors["old"].double(), 0.2, tensors["mask"]
    )
    loss.sum().backward()
    for b in range(4):
        for i in range(6):
            sides = []
            for sign in (1, -1):
                moved = {**tensors, "log_probs": log_probs.detach().clone(), "old": tensors["old"].double()}
                moved["log_probs"][b, i] += sign * 1e-6
                sides.append(loss_by_loop(method, moved, 0.2).sum())
            slope = (sides[0] - sides[1]) / 2e-6
            assert_close(log_probs.grad[b, i], slope, atol=1e-5, hint=f"{method}: gradient at row {b}, token {i}")


@pytest.mark.parametrize(
    ("advantage", "ratio", "active"),
    [(1, 0.5, True), (1, 1.0, True), (1, 1.5, False), (-1, 0.5, False), (-1, 1.0, True), (-1, 1.5, True)],
)
def test_clip_stops_the_gradient_only_where_it_pushes_further(adapters, advantage, ratio, active):
    log_probs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    loss, _ = adapters.run_compute_policy_gradient_loss(
        torch.tensor([[float(advantage)]]), log_probs, "grpo", torch.zeros(1, 1), 0.2
    )
    loss.sum().backward()
    assert_close(log_probs.grad, [[-advantage * ratio if active else 0.0]], atol=1e-6, hint=f"A={advantage}, w={ratio}")


@pytest.mark.edition2025
def test_naive_policy_gradient_loss(adapters, tensors):
    loss = adapters.run_compute_naive_policy_gradient_loss(
        raw_rewards_or_advantages=tensors["advantages"], policy_log_probs=tensors["log_probs"]
    )
    assert_close(loss, loss_by_loop("none", tensors, 0.1), atol=1e-5, hint="-A log p")


@pytest.mark.edition2025
def test_grpo_clip_loss(adapters, tensors):
    t = tensors
    loss, _ = adapters.run_compute_grpo_clip_loss(t["advantages"], t["log_probs"], t["old"], 0.1)
    assert_close(loss, loss_by_loop("grpo", t, 0.1), atol=1e-5, hint="-min(w A, clip(w) A)")


@pytest.mark.edition2025
@pytest.mark.parametrize(
    ("loss_type", "method"), [("no_baseline", "none"), ("reinforce_with_baseline", "none"), ("grpo_clip", "grpo")]
)
def test_policy_gradient_loss_by_type(adapters, tensors, loss_type, method):
    t = tensors
    loss, _ = adapters.run_compute_policy_gradient_loss(
        policy_log_probs=t["log_probs"], loss_type=loss_type, raw_rewards=t["advantages"],
        advantages=t["advantages"], old_log_probs=t["old"], cliprange=0.1,
    )  # fmt: skip
    assert_close(loss, loss_by_loop(method, t, 0.1), atol=1e-5, hint=loss_type)


@pytest.mark.edition2025
def test_grpo_microbatch_train_step(adapters, tensors):
    t, grads = tensors, []
    log_probs = t["log_probs"].clone().requires_grad_()
    for _ in range(2):
        loss, _ = adapters.run_grpo_microbatch_train_step(
            policy_log_probs=log_probs, response_mask=t["mask"], gradient_accumulation_steps=2, loss_type="grpo_clip",
            raw_rewards=t["advantages"], advantages=t["advantages"], old_log_probs=t["old"], cliprange=0.1,
        )  # fmt: skip
        grads.append(log_probs.grad.clone())
    tokens, mask = loss_by_loop("grpo", t, 0.1), t["mask"].numpy()
    expected = np.mean([tokens[b][mask[b]].mean() for b in range(4)]) / 2
    assert_close(loss, expected, atol=1e-5, hint="mean over tokens, then over rows, divided by the steps")
    assert_close(grads[1], 2 * grads[0], atol=1e-6, hint="the second backward adds to the first")


def test_aggregate_loss(adapters, tensors):
    losses, mask = tensors["log_probs"], tensors["mask"]
    values, selected = losses.double().numpy(), mask.numpy()
    found = adapters.run_aggregate_loss_across_microbatch(losses, mask, loss_normalization="sequence")
    expected = np.mean([values[b][selected[b]].mean() for b in range(4)])
    assert_close(found, expected, atol=1e-5, hint="mean over rows of the mean over response tokens")
    found = adapters.run_aggregate_loss_across_microbatch(losses, mask, "constant", 42.0)
    assert_close(found, values[selected].sum() / 42, atol=1e-5, hint="sum over all response tokens / constant")


def test_aggregate_loss_with_an_empty_response(adapters):
    losses, mask = torch.tensor([[1.0, 3.0], [5.0, 5.0]]), torch.tensor([[True, True], [False, False]])
    found = adapters.run_aggregate_loss_across_microbatch(losses, mask, loss_normalization="sequence")
    assert_close(found, 1.0, atol=1e-6, hint="a row without response counts as 0, not as NaN")


# The train step: four rollouts of two prompts, a stored model, plain gradient descent.


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("transformers")
    return stored_tokenizer()


def score(response: str, truth: str) -> dict[str, float]:
    return {"reward": REWARDS[response], "format_reward": 1.0, "answer_reward": REWARDS[response]}


def train_step(adapters, tokenizer, model, *, steps=2, max_grad_norm=1.0, width=4, **options):
    if "importance_reweighting_method" in options:
        options["old_log_probs"] = torch.linspace(-5.0, -2.0, 4 * width).reshape(4, width)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss, metadata = adapters.run_grpo_train_step(
        model=model, tokenizer=tokenizer, optimizer=optimizer, gradient_accumulation_steps=steps,
        max_grad_norm=max_grad_norm, reward_fn=score, repeated_prompts=PROMPTS, rollout_responses=ANSWERS,
        repeated_ground_truths=["x"] * 4, group_size=2, **options,
    )  # fmt: skip
    return loss.detach(), metadata


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_grpo_train_step(adapters, tokenizer, variant, steps):
    """Loss and weights do not depend on the number of microbatches (three do not divide four rollouts)."""
    model = TinyCausalLM().train()
    loss, _ = train_step(adapters, tokenizer, model, steps=steps, max_grad_norm=0.05, **VARIANTS[variant])
    loss_of_batch, weights = expected_step(variant)
    assert_close(loss, loss_of_batch, atol=1e-6, hint=f"{variant}: the loss of the whole batch")
    for name, numbers in projections(model).items():
        assert_close(numbers, weights[name], atol=1e-5, hint=f"{variant}: weight {name} after clipping and the step")
    assert all(p.grad is None for p in model.parameters()), "clear gradients with set_to_none at the end"


def test_train_step_skips_rows_without_advantage(adapters, tokenizer):
    """Equal rewards in one group: half the rows never go through the model, and the denominator stays the batch."""
    model = TinyCausalLM()
    saved = dict(REWARDS)
    REWARDS["a test"] = 0.0
    try:
        loss, _ = train_step(adapters, tokenizer, model, steps=1, max_grad_norm=None)
    finally:
        REWARDS.update(saved)
    assert model.rows_seen <= 2, f"{model.rows_seen} rows went through the model; two have advantage zero"
    loss_of_batch, weights = expected_step("one group of equal rewards")
    assert_close(loss, loss_of_batch, atol=1e-6, hint="divide by all rollouts, also those that were not computed")
    for name, numbers in projections(model).items():
        assert_close(numbers, weights[name], atol=1e-5, hint=f"weight {name}: pruned and unpruned updates are the same")


def test_train_step_without_any_advantage(adapters, tokenizer):
    model = TinyCausalLM()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    saved = dict(REWARDS)
    REWARDS.update(dict.fromkeys(REWARDS, 1.0))
    try:
        loss, _ = train_step(adapters, tokenizer, model)
    finally:
        REWARDS.update(saved)
    assert_close(loss, 0.0, atol=0.0, hint="nothing to learn: the loss is a zero tensor")
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


def test_train_step_crops_old_log_probs(adapters, tokenizer):
    """Old log-probs of a wider padded batch are cut on the right."""
    losses = []
    for extra in (0, 3):
        model = TinyCausalLM()
        old = torch.nn.functional.pad(torch.linspace(-3.0, -1.0, 16).reshape(4, 4), (0, extra), value=99.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss, _ = adapters.run_grpo_train_step(
            model, tokenizer, optimizer, 2, 1.0, score, PROMPTS, ANSWERS, ["x"] * 4, 2,
            importance_reweighting_method="grpo", old_log_probs=old, cliprange=0.1,
        )  # fmt: skip
        losses.append(loss.detach())
    assert_close(losses[1], losses[0], atol=1e-7, hint="crop old_log_probs on the right, where the padding is")
