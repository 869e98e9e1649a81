"""Assignment 5, what 2026 changed: advantages, importance ratios, aggregation, and the whole train step.

The train step is checked against the formulas row by row on the whole batch, in float64 with torch's autograd.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from cs336_course.grading.suite import Answer, Case
from cs336_course.grading.worker import alignment_drivers as drivers

from . import alignment_model as tiny
from .alignment_policy import draw_batch
from .comparing import call, difference, part

Rng = np.random.Generator
Make = Callable[[Rng], list[Case]]


def compute_rollout_rewards(rng: Rng) -> list[Case]:
    def case(id: str, property: str, count: int, same_text: bool = False) -> Case:
        rewards = [round(float(r), 3) for r in rng.random(count)]
        table = [
            ["same" if same_text else f"text {i}", f"truth {i}", r, float(rng.integers(2))]
            for i, r in enumerate(rewards)
        ]
        judge = lambda answer: difference(answer.get("value"), np.array(rewards), atol=1e-6, rtol=1e-5)  # noqa: E731
        return Case(id, property, "rollout_rewards", {"table": table}, judge)

    return [
        case("plain", "the entry `reward` of each response, in order", 7),
        case("one", "one response", 1),
        case("same-text", "each response with its own truth", 5, same_text=True),
    ]


def advantages(rewards: list[float], group: int, baseline: str, normalizer: str, eps: float) -> np.ndarray:
    """By the formulas, group by group."""
    found = []
    for start in range(0, len(rewards), group):
        members = rewards[start : start + group]
        mean = statistics.fmean(members)
        divisor = {"none": 1.0, "mean": mean + eps, "std": (statistics.stdev(members) if group > 1 else 0.0) + eps}[
            normalizer
        ]
        found += [(r - (mean if baseline == "mean" else 0.0)) / divisor for r in members]
    return np.array(found)


def group_normalized(rng: Rng, normalizer: str) -> list[Case]:
    def case(id: str, property: str, rewards: list[float], group: int, eps: float, baseline: str = "mean") -> Case:
        settings = {"group_size": group, "baseline": baseline, "advantage_eps": eps, "advantage_normalizer": normalizer}
        raw = np.array(rewards, np.float32)
        inputs = {"raw_rewards": raw, "settings": settings}
        expected = advantages([float(r) for r in raw], group, baseline, normalizer, eps)
        return Case(
            id,
            property,
            "advantages",
            inputs,
            lambda answer: difference(answer.get("value"), expected, atol=1e-4, rtol=1e-4),
        )

    def draw(count: int) -> list[float]:
        return [round(float(r), 3) for r in 0.1 + 0.9 * rng.random(count)]

    g = int(rng.integers(3, 6))
    return [
        case("plain", "rewards minus the mean of their group, over what is asked for", draw(4 * g), g, 1e-6),
        case("square", "as many groups as members: groups are consecutive", draw(16), 4, 1e-6),
        case("large-eps", "eps is added to the divisor, if there is one", draw(12), 4, 0.3),
        case("equal", "equal rewards have no advantage", [0.0] * 3 + [1.0] * 3 + draw(3), 3, 1e-3),
        case("no-baseline", "without a baseline nothing is subtracted", draw(8), 4, 0.1, "none"),
    ]


def token_losses(
    kind: str, b: dict[str, np.ndarray], clip: float, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(loss, ratio, whether the ratio lets a gradient through) of every token."""
    x, old, a = (b[name].astype(np.float64) for name in ("policy_log_probs", "old_log_probs", "advantages"))
    w = np.exp(x - old)
    if kind == "gspo":
        selected = np.ones(x.shape) if mask is None else mask
        mean = ((x - old) * selected).sum(axis=1, keepdims=True) / np.maximum(selected.sum(axis=1, keepdims=True), 1)
        w = np.exp(mean) * np.ones(x.shape)
    if kind == "none":
        return -a * x, w, np.ones(x.shape, bool)
    if kind == "noclip":
        return -a * w, w, np.ones(x.shape, bool)
    clipped = np.clip(w, 1 - clip, 1 + clip)
    return -np.minimum(w * a, clipped * a), w, w * a <= clipped * a


