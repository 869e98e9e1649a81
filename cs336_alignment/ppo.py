"""PPO with a value function: an advantage for each token instead of one for the whole response.

    delta_t = r_t + gamma V_{t+1} - V_t            V behind the last token is 0
    A_t     = sum_l (gamma lambda)^l delta_{t+l}   generalised advantage estimation, Schulman et al. 2015 (1506.02438)
    policy  = -min(w_t A_t, clip(w_t, 1 +- eps) A_t)
    value   = (V_t - (A_t + V_t at rollout))^2 / 2

The reward stands at the last token; each token also pays kl_coefficient times k1 to a reference where there is one.
With lambda = gamma = 1 and V = 0 this is REINFORCE; GRPO is what remains when the group's mean takes V's place.

Source: Schulman et al. 2017 (1707.06347). Left out: clipping of the value loss, adaptive KL. Read next: `cli.py`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cs336_alignment.grpo import make_sampler
from cs336_alignment.grpo_config import GrpoConfig, rl_optimizer
from cs336_alignment.grpo_step import TokenReport, update
from cs336_alignment.kl_divergence import kl_divergence
from cs336_alignment.policy_gradient import aggregate_loss_across_microbatch, compute_policy_gradient_loss
from cs336_alignment.response_log_probs import score_responses
from cs336_alignment.rollout_batch import Group, PromptStream, collect_groups, make_batch
from cs336_alignment.rollouts import Sampler
from cs336_alignment.scalar_head import ScalarHead
from cs336_alignment.sft import clone_model
from cs336_alignment.task import Task
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_basics.optimizers.build import build_optimizer
from cs336_basics.training_config import OptimizerConfig


@dataclass(frozen=True)
class PpoConfig:
    """One run of PPO."""

    num_steps: int = 200
    """rounds of rollouts"""
    prompts_per_step: int = 256
    """problems of a round, one response each"""
    epochs_per_rollout: int = 2
    """passes over a round"""
    minibatches: int = 2
    """updates per pass"""
    cliprange: float = 0.2
    """half-width of the clip"""
    gamma: float = 1.0
    """discount per token"""
    gae_lambda: float = 0.95
    """between one-step errors (0) and whole returns (1)"""
    value_coefficient: float = 0.5
    """weight of the value loss"""
    kl_coefficient: float = 0.0
    """per-token price of the divergence from the initial model"""
    max_tokens: int | None = None
    """longest response; the task's by default"""
    optimizer: OptimizerConfig = field(default_factory=rl_optimizer)
    """of policy and value function"""
    eval_every: int = 25
    """steps between greedy evaluations on part of the test split"""
    eval_examples: int = 256
    """size of that part; the last evaluation takes all"""
    sample_every: int = 25
    """steps between transcripts in samples.jsonl"""
    checkpoint_every: int = 50
    """steps between checkpoints"""
    seed: int = 0
    """of problems, samples and minibatches"""

    def __post_init__(self) -> None:
        for name in ("num_steps", "prompts_per_step", "epochs_per_rollout", "minibatches", "eval_every",
                     "eval_examples", "sample_every", "checkpoint_every"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1]; got {getattr(self, name)}")
        if self.value_coefficient < 0 or self.kl_coefficient < 0 or not self.cliprange > 0:
            raise ValueError("value_coefficient and kl_coefficient must not be negative, and cliprange positive; got "
                             f"{self.value_coefficient}, {self.kl_coefficient} and {self.cliprange}")  # fmt: skip

    def sampling(self) -> GrpoConfig:
        """How rollouts are collected: groups of one."""
        return GrpoConfig(
            num_steps=self.num_steps, prompts_per_step=self.prompts_per_step, group_size=1, baseline="none",
            max_tokens=self.max_tokens, seed=self.seed,
        )  # fmt: skip


def generalized_advantages(
    rewards: Float[Tensor, "batch seq"],
    values: Float[Tensor, "batch seq"],
    mask: Bool[Tensor, "batch seq"],
    *,
    gamma: float,
    gae_lambda: float,
) -> Float[Tensor, "batch seq"]:
    """A_t of each response token, zero elsewhere; a row's True entries are one run."""
    advantages = torch.zeros_like(values)
    running = next_value = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = torch.where(mask[:, t], delta + gamma * gae_lambda * running, 0.0)
        next_value = torch.where(mask[:, t], values[:, t], 0.0)
        advantages[:, t] = running
    return advantages


class _ActorCritic(nn.Module):
    """Policy and value function as one module, so that one optimizer and one checkpoint hold both."""

    def __init__(self, policy: nn.Module):
        super().__init__()
        self.policy = policy
        self.value = ScalarHead(clone_model(policy).requires_grad_(True))


