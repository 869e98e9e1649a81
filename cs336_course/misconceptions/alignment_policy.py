"""Wrong advantages, policy-gradient losses and GRPO steps (edition 2025). Read next: `alignment_supplement.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cs336_course.misconceptions.alignment_scoring import STEP_MISTAKES, stepped
from cs336_course.misconceptions.bank import Misconception, wrong


def bank() -> list[Misconception]:
    """All entries of this file."""
    return [*_groups(), *_naive(), *_clip(), *_dispatch(), *_steps()]


def advantages_of(r: Tensor, group: int, eps: float, by_std: bool, how: str) -> Tensor:
    """Of rewards in groups, right with `how` = ""."""
    rows = r.view(group, -1).T if how == "strided" else r.view(-1, group)
    mean = rows.mean(1, keepdim=True)
    std = rows.std(1, keepdim=True, unbiased=how != "biased")
    if how == "whole-batch":
        mean, std = rows.mean(), rows.std()
    elif how == "batch-std":
        std = rows.std()
    elif how == "batch-mean":
        mean = rows.mean()
    elif how == "variance":
        std = std**2
    elif how == "median":
        mean = rows.median(1, keepdim=True).values
    elif how == "leave-one-out":
        mean = (rows.sum(1, keepdim=True) - rows) / (group - 1)
    shift = torch.zeros(()) if how == "no-mean" else mean
    if how == "eps-in-root":
        divisor = (std**2 + eps).sqrt()
    elif how == "eps-maximum":
        divisor = std.clamp(min=eps)
    else:
        divisor = std + (0.0 if how == "no-eps" else eps)
    divided = {"always-std": True, "never-std": False}.get(how, by_std)
    found = (rows - shift) / divisor if divided else rows - shift
    if how == "grouped-shape":
        return found
    return found.T.flatten() if how == "strided" else found.flatten()


def _groups() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def run(reward_fn: Callable[[str, str], dict[str, float]], rollout_responses: list[str], repeated_ground_truths: list[str],
                group_size: int, advantage_eps: float, normalize_by_std: bool):  # fmt: skip
            truths = (
                [repeated_ground_truths[0]] * len(rollout_responses) if how == "one-truth" else repeated_ground_truths
            )
            key = "format_reward" if how == "format-reward" else "reward"
            r = torch.tensor([reward_fn(a, b)[key] for a, b in zip(rollout_responses, truths, strict=True)])
            found = advantages_of(r, group_size, advantage_eps, normalize_by_std, how)
            return (
                (found, found, {})
                if how == "advantages-as-raw"
                else (r, found, {})
                if how == "swapped"
                else (found, r, {})
            )

        return wrong("compute_group_normalized_rewards", how, says, example, run_compute_group_normalized_rewards=run)

    group = "rewards 0, 1 in a group of two"
    return [
        entry("biased", "the standard deviation divides by n instead of n - 1", group),
        entry("no-mean", "the mean of the group is not subtracted", group),
        entry("whole-batch", "mean and standard deviation are those of the whole batch", "groups 0, 0, 1 and 1, 1, 0"),
        entry("batch-std", "the standard deviation is that of the whole batch", "groups 0, 0, 1 and 1, 1, 0.9"),
        entry("batch-mean", "the mean is that of the whole batch", "groups 0, 0, 1 and 1, 1, 0"),
        entry("strided", "a group is every n-th response instead of n responses in a row", "two groups of two"),
        entry("variance", "the variance is divided by instead of its root", group),
        entry("median", "the median is subtracted instead of the mean", "rewards 0, 0, 1"),
        entry("leave-one-out", "the mean of the others is subtracted (RLOO)", group),
        entry("eps-in-root", "eps is added inside the root", "eps = 0.3"),
        entry("eps-maximum", "eps is a lower bound of the deviation instead of added to it", "eps = 0.3"),
        entry("no-eps", "eps is not added, so that equal rewards give NaN", "rewards 1, 1"),
        entry("always-std", "the division is made though it is not asked for", "normalize_by_std=False"),
        entry("never-std", "the division is not made though it is asked for", "normalize_by_std=True"),
        entry("format-reward", "the format reward is taken instead of the reward", "a response with format but a wrong answer"),
        entry("one-truth", "all responses are scored with the first truth", "two prompts with different answers"),
        entry("grouped-shape", "advantages keep the shape (groups, group_size)", group),
        entry("swapped", "raw rewards are returned before advantages", group),
        entry("advantages-as-raw", "the advantages are returned as raw rewards too", group),
    ]  # fmt: skip


def _naive() -> list[Misconception]:
    def entry(name: str, says: str, example: str, compute: Callable[[Tensor, Tensor], Tensor]) -> Misconception:
        def run(raw_rewards_or_advantages: Tensor, policy_log_probs: Tensor) -> Tensor:
            return compute(raw_rewards_or_advantages, policy_log_probs)

        slug = "compute_naive_policy_gradient_loss"
        return wrong(slug, name, says, example, run_compute_naive_policy_gradient_loss=run)

    token = "one token with log-prob -1 and advantage 2: the loss is 2"
    return [
        entry("sign", "the sign is turned round, so that good responses become less likely", token, lambda a, x: a * x),
        entry("probability", "the probability is taken instead of its logarithm", token, lambda a, x: -a * x.exp()),
        entry("detached", "the log-probs are detached", "backward", lambda a, x: -a * x.detach()),
        entry("mean-over-tokens", "the mean over the tokens is returned", "two tokens", lambda a, x: (-a * x).mean(-1, keepdim=True)),
        entry("sum-over-tokens", "the sum over the tokens is returned", "two tokens", lambda a, x: (-a * x).sum(-1, keepdim=True)),
        entry("reduced", "one number is returned for the batch", "two tokens", lambda a, x: (-a * x).mean()),
        entry("divided-by-length", "each token is divided by the length of its row", "two tokens", lambda a, x: -a * x / x.shape[-1]),
        entry("columns", "advantages are applied to columns instead of rows", "two rows of two tokens", lambda a, x: -a.T * x),
        entry("one-advantage", "the first advantage is used for all rows", "two rows with different advantages", lambda a, x: -a[0] * x),
        entry("sign-only", "only the sign of the advantage is used", token, lambda a, x: -a.sign() * x),
    ]  # fmt: skip


def clip_loss(a: Tensor, x: Tensor, old: Tensor, clip: float, how: str = "") -> Tensor:
    """The clipped surrogate loss, right with `how` = ""."""
    if how == "columns":
        a = a.T
    difference = old - x if how == "inverted" else x - old
    ratio = difference if how == "no-exp" else difference.exp()
    if how == "ratio-detached":
        ratio = ratio.detach()
    if how == "no-clip":
        return -ratio * a
    low, high = {"upper-only": (0.0, 1 + clip), "lower-only": (1 - clip, 1e9), "from-zero": (-clip, clip)}.get(
        how, (1 - clip, 1 + clip)
    )
    clipped = ratio.clamp(low, high)
    if how == "log-clip":
        clipped = difference.clamp(-clip, clip).exp()
    if how == "always-clipped":
        return -clipped * a
    if how == "maximum":
        return -torch.maximum(ratio * a, clipped * a)
    if how == "minimum-of-ratios":
        return -torch.minimum(ratio, clipped) * a
    found = torch.minimum(ratio * a, clipped * a)
    return {"sign": found, "reduced": -found.mean(), "row-mean": -found.mean(-1, keepdim=True).expand_as(found),
            "times-log-prob": -found.detach() * x}.get(how, -found)  # fmt: skip


def _clip() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def run(
            advantages: Tensor, policy_log_probs: Tensor, old_log_probs: Tensor, cliprange: float
        ) -> tuple[Tensor, dict[str, Any]]:
            return clip_loss(advantages, policy_log_probs, old_log_probs, cliprange, how), {}

        return wrong("compute_grpo_clip_loss", how, says, example, run_compute_grpo_clip_loss=run)

    up, down = "ratio 1.5, advantage 1, clip 0.2: -1.2", "ratio 0.5, advantage -1, clip 0.2: 0.8"
    return [
        entry("sign", "the sign is turned round", up),
        entry("maximum", "the larger of the two terms is taken", up),
        entry("minimum-of-ratios", "the smaller ratio is taken before it is multiplied by the advantage, which is wrong for negative ones", down),
        entry("no-clip", "nothing is clipped", up),
        entry("always-clipped", "the clipped term is taken always, so that bad steps are never undone", "ratio 1.5, advantage -1: 1.5"),
        entry("upper-only", "ratios are clipped above only", down),
        entry("lower-only", "ratios are clipped below only", up),
        entry("from-zero", "the ratio is clipped to (-e, e) instead of (1 - e, 1 + e)", "ratio 1"),
        entry("log-clip", "the difference of log-probs is clipped instead of the ratio", "a ratio far from 1"),
        entry("no-exp", "the difference of log-probs is taken for the ratio", "equal log-probs: the ratio is 1"),
        entry("inverted", "the ratio is old over new", up),
        entry("ratio-detached", "the ratio is detached, so that there is no gradient", "backward"),
        entry("times-log-prob", "the clipped ratio is a constant weight of the log-prob", up),
        entry("columns", "advantages are applied to columns instead of rows", "two rows of two tokens"),
        entry("reduced", "one number is returned for the batch", "two tokens"),
        entry("row-mean", "each token gets the mean of its row", "two tokens"),
    ]  # fmt: skip


def typed_loss(
    x: Tensor, kind: str, raw: Tensor | None, a: Tensor | None, old: Tensor | None, clip: float | None, how: str = ""
) -> Tensor:
    """The loss of a type, right with `how` = ""."""
    if how == "all-needed" and any(value is None for value in (raw, a, old, clip)):
        raise ValueError("an argument is missing")
    kind = {
        "never-clipped": kind.replace("grpo_clip", "reinforce_with_baseline"),
        "always-baseline": kind.replace("no_baseline", "reinforce_with_baseline"),
    }.get(how, kind)
    chosen = raw if kind == "no_baseline" else a
    if (
        how == "always-raw"
        or (how == "baseline-raw" and kind == "reinforce_with_baseline")
        or (how == "clip-raw" and kind == "grpo_clip")
    ):
        chosen = raw
    assert chosen is not None
    if how == "rewards-centred" and kind == "no_baseline":
        chosen = chosen - chosen.mean()
    if kind == "grpo_clip":
        assert old is not None and clip is not None
        found = clip_loss(
            chosen, x, old, clip, {"clip-ignored": "no-clip", "old-detached-wrong": "inverted"}.get(how, "")
        )
    else:
        found = -chosen * x
    return -found if how == "sign" else found.mean(-1) if how == "mean-over-tokens" else found


def _dispatch() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def run(policy_log_probs: Tensor, loss_type: str, raw_rewards: Any = None, advantages: Any = None, old_log_probs: Any = None,
                cliprange: Any = None):  # fmt: skip
            found = typed_loss(policy_log_probs, loss_type, raw_rewards, advantages, old_log_probs, cliprange, how)
            return found if how == "no-metadata" else (found, {})

        return wrong("compute_policy_gradient_loss", how, says, example, run_compute_policy_gradient_loss=run)

    return [
        entry("always-baseline", "no_baseline uses the advantages", "no_baseline with rewards 1 and advantages 0"),
        entry("always-raw", "raw rewards are used by all types", "reinforce_with_baseline with rewards 1 and advantages 0"),
        entry("baseline-raw", "reinforce_with_baseline uses raw rewards", "reinforce_with_baseline with rewards 1 and advantages 0"),
        entry("clip-raw", "grpo_clip uses raw rewards", "grpo_clip with rewards 1 and advantages 0"),
        entry("rewards-centred", "no_baseline subtracts the mean reward", "no_baseline with equal rewards"),
        entry("never-clipped", "grpo_clip gives the loss of reinforce_with_baseline", "grpo_clip with a ratio of 1"),
        entry("clip-ignored", "grpo_clip does not clip", "grpo_clip with a ratio of 1.5 and a positive advantage"),
        entry("old-detached-wrong", "grpo_clip takes the ratio old over new", "grpo_clip with a ratio of 0.9"),
        entry("all-needed", "all arguments are demanded, whatever the type", "no_baseline without old_log_probs"),
        entry("no-metadata", "the loss is returned without metadata", "any type"),
        entry("mean-over-tokens", "the mean over the tokens is returned", "two tokens"),
        entry("sign", "the sign is turned round", "no_baseline with reward 1"),
    ]  # fmt: skip


def _steps() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def run(policy_log_probs: Tensor, response_mask: Tensor, gradient_accumulation_steps: int, loss_type: str, raw_rewards: Any = None,
                advantages: Any = None, old_log_probs: Any = None, cliprange: Any = None):  # fmt: skip
            x, m = policy_log_probs, response_mask
            kind = "reinforce_with_baseline" if how == "type-ignored" else loss_type
            tokens = typed_loss(x, kind, raw_rewards, advantages, old_log_probs, cliprange)
            rows = (tokens * m).sum(-1) / m.sum(-1)
            loss = {
                "token-sum": lambda: (tokens * m).sum(-1).mean(),
                "all-token-mean": lambda: (tokens * m).sum() / m.sum(),
                "padded-length": lambda: (tokens * m).mean(),
                "rows-added": lambda: rows.sum(),
                "no-mask": lambda: tokens.mean(),
                "mask-inverted": lambda: ((tokens * ~m).sum(-1) / (~m).sum(-1).clamp(min=1)).mean(),
                "sign": lambda: -rows.mean(),
            }.get(how, rows.mean)()
            return stepped(x, loss, gradient_accumulation_steps, how)

        return wrong("grpo_microbatch_train_step", how, says, example, run_grpo_microbatch_train_step=run)

    rows = "rows of 1 and 3 response tokens"
    return [
        *(entry(*mistake) for mistake in STEP_MISTAKES),
        entry("token-sum", "tokens are added up instead of averaged", rows),
        entry("all-token-mean", "the mean over all tokens of the batch is taken, which gives long responses more weight", rows),
        entry("padded-length", "sums are divided by the padded length", rows),
        entry("rows-added", "rows are added up instead of averaged", "two equal rows"),
        entry("no-mask", "prompt and padding are trained on too", rows),
        entry("mask-inverted", "the prompt is trained on instead of the response", rows),
        entry("sign", "the sign is turned round", rows),
        entry("type-ignored", "the loss type is not looked at", "no_baseline with rewards 1 and advantages 0"),
    ]  # fmt: skip
