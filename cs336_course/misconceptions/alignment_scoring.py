"""Wrong batches, log-probs, entropies, masked sums and SFT steps. Read next: `alignment_policy.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cs336_course.misconceptions.bank import Misconception, wrong


def bank() -> list[Misconception]:
    """All entries of this file."""
    return [*_batches(), *_entropies(), *_log_probs(), *_normalized(), *_means(), *_sft()]


def tokenized(prompts: list[str], outputs: list[str], tokenizer: Any, how: str) -> dict[str, Tensor]:
    """The batch, right with `how` = ""."""

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=how == "special-tokens"))

    eos = tokenizer.eos_token_id
    pad = eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    rows = [(encode(p), encode(o)) for p, o in zip(prompts, outputs, strict=True)]
    if how == "joined-first":
        rows = [
            (p, encode(prompt + output)[len(p) :])
            for (p, _), prompt, output in zip(rows, prompts, outputs, strict=True)
        ]
    if how == "eos-added":
        rows = [(p, [*o, eos]) for p, o in rows]
    width = max(len(p) + len(o) for p, o in rows)
    full, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (p, o) in enumerate(rows):
        start = width - len(p) - len(o) if how == "padded-left" else 0
        full[i, start : start + len(p) + len(o)] = torch.tensor([*p, *o])
        mask[i, start + len(p) : start + len(p) + len(o)] = True
    if how == "mask-by-id":
        mask &= full != pad
    elif how == "padding-in-mask":
        mask |= (full == pad) & (torch.cumsum(mask, 1) > 0)
    elif how == "prompt-in-mask":
        mask = torch.arange(width)[None] < torch.tensor([len(p) + len(o) for p, o in rows])[:, None]
    elif how == "mask-inverted":
        mask = ~mask
    batch = {"input_ids": full[:, :-1], "labels": full[:, 1:], "response_mask": mask[:, 1:]}
    if how == "mask-of-inputs":
        batch["response_mask"] = mask[:, :-1]
    elif how == "labels-not-shifted":
        batch["labels"] = full[:, :-1]
    elif how == "nothing-cut":
        batch = {"input_ids": full, "labels": full.roll(-1, 1), "response_mask": mask}
    elif how == "last-token-cut":  # of each row
        last = torch.tensor([len(p) + len(o) - 1 for p, o in rows])[:, None]
        batch["input_ids"] = torch.where(torch.arange(width - 1)[None] == last, pad, full[:, :-1])
    elif how == "ignored-labels":
        batch["labels"] = torch.where(batch["response_mask"], full[:, 1:], -100)
    elif how == "mask-of-integers":
        batch["response_mask"] = batch["response_mask"].long()
    return batch


def _batches() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def run(prompt_strs: list[str], output_strs: list[str], tokenizer: Any) -> dict[str, Tensor]:
            return tokenized(prompt_strs, output_strs, tokenizer, how)

        return wrong("tokenize_prompt_and_output", how, says, example, run_tokenize_prompt_and_output=run)

    return [
        entry("special-tokens", "the tokenizer adds its special tokens", "a tokenizer that begins a text with <bos>"),
        entry("joined-first", "prompt and output are joined before they are tokenised", "a prompt and an output of one word each"),
        entry("eos-added", "the end of text is appended to the output", "one pair of one word each"),
        entry("padded-left", "rows are padded on the left", "two pairs of different length"),
        entry("mask-of-inputs", "the mask belongs to input_ids instead of labels: it is one place late", "a prompt and an output of two words"),
        entry("mask-by-id", "the response is what differs from the padding, so that an <eos> in it is lost where <eos> pads", "an output that ends in <eos>, with <eos> as padding"),
        entry("padding-in-mask", "padding is part of the mask", "two outputs of different length"),
        entry("prompt-in-mask", "the prompt is part of the mask", "any pair"),
        entry("mask-inverted", "the mask is True on the prompt", "any pair"),
        entry("mask-of-integers", "the mask is int64 instead of bool", "any pair"),
        entry("labels-not-shifted", "labels are the inputs themselves", "any pair"),
        entry("ignored-labels", "labels outside of the response are -100", "any pair"),
        entry("nothing-cut", "the last column is not cut", "one pair of one word each: the batch is one wide"),
        entry("last-token-cut", "the last token of each row is cut instead of the last column", "two pairs of different length"),
    ]  # fmt: skip


def entropy(logits: Tensor) -> Tensor:
    """The right one."""
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def _entropies() -> list[Misconception]:
    def entry(name: str, says: str, example: str, compute: Callable[[Tensor], Tensor]) -> Misconception:
        return wrong("compute_entropy", name, says, example, run_compute_entropy=lambda logits: compute(logits))

    def plain(x: Tensor) -> Tensor:
        p = x.exp() / x.exp().sum(-1, keepdim=True)
        return -(p * p.log()).sum(-1)

    def one_maximum(x: Tensor) -> Tensor:
        p = (x - x.max()).exp()
        p = p / p.sum(-1, keepdim=True)
        return -(p * (p + 1e-20).log()).sum(-1)

    def half_stable(x: Tensor) -> Tensor:
        p = torch.softmax(x, -1)
        return -(p * p.log()).sum(-1)

    return [
        entry("bits", "the logarithm is to base 2", "two equal logits: 0.693 nats", lambda x: entropy(x) / math.log(2)),
        entry("no-maximum", "the maximum is not subtracted before exp", "logits (1000, 0)", plain),
        entry("zero-times-infinity", "the logarithm is taken of probabilities that have become 0, and 0 times infinity is NaN", "logits (1000, 0)", half_stable),
        entry("one-maximum", "one maximum is subtracted from all positions", "positions with logits (0, 1) and (1000, 1001)", one_maximum),
        entry("sign", "the sign is turned round", "two equal logits", lambda x: -entropy(x)),
        entry("mean", "the mean over the vocabulary is taken instead of the sum", "two equal logits", lambda x: entropy(x) / x.shape[-1]),
        entry("wrong-axis", "softmax is taken over the positions", "as many positions as tokens", lambda x: entropy(x.transpose(-1, -2))),
        entry("surprise", "minus the logarithm of the largest probability is returned", "logits (1, 0)", lambda x: -torch.log_softmax(x, -1).amax(-1)),
        entry("perplexity", "exp of the entropy is returned", "two equal logits: 0.693, not 2", lambda x: entropy(x).exp()),
        entry("reduced", "one number for all positions is returned", "two positions", lambda x: entropy(x).mean()),
        entry("already-probabilities", "the logits are taken for log-probabilities", "logits (0, 0)", lambda x: -(x.exp() * x).sum(-1)),
    ]  # fmt: skip


def scores(model: Any, input_ids: Tensor, labels: Tensor, want_entropy: bool, how: str) -> dict[str, Tensor]:
    """log_probs and entropy, right with `how` = ""."""
    if how == "eval-mode":
        model.eval()
    elif how == "train-mode":
        model.train()
    logits = model(input_ids).logits
    if how == "no-gradient":
        logits = logits.detach()
    if how == "labels-shifted":
        labels = labels.roll(-1, dims=1)
    elif how == "inputs-scored":
        labels = input_ids
    if how == "logits":
        found = logits.gather(-1, labels[..., None])[..., 0]
    elif how == "wrong-axis":
        found = torch.log_softmax(logits, 1).gather(-1, labels[..., None])[..., 0]
    else:
        found = torch.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0]
    if how == "softmax-then-log":
        found = torch.softmax(logits, -1).gather(-1, labels[..., None])[..., 0].add(1e-6).log()
    found = {"probabilities": found.exp(), "bits": found / math.log(2), "sign": -found, "mean": found - found + found.mean(),
             "padding-zero": found * (labels != 0)}.get(how, found)  # fmt: skip
    result = {"log_probs": found}
    if (want_entropy and how != "entropy-missing") or how == "entropy-always":
        result["token_entropy"] = entropy(logits) / (math.log(2) if how == "entropy-bits" else 1)
    return result


def _log_probs() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def run(model: Any, input_ids: Tensor, labels: Tensor, return_token_entropy: bool = False) -> dict[str, Tensor]:
            return scores(model, input_ids, labels, return_token_entropy, how)

        return wrong("get_response_log_probs", how, says, example, run_get_response_log_probs=run)

    return [
        entry("probabilities", "probabilities are returned instead of their logarithms", "one token"),
        entry("logits", "the logit of the label is returned without subtracting the log-sum-exp", "one token"),
        entry("bits", "the logarithm is to base 2", "one token"),
        entry("sign", "the sign is turned round: this is the loss, not the log-prob", "one token: it is never above 0"),
        entry("wrong-axis", "softmax is taken over the positions", "as many positions as tokens"),
        entry("softmax-then-log", "softmax is taken first, a small number added, and the logarithm taken after", "large logits"),
        entry("labels-shifted", "the labels are shifted once more", "two tokens"),
        entry("inputs-scored", "the inputs are scored instead of the labels", "one token with another label"),
        entry("mean", "the mean over all tokens is returned at each", "two tokens"),
        entry("padding-zero", "labels that are 0 are taken for padding and get the log-prob 0", "the label 0"),
        entry("no-gradient", "the log-probs carry no gradient", "backward through their sum"),
        entry("eval-mode", "the model is put into evaluation mode", "model.training after the call"),
        entry("train-mode", "the model is put into training mode", "model.training after the call"),
        entry("entropy-always", "the entropy is returned though it is not asked for", "return_token_entropy=False"),
        entry("entropy-missing", "the entropy is not returned though it is asked for", "return_token_entropy=True"),
        entry("entropy-bits", "the entropy is in bits", "two equal logits: 0.693 nats"),
    ]  # fmt: skip


def total(x: Tensor, dim: int | None) -> Tensor:
    """Sum over an axis, or all."""
    return x.sum() if dim is None else x.sum(dim=dim)


def _normalized() -> list[Misconception]:
    def entry(
        name: str, says: str, example: str, compute: Callable[[Tensor, Tensor, int | None, float], Tensor]
    ) -> Misconception:
        def run(tensor: Tensor, mask: Tensor, dim: int | None = None, normalize_constant: float = 1.0) -> Tensor:
            return compute(tensor, mask, dim, normalize_constant)

        return wrong("masked_normalize", name, says, example, run_masked_normalize=run)

    def mean(x: Tensor, dim: int | None) -> Tensor:
        return x.mean() if dim is None else x.mean(dim=dim)

    row = "the numbers 1, 2 with the mask 1, 0 and the constant 4: 0.25"
    return [
        entry("mean-of-selected", "the sum is divided by the number selected as well", row, lambda x, m, d, c: total(x * m, d) / total(m, d).clamp(min=1) / c),
        entry("count-for-constant", "the sum is divided by the number selected instead of the constant", row, lambda x, m, d, c: total(x * m, d) / total(m, d).clamp(min=1)),
        entry("mean-of-all", "the mean over the axis is taken instead of the sum", row, lambda x, m, d, c: mean(x * m, d) / c),
        entry("no-constant", "the constant is not used", row, lambda x, m, d, c: total(x * m, d)),
        entry("multiplied", "the sum is multiplied by the constant", row, lambda x, m, d, c: total(x * m, d) * c),
        entry("no-mask", "the mask is not used", row, lambda x, m, d, c: total(x, d) / c),
        entry("mask-inverted", "what the mask leaves out is summed", row, lambda x, m, d, c: total(x * ~m, d) / c),
        entry("axis-ignored", "everything is summed, whatever dim says", "two rows with dim=1", lambda x, m, d, c: (x * m).sum() / c),
        entry("last-axis", "the last axis is summed, whatever dim says", "two rows with dim=0", lambda x, m, d, c: total(x * m, None if d is None else -1) / c),
        entry("none-is-last", "dim=None is taken for the last axis", "two rows with dim=None", lambda x, m, d, c: total(x * m, -1 if d is None else d) / c),
        entry("axis-kept", "the axis stays with length 1", "two rows with dim=1", lambda x, m, d, c: (x * m).sum(dim=d, keepdim=True) / c),
    ]  # fmt: skip


def _means() -> list[Misconception]:
    def entry(
        name: str, says: str, example: str, compute: Callable[[Tensor, Tensor, int | None], Tensor]
    ) -> Misconception:
        def run(tensor: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
            return compute(tensor, mask, dim)

        return wrong("masked_mean", name, says, example, run_masked_mean=run)

    def of_rows(x: Tensor, m: Tensor, d: int | None) -> Tensor:
        return ((x * m).sum(-1) / m.sum(-1)).nanmean() if d is None else total(x * m, d) / total(m, d)

    row, empty = "the numbers 1, 2 with the mask 1, 0: 1", "a row of which nothing is selected: NaN"
    return [
        entry("clamped", "the number selected is kept from 0, by a minimum or an epsilon, so that a mean of nothing is 0", empty, lambda x, m, d: total(x * m, d) / total(m, d).clamp(min=1)),
        entry("mean-of-all", "the sum is divided by all elements, selected or not", row, lambda x, m, d: (x * m).mean() if d is None else (x * m).mean(dim=d)),
        entry("sum", "the sum is not divided", row, lambda x, m, d: total(x * m, d)),
        entry("no-mask", "the mask is not used", row, lambda x, m, d: x.mean() if d is None else x.mean(dim=d)),
        entry("mask-inverted", "what the mask leaves out is averaged", row, lambda x, m, d: total(x * ~m, d) / total(~m, d)),
        entry("sum-over-count", "the sum of all elements is divided by the number selected", row, lambda x, m, d: total(x, d) / total(m, d)),
        entry("mean-of-means", "without dim the means of the rows are averaged", "rows of which 1 and 2 elements are selected", of_rows),
        entry("axis-ignored", "the mean over everything is taken, whatever dim says", "two rows with dim=1", lambda x, m, d: (x * m).sum() / m.sum()),
        entry("none-is-last", "dim=None is taken for the last axis", "two rows with dim=None", lambda x, m, d: total(x * m, -1 if d is None else d) / total(m, -1 if d is None else d)),
        entry("axis-kept", "the axis stays with length 1", "two rows with dim=1", lambda x, m, d: (x * m).sum(dim=d, keepdim=True) / m.sum(dim=d, keepdim=True)),
    ]  # fmt: skip


def stepped(x: Tensor, loss: Tensor, steps: int, how: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The end of a microbatch step: scaling and backward, with the mistakes that both steps can make."""
    if how == "gradients-zeroed":
        x.grad = None
    scaled = loss if how == "no-steps" else loss * steps if how == "multiplied" else loss / steps
    if how != "no-backward":
        (-scaled if how == "gradient-sign" else scaled).backward()
    return (loss if how == "unscaled-returned" else scaled).detach(), {}