def importance(rng: Rng, kinds: tuple[str, ...]) -> list[Case]:
    def case(
        kind: str,
        batch: int,
        seq: int,
        *,
        flat: bool = False,
        masked: bool = True,
        clip: float = 0.2,
        spread: float = 0.5,
    ) -> Case:
        b = draw_batch(rng, batch, seq, spread)
        mask = rng.random((batch, seq)) > 0.4
        mask[:, 0] = True
        weight = rng.standard_normal((batch, seq)).astype(np.float32)
        arguments = {"raw_rewards_or_advantages": b["advantages"][:, 0] if flat else b["advantages"], "importance_reweighting_method": kind,
                     "old_log_probs": b["old_log_probs"], "cliprange": clip, "response_mask": mask if masked else None}  # fmt: skip

        def judge(answer: Answer) -> str | None:
            loss, w, active = token_losses(kind, b, clip, mask if masked else None)
            a = b["advantages"].astype(np.float64)
            slope = -a * weight if kind == "none" else -a * w * active * weight
            if kind == "gspo":
                selected = mask if masked else np.ones(mask.shape, bool)
                slope = slope.sum(axis=1, keepdims=True) * selected / selected.sum(axis=1, keepdims=True)
            wrong = difference(answer.get("value"), loss, atol=1e-5, rtol=1e-4, what="the loss")
            if wrong is None and answer.get("gradient") is None:
                return "the loss carries no gradient to the policy"
            return wrong or difference(answer["gradient"], slope, atol=1e-5, rtol=1e-3, what="the gradient")

        inputs = {"function": "run_compute_policy_gradient_loss", "policy_log_probs": b["policy_log_probs"], "arguments": arguments,
                  "weight": weight, "with_metadata": True}  # fmt: skip
        id = f"{kind}-{batch}-{seq}" + ("-flat" if flat else "") + ("" if masked else "-unmasked")
        return Case(id, f"the loss of every token, method {kind}", "surrogate", inputs, judge)

    cases = []
    for kind in kinds:
        cases += [case(kind, 4, 7), case(kind, 5, 5), case(kind, 6, 6, flat=True), case(kind, 3, 4, masked=False),
                  case(kind, 4, 6, clip=0.05, spread=1.5)]  # fmt: skip
    return cases


def aggregate(rng: Rng, normalization: str) -> list[Case]:
    def case(id: str, property: str, batch: int, seq: int, constant: float, empty: bool = False) -> list[Case]:
        x, mask = (rng.standard_normal((batch, seq)) + 1).astype(np.float32), rng.random((batch, seq)) > 0.5
        mask[:, 0], mask[0, 1:], mask[-1, 1:3] = True, False, True
        if empty:
            mask[1] = False
        arguments = {"per_token_policy_gradient_loss": x, "mask": mask, "loss_normalization": normalization,
                     "normalization_constant": constant if normalization == "constant" else None}  # fmt: skip
        share = (
            mask / constant
            if normalization == "constant"
            else mask / np.maximum(mask.sum(axis=1, keepdims=True), 1) / batch
        )
        function, wrt = "run_aggregate_loss_across_microbatch", "per_token_policy_gradient_loss"
        gradient = {"function": function, "arguments": arguments, "wrt": wrt, "weight": np.array(1.0, np.float32)}
        judge = lambda answer: difference(answer.get("value"), share, atol=1e-6, rtol=1e-4, what="the gradient")  # noqa: E731
        return [call(id, property, function, arguments, lambda: (x.astype(np.float64) * share).sum()),
                Case(f"{id}-gradient", f"the gradient: {property}", "gradient", gradient, judge)]  # fmt: skip

    text = (
        "sum over all response tokens / constant"
        if normalization == "constant"
        else "mean over the tokens of a row, then over rows"
    )
    return [
        *case("plain", text, 3, 6, 17.0),
        *case("one-row", text, 1, 5, 4.0),
        *case("empty-row", f"{text}; a row without tokens counts as 0", 4, 6, 32.0, empty=True),
    ]


def train_step(rng: Rng, variants: dict[str, dict[str, Any]]) -> list[Case]:
    """One case per variant, each with another number of prompts, group size and number of microbatches."""
    words = tiny.vocabulary(rng)
    ordinary = [word for word in words if word.isalpha()]

    def text(count: int) -> str:
        return " ".join(str(word) for word in rng.choice(ordinary, size=count))

    def case(
        id: str, options: dict[str, Any], groups: int, group: int, steps: int, norm: float | None, *, zero: bool = False
    ) -> Case:
        prompts = [prompt for _ in range(groups) for prompt in [text(int(rng.integers(1, 4)))] * group]
        table = [
            [f"{text(int(rng.integers(1, 6)))} {ordinary[i]}", f"truth {i}", round(float(rng.random()), 2), 1.0]
            for i in range(len(prompts))
        ]
        for row in table[:group] if zero else []:
            row[2] = 0.5  # a group that teaches nothing
        width = max(len(f"{p} {row[0]}".split()) for p, row in zip(prompts, table, strict=True)) - 1
        settings = {"group_size": group, "gradient_accumulation_steps": steps, "max_grad_norm": norm, **options}
        if "importance_reweighting_method" in options:
            settings["old_log_probs"] = (-3 + rng.standard_normal((len(prompts), width))).astype(np.float32)
        inputs = {"weights": tiny.weights(rng, len(words)), "tokenizer": tiny.tokenizer(words), "prompts": prompts, "table": table,
                  "lr": 0.1, "settings": settings}  # fmt: skip
        return Case(
            id,
            "loss and weights after one step, whatever the microbatches",
            "grpo_step",
            inputs,
            partial(_judge_step, cache(partial(_step, words, inputs))),
        )

    cases = []
    for number, (name, options) in enumerate(variants.items()):
        cases.append(case(name, options, 2, 3 + number % 2, 1 + (number + 1) % 3, 0.05))
    first = next(iter(variants.values()))
    return [*cases, case("uneven", first, 3, 2, 4, None), case("equal-group", first, 3, 2, 2, 0.1, zero=True)]


