"""Losses of the policy gradient, per token, and how they are added up. All are minimised.

With log-probs l_t of the policy, those of the policy that sampled o_t, the ratio w_t = exp(l_t - o_t) and advantage A:

    none     -A l_t                                     REINFORCE, Williams 1992
    noclip   -A w_t                                     importance sampling, no trust region
    grpo     -min(w_t A, clip(w_t, 1 - low, 1 + high) A)    PPO's clip per token: Schulman et al. 2017 (1707.06347)
             with low = high in GRPO (2402.03300) and low < high in DAPO (2503.14476);
             two-sided (`ratio_cap`): for A < 0 also min(w_t, cap), so that no single token can weigh without bound
    gspo     the same with one ratio per sequence, s = exp(mean over response tokens of l_t - o_t)
                                                        Zheng et al. 2025 (2507.18071)
    cispo    -stop_gradient(min(w_t, 1 + high)) A l_t       MiniMax 2025 (2506.13585): a bounded weight, every token
                                                        keeps its gradient

    sequence   mean over responses of the mean over their tokens       GRPO
    constant   sum over all tokens / a constant                        Dr. GRPO (2503.20783)
    token      sum over all tokens / their number in the batch         DAPO; the constant is the number

The clip stops the gradient where it would push further: A >= 0 is active while w < 1 + high, A < 0 while w > 1 - low.

Handout: compute_policy_gradient_loss, aggregate_loss_across_microbatch. Read next: `kl_divergence.py`, `grpo_step.py`.
"""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ImportanceMethod = Literal["none", "noclip", "grpo", "gspo", "cispo"]
IMPORTANCE_METHODS: tuple[str, ...] = ("none", "noclip", "grpo", "gspo", "cispo")
Normalization = Literal["sequence", "constant"]
Value = TypeVar("Value")


