"""One optimizer step of GRPO and its relatives on a batch of rollouts.

    rewards -> advantages over whole groups -> tokens, padded once -> for each microbatch: log-probs, loss, backward
    -> clip the gradient -> step -> gradients set to None

The loss of a microbatch is scaled so that the sum over microbatches is the loss of the whole batch, whatever their
number: "sequence" means are weighed by the microbatch's share of the rows, "constant" sums are not scaled at all. A row
of advantage zero has neither loss nor gradient and never goes through the model, but it counts in the number of rows.

Handout: grpo_train_step. Read next: `grpo.py`, which repeats this with rollouts of its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cs336_alignment.advantages import (
    Baseline,
    Normalizer,
    compute_group_normalized_rewards,
    compute_rollout_rewards,
)
from cs336_alignment.policy_gradient import (
    ImportanceMethod,
    Normalization,
    aggregate_loss_across_microbatch,
    check_normalization,
    compute_policy_gradient_loss,
)
from cs336_alignment.response_log_probs import get_response_log_probs
from cs336_alignment.response_tokens import tokenize_prompt_and_output
from cs336_alignment.task import RewardFunction
from cs336_basics.nn_utils import clip_gradient


def grpo_train_step(
    model: nn.Module,
    tokenizer: Any,
    optimizer: torch.optim.Optimizer,
    gradient_accumulation_steps: int,
    max_grad_norm: float | None,
    reward_fn: RewardFunction,
    repeated_prompts: Sequence[str],
    rollout_responses: Sequence[str],
    repeated_ground_truths: Sequence[str],
    group_size: int,
    baseline: Baseline = "mean",
    advantage_eps: float = 1e-6,
    advantage_normalizer: Normalizer = "std",
    importance_reweighting_method: ImportanceMethod = "none",
    old_log_probs: Float[Tensor, "rollouts seq"] | None = None,
    cliprange: float | None = None,
    loss_normalization: Normalization = "sequence",
    normalization_constant: float | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Any]]:
    """Update the model once on all rollouts.

    Args:
        model, tokenizer: see `get_response_log_probs` and `tokenize_prompt_and_output`.
        gradient_accumulation_steps: microbatches of ceil(rollouts / this) rows; the last may be smaller.
        max_grad_norm: the gradient's norm is clipped to it; None leaves it.
        repeated_prompts, rollout_responses, repeated_ground_truths: one of each per rollout, group by group.
        old_log_probs: (rollouts, at least longest - 1) of these same rollouts; further columns (padding) are cut off.
        others: see `advantages.py` and `policy_gradient.py`.

    Returns:
        (loss of the whole batch without graph, metadata).

    Raises:
        ValueError: what the parts refuse, or unequal numbers of prompts and responses, or old_log_probs too narrow.
    """
    check_normalization(loss_normalization, normalization_constant)
    raw, metadata = compute_rollout_rewards(reward_fn, rollout_responses, repeated_ground_truths)
    advantages, statistics = compute_group_normalized_rewards(
        raw, group_size, baseline, advantage_eps, advantage_normalizer
    )
    device = next(model.parameters()).device
    batch = tokenize_prompt_and_output(repeated_prompts, rollout_responses, tokenizer)
    batch = {name: tensor.to(device) for name, tensor in batch.items()} | {"advantages": advantages.to(device)}
    if old_log_probs is not None:
        batch["old_log_probs"] = crop_log_probs(old_log_probs, batch["input_ids"].shape).to(device)
    total, report = torch.zeros((), device=device), TokenReport()
    kept = batch["advantages"].nonzero().flatten()
    for rows in kept.split(microbatch_size(len(raw), gradient_accumulation_steps)) if len(kept) else ():
        losses, mask = _token_losses(model, take_rows(batch, rows), importance_reweighting_method, cliprange, report)
        loss = aggregate_loss_across_microbatch(losses, mask, loss_normalization, normalization_constant)
        if loss_normalization == "sequence":
            loss = loss * len(rows) / len(raw)
        loss.backward()
        total += loss.detach()
    metadata |= statistics | report.means() | {"pass_at_group": _solved_groups(raw, group_size)}
    if len(kept):
        metadata["grad_norm"] = update(model, optimizer, max_grad_norm)
    optimizer.zero_grad(set_to_none=True)
    return total, metadata


def _token_losses(
    model: nn.Module, part: dict[str, Tensor], method: ImportanceMethod, cliprange: float | None, report: TokenReport
) -> tuple[Tensor, Tensor]:
    """Loss of each token of a microbatch and its mask; what there is to log goes to `report`."""
    mask = part["response_mask"]
    scores = get_response_log_probs(model, part["input_ids"], part["labels"], return_token_entropy=True)
    losses, details = compute_policy_gradient_loss(
        part["advantages"], scores["log_probs"], method, part.get("old_log_probs"), cliprange, mask
    )
    report.add(mask, {"token_entropy": scores["token_entropy"], **details})
    return losses, mask


def microbatch_size(rows: int, gradient_accumulation_steps: int) -> int:
    """Rows of a microbatch, so that there are at most gradient_accumulation_steps of them.

    Raises:
        ValueError: fewer rows than steps, or no step.
    """
    if not 1 <= gradient_accumulation_steps <= rows:
        raise ValueError(
            f"gradient_accumulation_steps must lie between 1 and the {rows} rollouts; got {gradient_accumulation_steps}"
        )
    return -(-rows // gradient_accumulation_steps)


def crop_log_probs(log_probs: Float[Tensor, "rows wide"], shape: Sequence[int]) -> Float[Tensor, "rows seq"]:
    """Log-probs of a larger padded batch, cut on the right to the width of this one.

    Raises:
        ValueError: other rows, or narrower than the batch.
    """
    rows, width = shape
    if log_probs.dim() != 2 or log_probs.shape[0] != rows or log_probs.shape[1] < width:
        raise ValueError(
            f"old_log_probs must be ({rows}, {width} or wider) for these rollouts; got {tuple(log_probs.shape)}; compute "
            "them with get_response_log_probs on the same prompts and responses"
        )
    return log_probs[:, :width]


def take_rows(batch: dict[str, Tensor], rows: Int[Tensor, " rows"]) -> dict[str, Tensor]:
    """Some rows of a padded batch, without the columns in which none of them has a token of its response left."""
    used = batch["response_mask"][rows].any(dim=0).nonzero()
    width = int(used[-1]) + 1 if len(used) else 1
    return {name: tensor[rows, :width] if tensor.dim() > 1 else tensor[rows] for name, tensor in batch.items()}


def update(model: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float | None) -> float:
    """Clip the gradient and step; returns its norm before clipping.

    Raises:
        ValueError: the norm is not finite; the weights are then as before.
    """
    norm = float(clip_gradient(model.parameters(), float("inf") if max_grad_norm is None else max_grad_norm))
    if norm != norm or norm == float("inf"):
        optimizer.zero_grad(set_to_none=True)
        raise ValueError(
            f"the gradient's norm is {norm}; lower the learning rate, clip the ratio or look for empty responses"
        )
    optimizer.step()
    return norm


class TokenReport:
    """Means over response tokens only, gathered microbatch by microbatch."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._tokens: Counter[str] = Counter()

    def add(self, mask: Bool[Tensor, "batch seq"], values: dict[str, Tensor]) -> None:
        """Take (batch, seq) values, numbers or truths."""
        for name, tensor in values.items():
            self._sums[name] += tensor.detach()[mask].float().sum().item()
            self._tokens[name] += int(mask.sum())

    def means(self) -> dict[str, float]:
        """Mean of each; `clipped` is called clip_fraction, `ratio` mean_ratio."""
        names = {"clipped": "clip_fraction", "clipped_high": "clip_fraction_high", "clipped_low": "clip_fraction_low",
                 "ratio": "mean_ratio"}  # fmt: skip
        return {names.get(name, name): self._sums[name] / max(count, 1) for name, count in self._tokens.items()}


def _solved_groups(raw_rewards: Tensor, group_size: int) -> float:
    """Share of prompts with at least one response of reward above 0: pass@k of the group size."""
    return (raw_rewards.view(-1, group_size) > 0).any(dim=1).float().mean().item()
