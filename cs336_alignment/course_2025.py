"""The functions of the 2025 handout whose names or signatures later changed, in terms of the present ones.

Handout (2025): compute_group_normalized_rewards, compute_naive_policy_gradient_loss, compute_grpo_clip_loss,
compute_policy_gradient_loss, sft_microbatch_train_step, grpo_microbatch_train_step. The microbatch steps call backward
themselves and never zero a gradient. Read next: `policy_gradient.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from cs336_alignment import advantages as groups
from cs336_alignment.policy_gradient import (
    aggregate_loss_across_microbatch,
    clipped_surrogate_loss,
    importance_ratio,
    reinforce_loss,
)
from cs336_alignment.response_log_probs import masked_mean, masked_normalize
from cs336_alignment.task import RewardFunction

LOSS_TYPES = {
    "no_baseline": ("raw_rewards",),
    "reinforce_with_baseline": ("advantages",),
    "grpo_no_clip": ("advantages", "old_log_probs"),
    "grpo_clip": ("advantages", "old_log_probs", "cliprange"),
}
"""what each loss needs"""


def compute_group_normalized_rewards(
    reward_fn: RewardFunction,
    rollout_responses: Sequence[str],
    repeated_ground_truths: Sequence[str],
    group_size: int,
    advantage_eps: float,
    normalize_by_std: bool,
) -> tuple[Float[Tensor, " rollouts"], Float[Tensor, " rollouts"], dict[str, float]]:
    """(advantages, raw rewards, metadata) of GRPO or, without the standard deviation, Dr. GRPO."""
    raw, metadata = groups.compute_rollout_rewards(reward_fn, rollout_responses, repeated_ground_truths)
    normalized, statistics = groups.compute_group_normalized_rewards(
        raw, group_size, "mean", advantage_eps, "std" if normalize_by_std else "none"
    )
    return normalized, raw, metadata | statistics


def compute_grpo_clip_loss(
    advantages: Float[Tensor, "batch 1"],
    policy_log_probs: Float[Tensor, "batch seq"],
    old_log_probs: Float[Tensor, "batch seq"],
    cliprange: float,
) -> tuple[Float[Tensor, "batch seq"], dict[str, Tensor]]:
    """PPO's clipped loss per token; metadata `clipped` (batch, seq) is True where the clipped term is smaller."""
    ratio = importance_ratio(policy_log_probs, old_log_probs)
    loss, clipped = clipped_surrogate_loss(ratio, advantages, clip_low=cliprange)
    return loss, {"clipped": clipped, "ratio": ratio.detach()}


def compute_policy_gradient_loss(
    policy_log_probs: Float[Tensor, "batch seq"],
    loss_type: str,
    raw_rewards: Float[Tensor, "batch 1"] | None = None,
    advantages: Float[Tensor, "batch 1"] | None = None,
    old_log_probs: Float[Tensor, "batch seq"] | None = None,
    cliprange: float | None = None,
) -> tuple[Float[Tensor, "batch seq"], dict[str, Tensor]]:
    """The loss of that type per token; grpo_no_clip is -A times the ratio.

    Raises:
        ValueError: an unknown type, or one that needs an argument not given.
    """
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type must be one of {', '.join(LOSS_TYPES)}; got {loss_type!r}")
    given: dict[str, Any] = {
        "raw_rewards": raw_rewards, "advantages": advantages, "old_log_probs": old_log_probs, "cliprange": cliprange
    }  # fmt: skip
    missing = [name for name in LOSS_TYPES[loss_type] if given[name] is None]
    if missing:
        raise ValueError(f"loss_type={loss_type!r} needs {', '.join(missing)}; got None")
    needed = [given[name] for name in LOSS_TYPES[loss_type]]
    if loss_type == "grpo_clip":
        return compute_grpo_clip_loss(needed[0], policy_log_probs, needed[1], needed[2])
    if loss_type == "grpo_no_clip":
        return -needed[0] * importance_ratio(policy_log_probs, needed[1]), {}
    return reinforce_loss(needed[0], policy_log_probs), {}


def sft_microbatch_train_step(
    policy_log_probs: Float[Tensor, "batch seq"],
    response_mask: Bool[Tensor, "batch seq"],
    gradient_accumulation_steps: int,
    normalize_constant: float = 1.0,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Backward of -sum over response tokens / normalize_constant, mean over rows, / gradient_accumulation_steps.

    Returns:
        (the scaled loss, metadata: `mean_token_nll`, the mean over response tokens).
    """
    sums = masked_normalize(policy_log_probs, response_mask, dim=-1, normalize_constant=normalize_constant)
    loss = -sums.mean() / gradient_accumulation_steps
    loss.backward()
    return loss.detach(), {"mean_token_nll": -masked_mean(policy_log_probs.detach(), response_mask)}


def grpo_microbatch_train_step(
    policy_log_probs: Float[Tensor, "batch seq"],
    response_mask: Bool[Tensor, "batch seq"],
    gradient_accumulation_steps: int,
    loss_type: str,
    raw_rewards: Float[Tensor, "batch 1"] | None = None,
    advantages: Float[Tensor, "batch 1"] | None = None,
    old_log_probs: Float[Tensor, "batch seq"] | None = None,
    cliprange: float | None = None,
    *,
    normalize_constant: float | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Backward of the loss: mean over tokens, mean over rows, / gradient_accumulation_steps.

    Args:
        normalize_constant: divide each row's sum by it instead of by its number of tokens (Dr. GRPO).

    Returns:
        (the scaled loss, metadata: means over response tokens of what the loss reports).
    """
    losses, details = compute_policy_gradient_loss(
        policy_log_probs, loss_type, raw_rewards, advantages, old_log_probs, cliprange
    )
    if normalize_constant is None:
        mean = aggregate_loss_across_microbatch(losses, response_mask)  # a row without tokens counts as 0, not as NaN
    else:
        mean = masked_normalize(losses, response_mask, dim=-1, normalize_constant=normalize_constant).mean()
    loss = mean / gradient_accumulation_steps
    loss.backward()
    means = {name: masked_mean(value.float(), response_mask) for name, value in details.items()}
    return loss.detach(), means