def reinforce_loss(
    advantages: Float[Tensor, "batch _"], policy_log_probs: Float[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """-A log pi: its gradient is the policy gradient when the responses come from the policy itself."""
    return -advantages * policy_log_probs


def importance_ratio(
    policy_log_probs: Float[Tensor, "batch seq"], old_log_probs: Float[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """pi / pi_old of each token; the old log-probs are constants.

    Raises:
        ValueError: different shapes, which would be broadcast without a word.
    """
    _check_same_shape("old_log_probs", old_log_probs, policy_log_probs)
    return torch.exp(policy_log_probs - old_log_probs.detach())


def sequence_ratio(
    policy_log_probs: Float[Tensor, "batch seq"],
    old_log_probs: Float[Tensor, "batch seq"],
    mask: Bool[Tensor, "batch seq"] | None = None,
) -> Float[Tensor, "batch 1"]:
    """GSPO's ratio: exp of the mean log-ratio over a row's response tokens (all tokens without a mask; 1 if none)."""
    _check_same_shape("old_log_probs", old_log_probs, policy_log_probs)
    mask = torch.ones_like(policy_log_probs, dtype=torch.bool) if mask is None else mask.bool()
    _check_same_shape("response_mask", mask, policy_log_probs)
    log_ratio = torch.where(mask, policy_log_probs - old_log_probs.detach(), 0.0)
    return torch.exp(log_ratio.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1))


def clipped_surrogate_loss(
    ratio: Float[Tensor, "batch _"],
    advantages: Float[Tensor, "batch _"],
    *,
    clip_low: float,
    clip_high: float | None = None,
    ratio_cap: float | None = None,
) -> tuple[Float[Tensor, "batch _"], Bool[Tensor, "batch _"]]:
    """-min(w A, clip(w) A), and where the clipped term is the smaller one (no gradient there).

    Args:
        ratio: w per token (batch, seq) or per sequence (batch, 1).
        advantages: (batch, 1) or per token.
        clip_low: the ratio is held at 1 - clip_low or more; clip_high: at 1 + clip_high or less, clip_low by default.
        ratio_cap: bound for the ratio where A < 0, above 1 + clip_high (Ye et al. 2019's dual clip).

    Raises:
        ValueError: a clip range below 0 or a cap within it.
    """
    clip_high = clip_low if clip_high is None else clip_high
    if not (clip_low >= 0 and clip_high >= 0):
        raise ValueError(f"a clip range must not be negative; got {clip_low} below and {clip_high} above")
    if ratio_cap is not None and not ratio_cap > 1 + clip_high:
        raise ValueError(f"ratio_cap must lie above 1 + clip_high={1 + clip_high}; got {ratio_cap}")
    plain, clipped = ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    surrogate, was_clipped = torch.minimum(plain, clipped), clipped < plain
    if ratio_cap is not None:
        floor = ratio_cap * advantages  # advantages < 0: the objective may not fall below this
        below = (advantages < 0) & (surrogate < floor)
        surrogate, was_clipped = torch.where(below, floor, surrogate), was_clipped | below
    return -surrogate, was_clipped


def compute_policy_gradient_loss(
    raw_rewards_or_advantages: Float[Tensor, "batch ..."],
    policy_log_probs: Float[Tensor, "batch seq"],
    importance_reweighting_method: ImportanceMethod = "none",
    old_log_probs: Float[Tensor, "batch seq"] | None = None,
    cliprange: float | None = None,
    response_mask: Bool[Tensor, "batch seq"] | None = None,
    *,
    cliprange_high: float | None = None,
    ratio_cap: float | None = None,
) -> tuple[Float[Tensor, "batch seq"], dict[str, Tensor]]:
    """Loss of every token; see the module docstring for the methods.

    Args:
        raw_rewards_or_advantages: (batch,) or (batch, 1), or one per token (batch, seq) with two or more tokens.
        policy_log_probs: of the labels, in nats, with gradient.
        old_log_probs: the same under the policy that sampled; for all methods but "none".
        cliprange: half-width of the clip, for "grpo", "gspo" and "cispo" (above only).
        response_mask: True on response tokens; "gspo" takes its mean over them. Nothing is masked here.
        cliprange_high: width above 1 where it differs from the one below (DAPO's clip-higher).
        ratio_cap: for "grpo" and "gspo", see `clipped_surrogate_loss`.

    Returns:
        (loss (batch, seq), metadata: `ratio`, `clipped`, `clipped_high`, `clipped_low`, without gradient).

    Raises:
        ValueError: an unknown method, a missing argument, or shapes that do not belong together.
    """
    method = importance_reweighting_method
    if method not in IMPORTANCE_METHODS:
        raise ValueError(
            f"importance_reweighting_method must be one of {', '.join(IMPORTANCE_METHODS)}; got {method!r}"
        )
    advantages = _as_columns(raw_rewards_or_advantages, policy_log_probs)
    if method == "none":
        return reinforce_loss(advantages, policy_log_probs), {}
    old = _required("old_log_probs", old_log_probs, method)
    if method == "noclip":
        ratio = importance_ratio(policy_log_probs, old)
        return -advantages * ratio, {"ratio": ratio.detach()}
    low = _required("cliprange", cliprange, method)
    high = low if cliprange_high is None else cliprange_high
    if method == "cispo":
        ratio = importance_ratio(policy_log_probs, old)
        weight = ratio.detach().clamp(max=1 + high)
        return -weight * advantages * policy_log_probs, _clip_report(ratio, ratio > 1 + high)
    if method == "gspo":
        ratio = sequence_ratio(policy_log_probs, old, response_mask)
    else:
        ratio = importance_ratio(policy_log_probs, old)
    loss, clipped = clipped_surrogate_loss(ratio, advantages, clip_low=low, clip_high=high, ratio_cap=ratio_cap)
    report = _clip_report(ratio, clipped)
    return loss.expand_as(policy_log_probs), {k: v.expand_as(policy_log_probs) for k, v in report.items()}


def truncated_importance_weights(
    old_log_probs: Float[Tensor, "batch seq"], sampler_log_probs: Float[Tensor, "batch seq"], *, cap: float
) -> Float[Tensor, "batch seq"]:
    """min(pi_trainer / pi_sampler, cap): corrects for a sampler that computes other numbers than the trainer.

    Multiply the loss per token by it. Source: Yao et al. 2025, "Your efficient RL framework secretly brings you
    off-policy RL training".
    """
    if not cap > 0:
        raise ValueError(f"the cap must be positive; got {cap}")
    return importance_ratio(old_log_probs, sampler_log_probs).detach().clamp(max=cap)


def aggregate_loss_across_microbatch(
    per_token_policy_gradient_loss: Float[Tensor, "batch seq"],
    mask: Bool[Tensor, "batch seq"],
    loss_normalization: Normalization = "sequence",
    normalization_constant: float | None = None,
) -> Float[Tensor, ""]:
    """One number of the losses of response tokens.

    Args:
        mask: True on response tokens; a row without any counts as 0.
        loss_normalization: "sequence" (mean over rows of the mean over tokens) or "constant".
        normalization_constant: what "constant" divides the sum by; the number of rows does not enter. "sequence" does
            not read it.

    Raises:
        ValueError: shapes differ, an unknown normalization, or a constant that is missing or not positive.
    """
    _check_same_shape("mask", mask, per_token_policy_gradient_loss)
    constant = check_normalization(loss_normalization, normalization_constant)
    losses = torch.where(mask.bool(), per_token_policy_gradient_loss, 0.0)
    if constant is not None:
        return losses.sum() / constant
    return (losses.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()


def check_normalization(loss_normalization: str, normalization_constant: float | None) -> float | None:
    """The constant to divide by, None for "sequence", which needs none; a ValueError if they do not fit."""
    if loss_normalization not in ("sequence", "constant"):
        raise ValueError(f"loss_normalization must be 'sequence' or 'constant'; got {loss_normalization!r}")
    if loss_normalization == "sequence":
        return None
    constant = _required("normalization_constant", normalization_constant, "constant")
    if not (constant > 0 and math.isfinite(constant)):
        raise ValueError(f"normalization_constant must be positive and finite; got {constant}")
    return constant


def _as_columns(advantages: Tensor, policy_log_probs: Tensor) -> Tensor:
    """Advantages as (batch, 1), or as they are when there is one per token."""
    batch = policy_log_probs.shape[0]
    if advantages.shape in ((batch,), (batch, 1)):
        return advantages.reshape(batch, 1)
    _check_same_shape("advantages, unless there is one per row,", advantages, policy_log_probs)
    return advantages


def _clip_report(ratio: Tensor, clipped: Tensor) -> dict[str, Tensor]:
    ratio = ratio.detach()
    return {
        "ratio": ratio, "clipped": clipped, "clipped_high": clipped & (ratio > 1), "clipped_low": clipped & (ratio < 1)
    }  # fmt: skip


def _required(name: str, value: Value | None, method: str) -> Value:
    if value is None:
        raise ValueError(f"the method {method!r} needs {name}; got None")
    return value


def _check_same_shape(name: str, tensor: Tensor, like: Tensor) -> None:
    if tensor.shape != like.shape:
        raise ValueError(
            f"{name} must have the log-probs' shape {tuple(like.shape)}; got {tuple(tensor.shape)}; crop what is wider "
            "on the right, where the padding is"
        )