class PpoTrainer:
    """Trains a policy and a value function that begins as a copy of it; see the module docstring."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, task: Task, config: PpoConfig, *,
        sampler: Sampler | None = None, reference: nn.Module | None = None,
    ):  # fmt: skip
        if config.kl_coefficient > 0 and reference is None:
            raise ValueError("kl_coefficient > 0 needs a reference: a copy of the model as it was at the start")
        self.policy, self.task, self.config, self.reference = model, task, config, reference
        self.model = _ActorCritic(model)
        self.text = TextTokenizer(tokenizer)
        self.device = next(model.parameters()).device
        self.sampler = make_sampler(model, self.text) if sampler is None else sampler
        named = [(name, p) for name, p in self.model.named_parameters() if "value.body.lm_head" not in name]
        self.optimizer = build_optimizer(config.optimizer, named)
        self.prompts = PromptStream(task.examples("rl", config.seed), config.seed)
        self.steps_done, self.updates_done = 0, 0
        self.last_groups: list[Group] = []

    def step(self) -> dict[str, float]:
        """One round of rollouts and its updates; returns what there is to log."""
        config = self.config
        self.last_groups = collect_groups(
            self.sampler, self.task, self.prompts, config.sampling(), eos_id=self.text.eos_id, step=self.steps_done
        )
        batch = make_batch(self.last_groups, config.sampling(), self.text, self.device)
        self.model.train()
        fixed = self._fixed(batch.tokens, batch.advantages)
        sums: Counter[str] = Counter()
        rng = np.random.default_rng([config.seed, self.steps_done])
        for _ in range(config.epochs_per_rollout):
            order = torch.from_numpy(rng.permutation(len(batch.advantages))).to(self.device)
            for rows in order.tensor_split(config.minibatches):
                sums.update(self._update({name: tensor[rows] for name, tensor in fixed.items()}))
        self.sampler.sync_weights(self.policy)
        self.steps_done += 1
        updates = config.epochs_per_rollout * config.minibatches
        means = {name: total / updates for name, total in sums.items()}
        return {"step": self.steps_done, **batch.statistics, **means}

    @torch.no_grad()
    def _fixed(self, tokens: dict[str, Tensor], rewards: Tensor) -> dict[str, Tensor]:
        """What stays during the updates: tokens, old log-probs, advantages and returns."""
        mask = tokens["response_mask"]
        old = score_responses(self.policy, tokens)["log_probs"]
        values = self.model.value(tokens["input_ids"])
        places = torch.arange(mask.shape[1], device=self.device)
        last = (mask * places).amax(dim=1, keepdim=True)
        paid = torch.zeros_like(values).scatter(1, last, rewards[:, None].float()) * mask
        if self.reference is not None and self.config.kl_coefficient > 0:
            reference = score_responses(self.reference, tokens)["log_probs"]
            paid = paid - self.config.kl_coefficient * kl_divergence(old, reference, "k1") * mask
        advantages = generalized_advantages(
            paid, values, mask, gamma=self.config.gamma, gae_lambda=self.config.gae_lambda
        )
        returns = advantages + values
        chosen = advantages[mask]
        advantages = (advantages - chosen.mean()) / (chosen.std() + 1e-6)
        return {**tokens, "old": old, "advantages": advantages, "returns": returns}

    def _update(self, part: dict[str, Tensor]) -> dict[str, float]:
        config, mask, report = self.config, part["response_mask"], TokenReport()
        scores = score_responses(self.policy, part, with_entropy=True)
        losses, details = compute_policy_gradient_loss(
            part["advantages"], scores["log_probs"], "grpo", part["old"], config.cliprange, mask
        )
        values = self.model.value(part["input_ids"])
        value_losses = (values - part["returns"]).square() / 2
        total = losses + config.value_coefficient * value_losses
        loss = aggregate_loss_across_microbatch(total, mask, "constant", float(mask.sum().clamp(min=1)))
        loss.backward()
        rate = config.optimizer.learning_rate(
            self.updates_done, config.num_steps * config.epochs_per_rollout * config.minibatches
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        norm = update(self.model, self.optimizer, config.optimizer.max_grad_norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.updates_done += 1
        report.add(mask, {"entropy": scores["token_entropy"], "value_loss": value_losses, **details})
        return {"loss": loss.item(), **report.means(), "grad_norm": norm, "learning_rate": rate}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the weights."""
        return {"steps": self.steps_done, "updates": self.updates_done, "position": self.prompts.position}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.steps_done, self.updates_done = int(state["steps"]), int(state["updates"])
        self.prompts.position = int(state["position"])
