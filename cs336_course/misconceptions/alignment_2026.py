"""Wrong advantages, ratios, aggregations and train steps of the 2026 edition. Read next: `alignment_supplement.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cs336_course.misconceptions.alignment_policy import clip_loss
from cs336_course.misconceptions.alignment_scoring import scores, tokenized
from cs336_course.misconceptions.bank import Misconception, wrong

Mistakes = tuple[tuple[str, str, str], ...]


def bank() -> list[Misconception]:
    """All entries of this file."""
    return [*_rewards(), *_groups(), *_importance(), *_aggregation(), *_steps()]


def _rewards() -> list[Misconception]:
    def entry(
        name: str,
        says: str,
        example: str,
        change: Callable[[Tensor], Any] | None = None,
        key: str = "reward",
        truth: int | None = None,
    ) -> Misconception:
        def run(reward_fn: Any, rollout_responses: list[str], repeated_ground_truths: list[str]) -> Any:
            answers = (
                repeated_ground_truths if truth is None else [repeated_ground_truths[truth]] * len(rollout_responses)
            )
            found = torch.tensor([reward_fn(r, a)[key] for r, a in zip(rollout_responses, answers, strict=True)])
            return (found, {}) if change is None else change(found)

        return wrong("compute_rollout_rewards", name, says, example, run_compute_rollout_rewards=run)

    two = "two responses with rewards 0.2 and 1"
    return [
        entry("format-reward", "the format reward is returned", two, key="format_reward"),
        entry("one-truth", "all responses are scored with the first truth", "two prompts with different answers", truth=0),
        entry("no-metadata", "rewards are returned without metadata", two, lambda r: r),
        entry("mean", "the mean reward is returned for all responses", two, lambda r: (r.mean().expand_as(r).clone(), {})),
        entry("centred", "the mean is subtracted already", two, lambda r: (r - r.mean(), {})),
        entry("rounded", "rewards are made 0 or 1", two, lambda r: (r.round(), {})),
        entry("integers", "rewards are cut to integers", two, lambda r: (r.long(), {})),
        entry("summed", "the sum so far is returned", two, lambda r: (r.cumsum(0), {})),
    ]  # fmt: skip


def normalized(r: Tensor, group: int, baseline: str, normalizer: str, eps: float, how: str) -> Tensor:
    """Advantages, right with `how` = ""."""
    rows = r.view(group, -1).T if how == "strided" else r.view(-1, group)
    mean = (
        rows.mean()
        if how == "batch-mean"
        else rows.median(1, keepdim=True).values
        if how == "median"
        else rows.mean(1, keepdim=True)
    )
    if how == "leave-one-out":
        mean = (rows.sum(1, keepdim=True) - rows) / (group - 1)
    subtract = {"never-subtracted": False, "always-subtracted": True}.get(how, baseline == "mean")
    std = rows.std() if how == "batch-std" else rows.std(1, keepdim=True, unbiased=how != "biased")
    divisor = {
        "std": std,
        "mean": rows.mean() if how == "batch-divisor" else rows.mean(1, keepdim=True),
        "none": torch.ones(()),
    }[normalizer]
    if how == "variance":
        divisor = std**2
    elif how == "std-anyway":
        divisor, normalizer = std, "std"
    elif how == "sum":
        divisor = rows.sum(1, keepdim=True)
    if how == "not-divided":
        divisor, normalizer = torch.ones(()), "none"
    if how == "eps-in-root":
        divisor = (divisor**2 + eps).sqrt()
    elif how == "eps-maximum":
        divisor = divisor.clamp(min=eps)
    elif how == "eps-anyway" or (normalizer != "none" and how != "no-eps"):
        divisor = divisor + eps
    found = (rows - mean if subtract else rows) / divisor
    return found if how == "grouped-shape" else found.T.flatten() if how == "strided" else found.flatten()


SHARED: Mistakes = (
    ("never-subtracted", "the mean of the group is not subtracted", "rewards 0, 1 in a group of two"),
    ("always-subtracted", "the mean is subtracted though baseline is none", 'baseline="none"'),
    ("batch-mean", "the mean is that of the whole batch", "groups 0, 0, 1 and 1, 1, 0"),
    ("strided", "a group is every n-th response instead of n responses in a row", "two groups of two"),
    ("median", "the median is subtracted instead of the mean", "rewards 0, 0, 1"),
    ("leave-one-out", "the mean of the others is subtracted (RLOO)", "rewards 0, 1 in a group of two"),
    ("grouped-shape", "advantages keep the shape (groups, group_size)", "two groups of two"),
)
DIVIDED: Mistakes = (
    ("not-divided", "nothing is divided", "rewards 0, 1 in a group of two"),
    ("eps-in-root", "eps is added to the square of the divisor, under a root", "eps = 0.3"),
    ("eps-maximum", "eps is a lower bound of the divisor instead of added to it", "eps = 0.3"),
    ("no-eps", "eps is not added, so that a divisor of 0 gives NaN", "rewards 0, 0"),
)


def _groups() -> list[Misconception]:
    def entry(kind: str, how: str, says: str, example: str) -> Misconception:
        def run(
            raw_rewards: Tensor,
            group_size: int,
            baseline: str = "mean",
            advantage_eps: float = 1e-6,
            advantage_normalizer: str = "std",
        ) -> Any:
            found = normalized(raw_rewards, group_size, baseline, advantage_normalizer, advantage_eps, how)
            return (found, raw_rewards, {}) if how == "three-values" else (found, {})

        return wrong(
            f"compute_group_normalized_rewards_{kind}", how, says, example, run_compute_group_normalized_rewards=run
        )

    three = ("three-values", "three values are returned, as in 2025", "any rewards")
    biased = ("biased", "the standard deviation divides by n instead of n - 1", "rewards 0, 1 in a group of two")
    batch = ("batch-std", "the standard deviation is that of the whole batch", "groups 0, 0, 1 and 1, 1, 0.9")
    variance = ("variance", "the variance is divided by instead of its root", "rewards 0, 1 in a group of two")
    anyway = (
        "std-anyway",
        "the standard deviation is divided by, whatever is asked for",
        "rewards 0, 1 in a group of two",
    )
    kinds: dict[str, Mistakes] = {
        "grpo": (*SHARED, *DIVIDED, three, biased, batch, variance),
        "drgrpo": (*SHARED, three, anyway, ("eps-anyway", "1 + eps is divided by", "eps = 0.3")),
        "maxrl": (*SHARED, *DIVIDED, three, anyway, ("batch-divisor", "the mean of the whole batch is divided by", "groups 0, 0, 1 and 1, 1, 0"),
                  ("sum", "the sum of the group is divided by", "rewards 0, 1 in a group of two")),
    }  # fmt: skip
    return [entry(kind, *mistake) for kind, mistakes in kinds.items() for mistake in mistakes]


def ratio_loss(
    a: Tensor, x: Tensor, kind: str, old: Tensor | None, clip: float | None, mask: Tensor | None, how: str = ""
) -> Tensor:
    """Loss per token, right with `how` = ""."""
    a = a.reshape(1, -1) if how == "columns" and a.dim() == 1 else a.reshape(-1, 1)
    if how == "first-advantage":
        a = a[:1]
    if kind == "none":
        return {"sign": a * x, "probability": -a * x.exp(), "detached": -a * x.detach(), "row-mean": (-a * x).mean(-1, keepdim=True).expand_as(x),
                "divided": -a * x / x.shape[-1], "masked": -a * x * (1 if mask is None else mask)}.get(how, -a * x)  # fmt: skip
    assert old is not None and clip is not None
    if kind == "noclip":
        if how == "noclip-clipped":
            return clip_loss(a, x, old, clip)
        return (
            -a * x
            if how == "noclip-ignored"
            else clip_loss(a, x, old, 1e9, "no-clip" if how not in ("inverted", "no-exp", "ratio-detached") else how)
        )
    if kind == "grpo":
        return clip_loss(a, x, old, clip, how)
    selected = torch.ones_like(x) if mask is None or how == "mask-ignored" else mask.float()
    count = torch.full_like(x[:, :1], x.shape[1]) if how == "padded-length" else selected.sum(-1, keepdim=True)
    log_ratio = ((x - old) * selected).sum(-1, keepdim=True) / (1 if how == "log-ratios-added" else count)
    if how == "mean-of-ratios":
        ratio = ((x - old).exp() * selected).sum(-1, keepdim=True) / count
    else:
        ratio = ((x - old) if how == "ratio-per-token" else -log_ratio if how == "inverted" else log_ratio).exp()
    if how == "ratio-detached":
        ratio = ratio.detach()
    surrogate = ratio * a if how == "no-clip" else torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a)
    if how == "masked-loss":
        return -surrogate * selected
    return (surrogate if how == "sign" else -surrogate).expand_as(x) if how != "one-column" else -surrogate


def _importance() -> list[Misconception]:
    def entry(kind: str, how: str, says: str, example: str) -> Misconception:
        def run(raw_rewards_or_advantages: Tensor, policy_log_probs: Tensor, importance_reweighting_method: str = "none", old_log_probs: Any = None,
                cliprange: Any = None, response_mask: Any = None) -> Any:  # fmt: skip
            given = (importance_reweighting_method, old_log_probs, cliprange, response_mask)
            found = ratio_loss(raw_rewards_or_advantages, policy_log_probs, *given, how)
            return found if how == "no-metadata" else (found, {})

        return wrong(f"compute_policy_gradient_loss_{kind}", how, says, example, run_compute_policy_gradient_loss=run)

    kinds = _importance_mistakes()
    return [entry(kind, *mistake) for kind, mistakes in kinds.items() for mistake in mistakes]


def _importance_mistakes() -> dict[str, Mistakes]:
    """How, what it says and an example, by kind of importance weight."""
    one, up = "one token with log-prob -1 and advantage 2: the loss is 2", "ratio 1.5, advantage 1, clip 0.2: -1.2"
    row, apart = "a row with two tokens of the response", "two rows of two tokens with advantages of shape (2,)"
    flat = ("columns", "advantages of shape (batch,) are applied to columns", apart)
    plain = ("no-metadata", "the loss is returned without metadata", one)
    return {
        "on_policy": (
            flat, plain,
            ("sign", "the sign is turned round", one),
            ("probability", "the probability is taken instead of its logarithm", one),
            ("detached", "the log-probs are detached", "backward"),
            ("row-mean", "each token gets the mean of its row", "two tokens"),
            ("divided", "each token is divided by the length of its row", "two tokens"),
            ("first-advantage", "the first advantage is used for all rows", "two rows with different advantages"),
            ("masked", "the loss is masked already; aggregation does that", "a token outside of the response"),
        ),
        "off_policy": (
            flat, plain,
            ("sign", "the sign is turned round", up),
            ("maximum", "the larger of the two terms is taken", up),
            ("no-clip", "grpo does not clip", up),
            ("noclip-clipped", "noclip clips", up),
            ("noclip-ignored", "noclip does not use the ratio", up),
            ("always-clipped", "the clipped term is taken always", "ratio 1.5, advantage -1: 1.5"),
            ("log-clip", "the difference of log-probs is clipped instead of the ratio", "a ratio far from 1"),
            ("no-exp", "the difference of log-probs is taken for the ratio", "equal log-probs: the ratio is 1"),
            ("inverted", "the ratio is old over new", up),
            ("ratio-detached", "the ratio is detached, so that there is no gradient", "backward"),
        ),
        "off_policy_gspo": (
            flat, plain,
            ("ratio-per-token", "every token has a ratio of its own, as in GRPO", row),
            ("mask-ignored", "the mean is taken over all tokens, prompt and padding too", "a token outside of the response"),
            ("padded-length", "the sum of log-ratios is divided by the padded length", "a token outside of the response"),
            ("log-ratios-added", "log-ratios are added up instead of averaged", row),
            ("mean-of-ratios", "ratios are averaged instead of their logarithms", row),
            ("no-clip", "the ratio is not clipped", up),
            ("inverted", "the ratio is old over new", up),
            ("ratio-detached", "the ratio is detached, so that there is no gradient", "backward"),
            ("masked-loss", "the loss is masked already; aggregation does that", "a token outside of the response"),
            ("one-column", "the loss has one column instead of one per token", row),
            ("sign", "the sign is turned round", up),
        ),
    }  # fmt: skip


def aggregated(x: Tensor, mask: Tensor, normalization: str, constant: float | None, how: str = "") -> Tensor:
    """One number, right with `how` = ""."""
    if how == "detached":
        x = x.detach()
    m = {"no-mask": torch.ones_like(mask), "mask-inverted": ~mask}.get(how, mask)
    total, count = (x * m).sum(-1), m.sum(-1)
    if how == "kinds-swapped":
        normalization, constant = ("sequence", None) if normalization == "constant" else ("constant", 1.0)
    if normalization == "constant":
        divisor = 1.0 if constant is None else constant
        return {"divided-by-rows": total.mean() / divisor, "mean-of-tokens": (x * m).sum() / m.sum(), "no-constant": total.sum(),
                "multiplied": total.sum() * divisor, "row-means": (total / count.clamp(min=1)).sum() / divisor,
                "sign": -total.sum() / divisor}.get(how, total.sum() / divisor)  # fmt: skip
    rows = total / count if how == "nan-rows" else total / count.clamp(min=1)
    return {"token-mean": (x * m).sum() / m.sum(), "padded-length": (x * m).mean(), "rows-added": rows.sum(), "token-sum": total.mean(),
            "empty-left-out": rows.sum() / (count > 0).sum(), "sign": -rows.mean()}.get(how, rows.mean())  # fmt: skip


def _aggregation() -> list[Misconception]:
    def entry(kind: str, how: str, says: str, example: str) -> Misconception:
        def run(
            per_token_policy_gradient_loss: Tensor,
            mask: Tensor,
            loss_normalization: str = "sequence",
            normalization_constant: Any = None,
        ) -> Tensor:
            return aggregated(per_token_policy_gradient_loss, mask, loss_normalization, normalization_constant, how)

        return wrong(
            f"aggregate_loss_across_microbatch_{kind}", how, says, example, run_aggregate_loss_across_microbatch=run
        )

    rows = "rows of 1 and 3 response tokens"
    both: Mistakes = (
        ("no-mask", "prompt and padding count too", rows), ("mask-inverted", "the prompt is averaged instead of the response", rows),
        ("sign", "the sign is turned round", rows), ("detached", "the result carries no gradient", "backward"),
    )  # fmt: skip
    kinds: dict[str, Mistakes] = {
        "sequence": (
            *both,
            ("token-mean", "the mean over all tokens is taken, which gives long responses more weight", rows),
            ("token-sum", "tokens are added up instead of averaged", rows),
            ("padded-length", "sums are divided by the padded length", rows),
            ("rows-added", "rows are added up instead of averaged", "two equal rows"),
            ("nan-rows", "a row without tokens makes the loss NaN", "a row without response"),
            ("empty-left-out", "a row without tokens does not count as a row", "a row without response"),
        ),
        "constant": (
            *both,
            ("divided-by-rows", "the sum is divided by the number of rows too", "two rows"),
            ("mean-of-tokens", "the sum is divided by the number of tokens", rows),
            ("no-constant", "the constant is not used", "a constant of 2"),
            ("multiplied", "the sum is multiplied by the constant", "a constant of 2"),
            ("row-means", "means of rows are added up", rows),
            ("kinds-swapped", "the mean over rows is returned", rows),
        ),
    }  # fmt: skip
    return [entry(kind, *mistake) for kind, mistakes in kinds.items() for mistake in mistakes]


def train_step(model: Any, tokenizer: Any, optimizer: Any, steps: int, norm: float | None, rewards: Tensor, prompts: list[str], responses: list[str],
               s: dict[str, Any], how: str) -> Tensor:  # fmt: skip
    """One step in microbatches, right with `how` = ""."""
    group, normalizer = s["group_size"], s.get("advantage_normalizer", "std")
    a = normalized(rewards, group, s.get("baseline", "mean"), normalizer, s.get("advantage_eps", 1e-6), how)
    batch = tokenized(prompts, responses, tokenizer, how)
    kind, clip = s.get("importance_reweighting_method", "none"), s.get("cliprange")
    kind = {"on-policy": "none", "never-clipped": "noclip" if kind == "grpo" else kind}.get(how, kind)
    normalization, constant = s.get("loss_normalization", "sequence"), s.get("normalization_constant")
    normalization = {"always-sequence": "sequence", "always-constant": "constant"}.get(how, normalization)
    total, count = torch.zeros(()), len(prompts)
    parts = [part for part in torch.tensor_split(torch.arange(count), steps) if len(part)]
    for part in parts[-1:] if how == "last-part" else parts:
        x = scores(model, batch["input_ids"][part], batch["labels"][part], False, "")["log_probs"]
        old = None if s.get("old_log_probs") is None else s["old_log_probs"][part]
        mask = batch["response_mask"][part]
        losses = ratio_loss(a[part], x, kind, old, clip, mask, how if kind != "none" else "")
        share = 1.0 if normalization == "constant" else len(part) / count
        share = {
            "equal-parts": 1 / len(parts),
            "not-divided-by-parts": 1.0,
            "constant-over-parts": share / (len(parts) if normalization == "constant" else 1),
        }.get(how, share)
        loss = aggregated(losses, mask, normalization, constant if constant is not None else 32.0, how) * share
        (-loss if how == "ascent" else loss).backward()
        total = loss.detach() if how == "last-loss" else total + loss.detach()
        if how == "clip-parts" and norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), norm)
        if how == "step-per-part":
            optimizer.step()
            optimizer.zero_grad()
    if norm is not None and how not in ("clip-parts", "not-clipped"):
        torch.nn.utils.clip_grad_norm_(model.parameters(), norm)
    if how not in ("no-step", "step-per-part"):
        optimizer.step()
    if how != "gradients-kept":
        optimizer.zero_grad(set_to_none=how != "gradients-zero")
    return total


def _steps() -> list[Misconception]:
    def entry(kind: str, how: str, says: str, example: str) -> Misconception:
        def run(model: Any, tokenizer: Any, optimizer: Any, gradient_accumulation_steps: int, max_grad_norm: float | None,
                reward_fn: Callable[[str, str], dict[str, float]], repeated_prompts: list[str], rollout_responses: list[str],
                repeated_ground_truths: list[str], **settings: Any) -> Any:  # fmt: skip
            rewards = torch.tensor(
                [reward_fn(r, t)["reward"] for r, t in zip(rollout_responses, repeated_ground_truths, strict=True)]
            )
            return train_step(model, tokenizer, optimizer, gradient_accumulation_steps, max_grad_norm, rewards, repeated_prompts,
                              rollout_responses, settings, how), {}  # fmt: skip

        return wrong(f"grpo_train_step_{kind}", how, says, example, run_grpo_train_step=run)

    parts, rows = "three rollouts in two microbatches", "responses of one and three words"
    usual: Mistakes = (
        ("not-clipped", "the norm of the gradient is not clipped", "max_grad_norm = 0.05"),
        ("gradients-kept", "gradients are left after the step", "parameter.grad after the call"),
        ("gradients-zero", "gradients are set to 0 instead of None", "parameter.grad after the call"),
        ("no-step", "the optimizer does not step", "the weights after the call"),
        ("ascent", "the step goes up instead of down", "the loss after a small step"),
    )
    kinds: dict[str, Mistakes] = {
        "standard_on_policy": (
            *usual,
            ("clip-parts", "the norm is clipped after every microbatch", "two microbatches"),
            ("step-per-part", "the optimizer steps after every microbatch", "two microbatches"),
            ("equal-parts", "microbatches are averaged though the last is smaller", parts),
            ("not-divided-by-parts", "means of microbatches are added up", "two microbatches"),
            ("last-part", "only the last microbatch is used", "two microbatches"),
            ("last-loss", "the loss of the last microbatch is returned", "two microbatches"),
            ("biased", "the standard deviation divides by n instead of n - 1", "rewards 0, 1 in a group of two"),
            ("strided", "a group is every n-th response instead of n responses in a row", "two groups of two"),
            ("token-mean", "the mean over all tokens is taken instead of over rows", rows),
            ("prompt-in-mask", "the prompt is trained on too", "a prompt of two words"),
            ("mask-of-inputs", "the mask is one place late", "a response of two words"),
            ("special-tokens", "the tokenizer adds its special tokens", "a tokenizer that begins a text with <bos>"),
        ),
        "variants_on_policy": (
            *usual,
            ("always-sequence", "the loss is always the mean over sequences", 'loss_normalization="constant"'),
            ("constant-over-parts", "the constant is used and microbatches divided by their number too", "two microbatches with a constant"),
            ("divided-by-rows", "the sum is divided by the number of rows too", "a constant of 32"),
            ("std-anyway", "the standard deviation is divided by, whatever is asked for", 'advantage_normalizer="none"'),
            ("always-subtracted", "the mean is subtracted though baseline is none", 'baseline="none"'),
            ("never-subtracted", "the mean is not subtracted", "rewards 1, 1: nothing changes"),
            ("row-means", "with a constant, means of rows are added up", rows),
        ),
        "off_policy": (
            *usual,
            ("on-policy", "the old log-probs are not used", "old log-probs that differ"),
            ("never-clipped", "grpo does not clip", "a ratio of 2"),
            ("inverted", "the ratio is old over new", "old log-probs that differ"),
            ("ratio-per-token", "gspo has a ratio for every token", "a response of two words"),
            ("mask-ignored", "gspo's mean is over prompt and padding too", "a prompt of two words"),
            ("log-ratios-added", "gspo's log-ratios are added up", "a response of two words"),
            ("noclip-clipped", "noclip clips", "a ratio of 2"),
            ("ratio-detached", "the ratio is detached, so that there is no gradient", "the weights after the call"),
        ),
    }  # fmt: skip
    return [entry(kind, *mistake) for kind, mistakes in kinds.items() for mistake in mistakes]
