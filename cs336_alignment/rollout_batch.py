"""A round of rollouts with their rewards and advantages, from which a policy is updated.

    prompts -> sampler (n = group size) -> rewards (task, or a coin) -> penalty for length -> whole groups -> advantages

Read next: `grpo.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cs336_alignment.advantages import compute_group_normalized_rewards
from cs336_alignment.grpo_config import GrpoConfig
from cs336_alignment.response_tokens import align_right_padded, pad_pairs
from cs336_alignment.rollouts import Rollout, Sampler, task_params
from cs336_alignment.task import Example, Task
from cs336_alignment.text_tokenizer import TextTokenizer


@dataclass(frozen=True)
class Group:
    """The responses to one prompt and their scores."""

    example: Example
    rollouts: list[Rollout]
    scores: list[dict[str, float]]
    rewards: list[float]
    """what is optimised: the task's reward less the penalty for length, or a coin"""

    @property
    def has_spread(self) -> bool:
        """Whether the rewards differ."""
        return len(set(self.rewards)) > 1


class PromptStream:
    """The examples in an order that is new in every epoch; `position` is all its state."""

    def __init__(self, examples: Sequence[Example], seed: int):
        if not examples:
            raise ValueError("the rl split is empty; give the task more problems")
        self.examples, self.seed, self.position = examples, seed, 0

    def take(self, count: int) -> list[Example]:
        """The next `count` examples."""
        taken = [self._at(self.position + i) for i in range(count)]
        self.position += count
        return taken

    def _at(self, position: int) -> Example:
        epoch, place = divmod(position, len(self.examples))
        if getattr(self, "_epoch", None) != epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.examples))
        return self.examples[self._order[place]]


def collect_groups(
    sampler: Sampler, task: Task, prompts: PromptStream, config: GrpoConfig, *, eos_id: int, step: int
) -> list[Group]:
    """prompts_per_step groups; with dynamic sampling those without spread are replaced while rounds are left."""
    kept: list[Group] = []
    for sampling_round in range(config.dynamic_sampling_rounds + 1):
        missing = config.prompts_per_step - sum(group.has_spread for group in kept)
        if sampling_round and not missing:
            break
        new = _sample(sampler, task, prompts.take(missing), config, eos_id, (config.seed, step, sampling_round))
        kept = sorted(kept + new, key=lambda group: not group.has_spread)[: config.prompts_per_step]
    return kept


def _sample(
    sampler: Sampler, task: Task, examples: list[Example], config: GrpoConfig, eos_id: int, seeds: tuple[int, ...]
) -> list[Group]:
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    changes = {} if config.max_tokens is None else {"max_tokens": config.max_tokens}
    params = task_params(
        task, eos_id, n=config.group_size, seed=seed, temperature=config.temperature, top_k=config.top_k,
        top_p=config.top_p, **changes,
    )  # fmt: skip
    groups = []
    coins = np.random.default_rng([*seeds, 1])
    sampled = sampler.generate([example.prompt for example in examples], params)
    for example, rollouts in zip(examples, sampled, strict=True):
        scores = [task.reward(rollout.text, example.answer) for rollout in rollouts]
        rewards = [score["reward"] for score in scores]
        if config.random_reward:
            rewards = coins.integers(0, 2, size=len(rollouts)).astype(float).tolist()
        penalties = [overlong_penalty(len(r.ids), params.max_tokens, config.overlong_buffer) for r in rollouts]
        groups.append(Group(example, rollouts, scores, [r - p for r, p in zip(rewards, penalties, strict=True)]))
    return groups


def overlong_penalty(length: int, max_tokens: int, buffer: int) -> float:
    """0 up to max_tokens - buffer, then linear to 1 at max_tokens (DAPO, equation 13); 0 without a buffer."""
    return 0.0 if buffer == 0 else min(1.0, max(0.0, (length - (max_tokens - buffer)) / buffer))


@dataclass(frozen=True)
class RolloutBatch:
    """All rollouts of a round as tensors, one row each; right-padded."""

    tokens: dict[str, Tensor]
    """input_ids, labels, response_mask"""
    advantages: Tensor
    sampler_log_probs: Tensor
    """of the sampled tokens, zero elsewhere, (rows, seq)"""
    statistics: dict[str, float]


def make_batch(groups: Sequence[Group], config: GrpoConfig, text: TextTokenizer, device: torch.device) -> RolloutBatch:
    """Pad the groups' rollouts and compute their advantages."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    tokens = pad_pairs([r.prompt_ids for r in rollouts], [r.ids for r in rollouts], text.pad_id)
    rewards = torch.tensor([reward for group in groups for reward in group.rewards])
    advantages, statistics = compute_group_normalized_rewards(
        rewards, config.group_size, config.baseline, config.advantage_eps, config.advantage_normalizer
    )
    sampled = align_right_padded([r.logprobs for r in rollouts], tokens["response_mask"])
    if config.mask_truncated:
        tokens["response_mask"][[r.finish_reason != "stop" for r in rollouts]] = False
    return RolloutBatch(
        {name: tensor.to(device) for name, tensor in tokens.items()}, advantages.to(device), sampled.to(device),
        statistics | _describe(groups, rollouts),
    )  # fmt: skip


def _describe(groups: Sequence[Group], rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Scores and lengths, for the log."""
    scores = [score for group in groups for score in group.scores]
    lengths = np.array([len(rollout.ids) for rollout in rollouts], dtype=float)
    right = np.array([score["reward"] > 0 for score in scores])
    means = {f"mean_{key}": sum(s[key] for s in scores) / len(scores)
             for key in ("reward", "format_reward", "answer_reward")}  # fmt: skip
    return means | {
        "pass_at_group": sum(any(s["reward"] > 0 for s in group.scores) for group in groups) / len(groups),
        "length": float(lengths.mean()),
        "length_right": float(lengths[right].mean()) if right.any() else 0.0,
        "length_wrong": float(lengths[~right].mean()) if not right.all() else 0.0,
        "truncated": sum(rollout.finish_reason != "stop" for rollout in rollouts) / len(rollouts),
        "response_tokens": float(lengths.sum()),
    }


def describe_groups(groups: Sequence[Group], step: int, *, count: int = 2, responses: int = 4) -> list[dict[str, Any]]:
    """Some of the last rollouts, as samples.jsonl has them."""
    return [
        {
            "step": step, "prompt": group.example.prompt, "answer": group.example.answer,
            "response": rollout.text, "reward": reward, **score, "tokens": len(rollout.ids),
            "finish_reason": rollout.finish_reason,
        }
        for group in groups[:count]
        for rollout, score, reward in list(zip(group.rollouts, group.scores, group.rewards, strict=True))[:responses]
    ]  # fmt: skip