def _judge_step(right: Callable[[], tuple[float, dict[str, np.ndarray]]], answer: Answer) -> str | None:
    loss, weights = right()
    if wrong := difference(answer.get("loss"), np.array(loss), atol=1e-5, rtol=1e-4, what="the loss returned"):
        return wrong
    found = part(answer, "weights", dict)
    for name, expected in weights.items():
        if wrong := difference(found.get(name), expected, atol=2e-6, rtol=1e-5, what="weights after the step"):
            return wrong
    if answer.get("gradients") != "none":
        return "gradients are still there: clear them with set_to_none"
    return None


def _step(words: list[str], inputs: dict[str, Any]) -> tuple[float, dict[str, np.ndarray]]:
    """By the formulas: all rows one after the other, nothing pruned, no microbatches."""
    import torch

    model = drivers.TinyModel({name: value.astype(np.float64) for name, value in inputs["weights"].items()})
    s, rewards = inputs["settings"], [row[2] for row in inputs["table"]]
    scores = advantages(rewards, s["group_size"], s.get("baseline", "mean"), s.get("advantage_normalizer", "std"), 1e-6)
    kind, constant, total = s.get("importance_reweighting_method", "none"), s.get("normalization_constant"), 0.0
    for i, (prompt, row) in enumerate(zip(inputs["prompts"], inputs["table"], strict=True)):
        start, ids = len(prompt.split()), torch.tensor([words.index(word) for word in f"{prompt} {row[0]}".split()])
        log_probs = torch.log_softmax(model(ids[None, :-1]).logits[0], -1).gather(-1, ids[1:, None])[start - 1 :, 0]
        if kind == "none":
            tokens = -scores[i] * log_probs
        else:
            log_ratio = log_probs - torch.tensor(s["old_log_probs"][i, start - 1 : len(ids) - 1].astype(np.float64))
            w = torch.exp(log_ratio.mean() + 0 * log_ratio if kind == "gspo" else log_ratio)
            clipped = w if kind == "noclip" else w.clamp(1 - s["cliprange"], 1 + s["cliprange"])
            tokens = -torch.minimum(w * scores[i], clipped * scores[i])
        total = total + (tokens.mean() / len(rewards) if constant is None else tokens.sum() / constant)
    total.backward()
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None))
    scale = 1.0 if s["max_grad_norm"] is None else min(1.0, s["max_grad_norm"] / (norm + 1e-6))
    after = {
        n: (p - inputs["lr"] * scale * p.grad).detach().numpy()
        for n, p in model.named_parameters()
        if p.grad is not None
    }
    return float(total.detach()), after


CONSTANT = {"loss_normalization": "constant", "normalization_constant": 32.0}
PROBLEMS: dict[str, tuple[float, Make]] = {
    "compute_rollout_rewards": (1, compute_rollout_rewards),
    "compute_group_normalized_rewards_grpo": (1, partial(group_normalized, normalizer="std")),
    "compute_group_normalized_rewards_drgrpo": (0.5, partial(group_normalized, normalizer="none")),
    "compute_group_normalized_rewards_maxrl": (0.5, partial(group_normalized, normalizer="mean")),
    "compute_policy_gradient_loss_on_policy": (1, partial(importance, kinds=("none",))),
    "compute_policy_gradient_loss_off_policy": (1, partial(importance, kinds=("noclip", "grpo"))),
    "compute_policy_gradient_loss_off_policy_gspo": (1, partial(importance, kinds=("gspo",))),
    "aggregate_loss_across_microbatch_sequence": (0.5, partial(aggregate, normalization="sequence")),
    "aggregate_loss_across_microbatch_constant": (0.5, partial(aggregate, normalization="constant")),
    "grpo_train_step_standard_on_policy": (5, partial(train_step, variants={"standard": {}})),
    "grpo_train_step_variants_on_policy": (2.5, partial(train_step, variants={
        "constant": CONSTANT, "dr-grpo": {"advantage_normalizer": "none", **CONSTANT},
        "rft": {"baseline": "none", "advantage_normalizer": "none"}, "maxrl": {"advantage_normalizer": "mean", **CONSTANT}})),
    "grpo_train_step_off_policy": (2.5, partial(train_step, variants={
        "noclip": {"importance_reweighting_method": "noclip", "cliprange": 0.2},
        "grpo": {"importance_reweighting_method": "grpo", "cliprange": 0.2},
        "gspo": {"importance_reweighting_method": "gspo", "cliprange": 0.2}})),
}  # fmt: skip
