"""Expert iteration: sample, keep what is right, imitate it, repeat.

    for each round:   G responses to each of B problems -> those with reward 1, each text once per problem -> SFT on them

Rejection fine-tuning is one round of it. Compared with a policy gradient there is no negative example, and within a
round the data do not follow the policy; in exchange it is nothing but SFT. The handout asks for min_tokens 4 so that
empty responses cannot give NaN; here the end-of-text token is always part of what is imitated.

Handout (2025): expert_iteration_experiment. Source: Anthony et al. 2017 (1705.08439); Zelikman et al. 2022 (STaR,
2203.14465). Read next: `grpo.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from cs336_alignment.grpo import make_sampler
from cs336_alignment.rollout_batch import PromptStream
from cs336_alignment.rollouts import Rollout, Sampler, task_params
from cs336_alignment.sft import SftConfig, SftTrainer
from cs336_alignment.task import Example, Task
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_basics.optimizers.build import build_optimizer
from cs336_basics.training_config import OptimizerConfig


def expert_optimizer() -> OptimizerConfig:
    """AdamW at a constant rate, begun anew in each round."""
    return OptimizerConfig(
        max_learning_rate=5e-4, schedule="constant", warmup_steps=5, betas=(0.9, 0.95), weight_decay=0.0
    )


@dataclass(frozen=True)
class ExpertIterationConfig:
    """One run of expert iteration."""

    num_steps: int = 5
    """rounds"""
    prompts_per_round: int = 512
    """problems of a round"""
    samples: int = 4
    """responses per problem"""
    sft: SftConfig = field(default_factory=lambda: SftConfig(num_steps=30, optimizer=expert_optimizer()))
    """the imitation of a round"""
    temperature: float = 1.0
    """of sampling"""
    eval_every: int = 1
    """rounds between greedy evaluations on part of the test split"""
    eval_examples: int = 256
    """size of that part; the last evaluation takes all"""
    checkpoint_every: int = 1
    """rounds between checkpoints"""
    seed: int = 0
    """of problems and samples"""

    def __post_init__(self) -> None:
        for name in ("num_steps", "prompts_per_round", "samples", "eval_every", "eval_examples", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive; got {self.temperature}")


class ExpertIterationTrainer:
    """A step is a round; see the module docstring."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, task: Task, config: ExpertIterationConfig, *,
        sampler: Sampler | None = None,
    ):  # fmt: skip
        self.model, self.task, self.config, self.text = model, task, config, TextTokenizer(tokenizer)
        self.sampler = make_sampler(model, self.text) if sampler is None else sampler
        self.prompts = PromptStream(task.examples("rl", config.seed), config.seed)
        self.optimizer = build_optimizer(config.sft.optimizer, model.named_parameters())  # each round makes its own
        self.steps_done = 0

    def step(self) -> dict[str, float]:
        """One round; returns what there is to log.

        Raises:
            ValueError: not one response is right, so there is nothing to imitate.
        """
        config = self.config
        examples = self.prompts.take(config.prompts_per_round)
        seed = int(np.random.SeedSequence([config.seed, self.steps_done]).generate_state(1)[0])
        params = task_params(self.task, self.text.eos_id, n=config.samples, seed=seed, temperature=config.temperature)
        sampled = self.sampler.generate([e.prompt for e in examples], params)
        kept = right_responses(self.task, examples, sampled)
        if not kept:
            raise ValueError(
                f"none of {len(examples) * config.samples} responses is right in round {self.steps_done + 1}; begin "
                "with a better model (SFT), or sample more"
            )
        learner = SftTrainer(self.model, self.text, kept, replace(config.sft, seed=seed))
        losses = [learner.step()["loss"] for _ in range(config.sft.num_steps)]
        self.sampler.sync_weights(self.model)
        self.steps_done += 1
        rollouts = [rollout for group in sampled for rollout in group]
        tokens = sum(len(rollout.ids) for rollout in rollouts)
        return {
            "step": self.steps_done, "kept": len(kept), "solved": len({e.prompt for e in kept}) / len(examples),
            "mean_reward": _mean_reward(self.task, examples, sampled), "loss": losses[-1],
            "length": tokens / len(rollouts),
            "entropy": -sum(sum(rollout.logprobs) for rollout in rollouts) / max(1, tokens),
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the weights."""
        return {"steps": self.steps_done, "position": self.prompts.position}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.steps_done, self.prompts.position = int(state["steps"]), int(state["position"])


def right_responses(task: Task, examples: Sequence[Example], sampled: Sequence[Sequence[Rollout]]) -> list[Example]:
    """The finished responses with the whole reward, as examples to imitate; each text once per problem."""
    kept = []
    for example, rollouts in zip(examples, sampled, strict=True):
        texts = dict.fromkeys(r.text for r in rollouts if r.finish_reason == "stop" and r.text)
        kept += [
            Example(example.prompt, example.answer, text)
            for text in texts
            if task.reward(text, example.answer)["reward"] >= 1
        ]
    return kept


def _mean_reward(task: Task, examples: Sequence[Example], sampled: Sequence[Sequence[Rollout]]) -> float:
    rewards = [
        task.reward(r.text, e.answer)["reward"] for e, group in zip(examples, sampled, strict=True) for r in group
    ]
    return sum(rewards) / len(rewards)
