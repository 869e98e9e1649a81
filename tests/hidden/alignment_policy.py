"""Assignment 5, policy gradient of 2025: rewards, advantages and losses token by token in float64, with gradients."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np

from cs336_course.grading.suite import Answer, Case

from .alignment_scoring import microbatch
from .comparing import difference

Rng = np.random.Generator


def compute_group_normalized_rewards(rng: Rng) -> list[Case]:
    def case(
        id: str, property: str, rewards: list[float], group: int, eps: float, by_std: bool, same_text: bool = False
    ) -> Case:
        answers = [f"truth {i // group}" for i in range(len(rewards))]
        texts = [f"response {i % group if same_text else i}" for i in range(len(rewards))]
        table = [
            [text, truth, reward, float(rng.integers(2))]
            for text, truth, reward in zip(texts, answers, rewards, strict=True)
        ]
        settings = {"group_size": group, "advantage_eps": eps, "normalize_by_std": by_std}

        def judge(answer: Answer) -> str | None:
            wrong = difference(answer.get("raw"), np.array(rewards), atol=1e-6, rtol=1e-5, what="raw rewards")
            return wrong or difference(
                answer.get("advantages"),
                _advantages(rewards, group, eps, by_std),
                atol=1e-4,
                rtol=1e-4,
                what="advantages",
            )

        return Case(id, property, "group_rewards", {"table": table, "settings": settings}, judge)

    def draw(count: int) -> list[float]:
        return [round(float(r), 3) for r in rng.random(count)]

    g = int(rng.integers(3, 6))
    binary = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, *(float(r) for r in rng.integers(0, 2, size=6))]
    return [
        case("plain", "rewards minus the mean of their group, divided by its standard deviation (n - 1)", draw(3 * g), g, 1e-6, True),
        case("without-std", "without the division where it is not asked for", draw(4 * g), g, 1e-6, False),
        case("large-eps", "eps is added to the standard deviation", draw(12), 4, 0.3, True),
        case("pairs", "groups of two", draw(8), 2, 1e-3, True),
        case("square", "as many groups as members: groups are consecutive", draw(16), 4, 1e-6, True),
        case("equal", "equal rewards have no advantage", [0.5] * 3 + draw(3), 3, 1e-4, True),
        case("binary", "rewards of 0 and 1", binary, 6, 1e-6, True),
        case("same-texts", "each response is scored with its own truth", draw(8), 4, 1e-6, False, same_text=True),
    ]  # fmt: skip


def _advantages(rewards: list[float], group: int, eps: float, by_std: bool) -> np.ndarray:
    found = []
    for start in range(0, len(rewards), group):
        part = rewards[start : start + group]
        mean = statistics.fmean(part)
        found += [(r - mean) / (statistics.stdev(part) + eps if by_std else 1.0) for r in part]
    return np.array(found)


def draw_batch(rng: Rng, batch: int, seq: int, spread: float = 0.5) -> dict[str, np.ndarray]:
    """Log-probs, those of the old policy, advantages and rewards."""
    x = (rng.standard_normal((batch, seq)) - 2).astype(np.float32)
    signs = np.where(np.arange(batch) % 2, -1.0, 1.0)[:, None]
    return {
        "policy_log_probs": x, "old_log_probs": (x + spread * rng.standard_normal((batch, seq))).astype(np.float32),
        "advantages": (signs * (0.3 + rng.random((batch, 1)))).astype(np.float32), "raw_rewards": rng.random((batch, 1)).astype(np.float32),
    }  # fmt: skip


def tokens(kind: str, b: dict[str, np.ndarray], clip: float) -> tuple[np.ndarray, np.ndarray]:
    """(loss, its derivative with respect to the log-prob) of each token, by the formulas."""
    x, old = b["policy_log_probs"].astype(np.float64), b["old_log_probs"].astype(np.float64)
    a = (b["raw_rewards"] if kind == "no_baseline" else b["advantages"]).astype(np.float64)
    loss, slope = np.zeros(x.shape), np.zeros(x.shape)
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            if kind != "grpo_clip":
                loss[i, t], slope[i, t] = -a[i, 0] * x[i, t], -a[i, 0]
                continue
            w = math.exp(x[i, t] - old[i, t])
            clipped = min(max(w, 1 - clip), 1 + clip)
            loss[i, t] = -min(w * a[i, 0], clipped * a[i, 0])
            slope[i, t] = -a[i, 0] * w if w * a[i, 0] <= clipped * a[i, 0] else 0.0
    return loss, slope


def _loss_case(rng: Rng, id: str, property: str, function: str, kind: str, b: dict[str, np.ndarray], arguments: dict[str, Any],
               clip: float = 0.2, with_metadata: bool = True) -> Case:  # fmt: skip
    """A case of a loss per token with its gradient."""
    weight = rng.standard_normal(b["policy_log_probs"].shape).astype(np.float32)

    def judge(answer: Answer) -> str | None:
        loss, slope = tokens(kind, b, clip)
        wrong = difference(answer.get("value"), loss, atol=1e-5, rtol=1e-4, what="the loss")
        if wrong is None and answer.get("gradient") is None:
            wrong = "the loss carries no gradient to the policy"
        return wrong or difference(answer["gradient"], slope * weight, atol=1e-5, rtol=1e-3, what="the gradient")

    inputs = {"function": function, "policy_log_probs": b["policy_log_probs"], "arguments": arguments, "weight": weight,
              "with_metadata": with_metadata}  # fmt: skip
    return Case(id, property, "surrogate", inputs, judge)


def compute_naive_policy_gradient_loss(rng: Rng) -> list[Case]:
    def case(id: str, property: str, batch: int, seq: int) -> Case:
        b = draw_batch(rng, batch, seq)
        arguments = {"raw_rewards_or_advantages": b["advantages"]}
        return _loss_case(
            rng, id, property, "run_compute_naive_policy_gradient_loss", "reinforce", b, arguments, with_metadata=False
        )

    return [
        case("plain", "minus the advantage of the row times the log-prob, token by token", 4, 6),
        case("square", "one advantage per row, not per column", 5, 5),
        case("one-row", "one row", 1, 7),
        case("one-token", "one token", 3, 1),
    ]


def compute_grpo_clip_loss(rng: Rng) -> list[Case]:
    def case(id: str, property: str, batch: int, seq: int, clip: float, spread: float) -> Case:
        b = draw_batch(rng, batch, seq, spread)
        arguments = {"advantages": b["advantages"], "old_log_probs": b["old_log_probs"], "cliprange": clip}
        return _loss_case(rng, id, property, "run_compute_grpo_clip_loss", "grpo_clip", b, arguments, clip)

    return [
        case("plain", "-min(w A, clip(w, 1 - e, 1 + e) A) with w = exp(new - old)", 4, 7, 0.2, 0.5),
        case("narrow", "nearly all ratios are clipped", 4, 8, 0.02, 0.5),
        case("wide", "few are", 3, 6, 0.7, 0.3),
        case("far", "ratios far from 1", 4, 6, 0.1, 2.0),
        case("square", "one advantage per row, not per column", 6, 6, 0.2, 0.5),
    ]


def compute_policy_gradient_loss(rng: Rng) -> list[Case]:
    def case(kind: str, property: str, batch: int, seq: int, **given: Any) -> Case:
        b = draw_batch(rng, batch, seq)
        arguments = {"loss_type": kind, **{name: b[name] if value is ... else value for name, value in given.items()}}
        id = f"{kind.replace('_', '-')}-{seq}"
        return _loss_case(rng, id, property, "run_compute_policy_gradient_loss", kind, b, arguments, 0.15)

    everything = {"raw_rewards": ..., "advantages": ..., "old_log_probs": ..., "cliprange": 0.15}
    return [
        case("no_baseline", "raw rewards, though advantages are given", 3, 5, **everything),
        case("reinforce_with_baseline", "advantages, though raw rewards are given", 3, 6, **everything),
        case("grpo_clip", "the clipped loss of advantages", 4, 7, **everything),
        case(
            "no_baseline",
            "only what it needs",
            2,
            4,
            raw_rewards=...,
            advantages=None,
            old_log_probs=None,
            cliprange=None,
        ),
        case(
            "reinforce_with_baseline",
            "only what it needs",
            2,
            3,
            raw_rewards=None,
            advantages=...,
            old_log_probs=None,
            cliprange=None,
        ),
        case(
            "grpo_clip", "only what it needs", 4, 8, raw_rewards=None, advantages=..., old_log_probs=..., cliprange=0.15
        ),
    ]


def grpo_microbatch_train_step(rng: Rng) -> list[Case]:
    def case(id: str, property: str, kind: str, batch: int, seq: int, steps: int, count: int = 1) -> Case:
        b, mask = draw_batch(rng, batch, seq), rng.random((batch, seq)) > 0.5
        mask[:, 0], mask[0, 1:] = True, False
        mask[-1, 1:3] = True  # rows of different length
        loss, slope = tokens(kind, b, 0.1)
        share = mask / mask.sum(axis=1, keepdims=True) / batch / steps
        arguments = {
            "response_mask": mask, "gradient_accumulation_steps": steps, "loss_type": kind, "cliprange": 0.1,
            **{name: b[name] for name in ("raw_rewards", "advantages", "old_log_probs")},
        }  # fmt: skip
        return microbatch(
            id,
            property,
            "run_grpo_microbatch_train_step",
            b["policy_log_probs"],
            arguments,
            float((loss * share).sum()),
            slope * share,
            count,
        )

    return [
        case("no-baseline", "mean over the tokens of a row, then over rows", "no_baseline", 3, 6, 1),
        case("baseline", "the loss type asked for", "reinforce_with_baseline", 2, 5, 2),
        case("clip", "the clipped loss", "grpo_clip", 4, 7, 3),
        case("one-row", "one row", "grpo_clip", 1, 6, 2),
        case("several", "gradients of several microbatches add up", "reinforce_with_baseline", 3, 5, 4, count=3),
    ]