STEP_MISTAKES = (
    ("no-steps", "the loss is not divided by the accumulation steps", "2 accumulation steps"),
    ("multiplied", "the loss is multiplied by the accumulation steps", "2 accumulation steps"),
    ("unscaled-returned", "the loss is returned as it was before the division by the accumulation steps", "2 accumulation steps"),
    ("no-backward", "backward is not called", "the gradient after one call"),
    ("gradients-zeroed", "gradients are cleared inside the step, so that they do not add up", "two calls in a row"),
)  # fmt: skip


def _sft() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def run(
            policy_log_probs: Tensor,
            response_mask: Tensor,
            gradient_accumulation_steps: int,
            normalize_constant: float = 1.0,
        ):
            x, m, c = policy_log_probs, response_mask, normalize_constant
            rows = -(x * m).sum(-1) / (1.0 if how == "no-constant" else c)
            loss = {
                "token-mean": lambda: -((x * m).sum(-1) / m.sum(-1).clamp(min=1) / c).mean(),
                "all-token-mean": lambda: -(x * m).sum() / m.sum() / c,
                "rows-added": lambda: rows.sum(),
                "sign": lambda: -rows.mean(),
                "no-mask": lambda: -x.sum(-1).mean() / c,
                "mask-inverted": lambda: -(x * ~m).sum(-1).mean() / c,
                "length-mean": lambda: rows.mean() / x.shape[-1],
            }.get(how, rows.mean)()
            return stepped(x, loss, gradient_accumulation_steps, how)

        return wrong("sft_microbatch_train_step", how, says, example, run_sft_microbatch_train_step=run)

    row = "one row with log-probs -1, -2, both of the response: the loss is 3"
    return [
        *(entry(*mistake) for mistake in STEP_MISTAKES),
        entry("token-mean", "the mean over the tokens of a row is taken instead of the sum", row),
        entry("all-token-mean", "the mean over all response tokens of the batch is taken", row),
        entry("length-mean", "the sum of a row is divided by its padded length", row),
        entry("rows-added", "rows are added up instead of averaged", "two equal rows"),
        entry("sign", "the sign is turned round, so that responses become less likely", row),
        entry("no-constant", "the constant is not used", "a constant of 2"),
        entry("no-mask", "prompt and padding are trained on too", "a row with one token of the response"),
        entry("mask-inverted", "the prompt is trained on instead of the response", "a row with one token of the response"),
    ]  # fmt: skip
