"""From rewards to advantages: how much better a response was than what the model does on this prompt.

G responses to one prompt are a group with mean mu and standard deviation sigma (unbiased, G - 1):

    GRPO      (r - mu) / (sigma + eps)          Shao et al. 2024 (2402.03300), section 4.1
    Dr. GRPO  r - mu                            Liu et al. 2025 (2503.20783): no weight on nearly solved prompts
    MaxRL     (r - mu) / (mu + eps)             gradient of log success rate instead of success rate
    RFT       r                                 rejection fine-tuning: REINFORCE without baseline on rewards 0 and 1
    RLOO      r - mean of the other G - 1       Ahmadian et al. 2024 (2402.14740); = (r - mu) G / (G - 1)
    REINFORCE with a batch baseline:  r - mean of all rewards

Handout: compute_rollout_rewards, compute_group_normalized_rewards. Read next: `policy_gradient.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cs336_alignment.task import RewardFunction

Baseline = Literal["mean", "none", "leave_one_out", "batch"]
Normalizer = Literal["std", "none", "mean", "batch_std"]
BASELINES: tuple[str, ...] = ("mean", "none", "leave_one_out", "batch")
NORMALIZERS: tuple[str, ...] = ("std", "none", "mean", "batch_std")


def compute_rollout_rewards(
    reward_fn: RewardFunction, rollout_responses: Sequence[str], repeated_ground_truths: Sequence[str]
) -> tuple[Float[Tensor, " rollouts"], dict[str, float]]:
    """Reward of each response and the means of its parts.

    Raises:
        ValueError: unequal numbers of responses and answers, no responses, or a reward that is not finite.
    """
    if len(rollout_responses) != len(repeated_ground_truths) or not rollout_responses:
        raise ValueError(
            f"each response needs its answer, and there must be one; got {len(rollout_responses)} responses and "
            f"{len(repeated_ground_truths)} answers"
        )
    scores = [reward_fn(r, truth) for r, truth in zip(rollout_responses, repeated_ground_truths, strict=True)]
    for response, score in zip(rollout_responses, scores, strict=True):
        if not math.isfinite(score["reward"]):
            raise ValueError(f"the reward of {response!r:.80} is {score['reward']}; a reward function must be finite")
    raw = torch.tensor([score["reward"] for score in scores], dtype=torch.float32)
    keys = [key for key in ("reward", "format_reward", "answer_reward") if key in scores[0]]
    return raw, {f"mean_{key}": sum(score[key] for score in scores) / len(scores) for key in keys}


def compute_group_normalized_rewards(
    raw_rewards: Float[Tensor, " rollouts"],
    group_size: int,
    baseline: Baseline = "mean",
    advantage_eps: float = 1e-6,
    advantage_normalizer: Normalizer = "std",
) -> tuple[Float[Tensor, " rollouts"], dict[str, float]]:
    """Advantages of rewards that come group by group; see the module docstring.

    Args:
        raw_rewards: group_size rewards of each prompt after one another.
        baseline: what to subtract: "mean" of the group, "none", "leave_one_out" or the mean of the "batch".
        advantage_eps: added to the divisor.
        advantage_normalizer: what to divide by: the group's "std", its "mean", the "batch_std", or "none".

    Returns:
        (advantages, metadata: mean, std, min and max of the rewards and the share of groups without any spread).

    Raises:
        ValueError: the rewards are no whole groups or not finite, a group of one has no deviation or no others to
            compare with, or an option is unknown.
    """
    groups = _grouped(raw_rewards, group_size)
    if baseline not in BASELINES or advantage_normalizer not in NORMALIZERS:
        raise ValueError(
            f"baseline must be one of {', '.join(BASELINES)} and advantage_normalizer one of {', '.join(NORMALIZERS)}; "
            f"got {baseline!r} and {advantage_normalizer!r}"
        )
    if group_size == 1 and (advantage_normalizer == "std" or baseline == "leave_one_out"):
        raise ValueError(
            f"a group of one has neither a standard deviation nor others to compare with; got group_size=1 with "
            f"baseline={baseline!r} and advantage_normalizer={advantage_normalizer!r}; sample at least 2 responses per "
            "prompt, or use baseline='batch' or 'none' with advantage_normalizer='none'"
        )
    advantages = groups - _baseline(groups, baseline)
    if baseline in ("mean", "leave_one_out"):  # equal rewards say nothing; what is left of them is rounding
        advantages = advantages.masked_fill(groups.amax(dim=1, keepdim=True) == groups.amin(dim=1, keepdim=True), 0.0)
    if advantage_normalizer != "none":
        advantages = advantages / (_divisor(groups, advantage_normalizer) + advantage_eps)
    return advantages.flatten(), _reward_statistics(groups)


def _grouped(raw_rewards: Tensor, group_size: int) -> Tensor:
    """The rewards as (prompts, group_size), float32 or better."""
    if raw_rewards.dim() != 1 or group_size < 1 or not len(raw_rewards) or len(raw_rewards) % group_size:
        raise ValueError(
            f"rewards must be a vector of whole groups of group_size={group_size}; got shape {tuple(raw_rewards.shape)}"
        )
    if not torch.isfinite(raw_rewards).all():
        raise ValueError(f"rewards must be finite; got {raw_rewards.tolist()}")
    return (raw_rewards if raw_rewards.is_floating_point() else raw_rewards.float()).view(-1, group_size)


def _baseline(groups: Tensor, baseline: Baseline) -> Tensor:
    if baseline == "mean":
        return groups.mean(dim=1, keepdim=True)
    if baseline == "leave_one_out":
        return (groups.sum(dim=1, keepdim=True) - groups) / (groups.shape[1] - 1)
    return groups.mean() if baseline == "batch" else torch.zeros(())


def _divisor(groups: Tensor, normalizer: Normalizer) -> Tensor:
    if normalizer == "std":
        return groups.std(dim=1, keepdim=True)
    return groups.mean(dim=1, keepdim=True) if normalizer == "mean" else groups.std()


def _reward_statistics(groups: Tensor) -> dict[str, float]:
    spread = groups.amax(dim=1) - groups.amin(dim=1)
    return {
        "reward_mean": groups.mean().item(),
        "reward_std": groups.std().item() if groups.numel() > 1 else 0.0,
        "reward_min": groups.min().item(),
        "reward_max": groups.max().item(),
        "zero_variance_groups": (spread == 0).float().mean().item(),
    }
