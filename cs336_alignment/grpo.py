"""The trainer of GRPO and its relatives: rollouts with the present weights, then updates on them.

    for each step:
        sample groups and score them (`rollout_batch.py`)
        old log-probs: a forward pass of the trainer before the first update, where any method asks for them
        for each minibatch: loss of `policy_gradient.py` (+ beta KL) over microbatches, clip, update

The sampler's log-probs are not taken as the old ones: they come from other code and differ in the last digits, which
`sampler_ratio_cap` corrects for if it should matter. With one update per step the old policy is the present one, and
no pass is spent on it. Rows without advantage are never computed unless a divergence is to be.

A run is a function of model, task and config: prompts, samples and minibatches follow from (seed, step), so that a run
that was interrupted goes on as if it had not been.

Handout: grpo_train_loop, grpo_train_step. Source: Shao et al. 2024 (2402.03300); others in `policy_gradient.py`. Left
out: several devices. Read next: `expert_iteration.py`, `ppo.py`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cs336_alignment.grpo_config import GrpoConfig
from cs336_alignment.grpo_step import TokenReport, take_rows, update
from cs336_alignment.kl_divergence import kl_divergence
from cs336_alignment.policy_gradient import (
    aggregate_loss_across_microbatch,
    compute_policy_gradient_loss,
    truncated_importance_weights,
)
from cs336_alignment.response_log_probs import score_responses
from cs336_alignment.rollout_batch import Group, PromptStream, RolloutBatch, collect_groups, make_batch
from cs336_alignment.rollouts import Sampler
from cs336_alignment.task import Task
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_basics.optimizers.build import build_optimizer


class GrpoTrainer:
    """See the module docstring.

    Args:
        model: any causal model (`response_log_probs.logits_of`), on the device where it is to be trained; it is put
            into training mode.
        tokenizer: ours or one of Hugging Face.
        task: its rl split is practised on.
        config: see `grpo_config.py`.
        sampler: samples from this model; lockstep decoding by default.
        reference: the model that the divergence is measured from; needed if config.kl_coefficient > 0.

    Raises:
        ValueError: a divergence without reference.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        task: Task,
        config: GrpoConfig,
        *,
        sampler: Sampler | None = None,
        reference: nn.Module | None = None,
    ):
        if config.kl_coefficient > 0 and reference is None:
            raise ValueError("kl_coefficient > 0 needs a reference: a copy of the model as it was at the start")
        self.model, self.task, self.config, self.reference = model, task, config, reference
        self.text = TextTokenizer(tokenizer)
        self.sampler = make_sampler(model, self.text) if sampler is None else sampler
        self.device = next(model.parameters()).device
        self.optimizer = build_optimizer(config.optimizer, model.named_parameters())
        self.prompts = PromptStream(task.examples("rl", config.seed), config.seed)
        self.steps_done, self.updates_done = 0, 0
        self.last_groups: list[Group] = []

    def step(self) -> dict[str, float]:
        """One round of rollouts and its updates; returns what there is to log."""
        started = time.perf_counter()
        self.last_groups = collect_groups(
            self.sampler, self.task, self.prompts, self.config, eos_id=self.text.eos_id, step=self.steps_done
        )
        batch = make_batch(self.last_groups, self.config, self.text, self.device)
        sampled = time.perf_counter()
        record = dict(batch.statistics)
        record |= self.train_on(batch)
        self.sampler.sync_weights(self.model)
        self.steps_done += 1
        trained = time.perf_counter()
        tokens = batch.tokens["response_mask"].sum().item()
        return {
            "step": self.steps_done, **record, "seconds_sampling": sampled - started,
            "seconds_training": trained - sampled, "tokens_per_second": tokens / (trained - started),
        }  # fmt: skip

    def train_on(self, batch: RolloutBatch) -> dict[str, float]:
        """All updates on one round of rollouts; returns their means."""
        config = self.config
        self.model.train()
        fixed = self._fixed_scores(batch)
        sums: defaultdict[str, float] = defaultdict(float)
        for _ in range(config.epochs_per_rollout):
            for rows in self._minibatches(len(batch.advantages)):
                for name, value in self._update(batch, rows, fixed).items():
                    sums[name] += value
        return {name: value / config.updates_per_step for name, value in sums.items()}

    def _fixed_scores(self, batch: RolloutBatch) -> dict[str, Tensor]:
        """Log-probs that stay during the updates: those of the old policy and of the reference."""
        config, fixed = self.config, {}
        if config.updates_per_step > 1 or config.sampler_ratio_cap is not None:
            fixed["old"] = self._log_probs(self.model, batch)
        if self.reference is not None and config.kl_coefficient > 0:
            fixed["reference"] = self._log_probs(self.reference, batch)
        return fixed

    @torch.no_grad()
    def _log_probs(self, model: nn.Module, batch: RolloutBatch) -> Tensor:
        found = torch.zeros_like(batch.sampler_log_probs)
        for rows in self._microbatches(batch, torch.arange(len(found), device=self.device)):
            part = take_rows(batch.tokens, rows)
            scores = score_responses(model, part, temperature=self.config.temperature)
            found[rows, : part["input_ids"].shape[1]] = scores["log_probs"].to(found.dtype)
        return found

    def _minibatches(self, rows: int) -> Iterator[Tensor]:
        """The rows of each update: all of them, or an equal share in an order of its own."""
        order = torch.arange(rows)
        if self.config.minibatches > 1:
            rng = np.random.default_rng([self.config.seed, self.steps_done, self.updates_done])
            order = torch.from_numpy(rng.permutation(rows))
        yield from order.to(self.device).tensor_split(self.config.minibatches)

    def _microbatches(self, batch: RolloutBatch, rows: Tensor) -> Iterator[Tensor]:
        """Rows of similar length together, as many as microbatch_tokens allow."""
        mask = batch.tokens["response_mask"][rows]
        places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        widths = (mask * places).amax(dim=1)
        order = widths.argsort(stable=True)
        start = 0
        while start < len(rows):
            count = max(1, self.config.microbatch_tokens // max(1, int(widths[order[start]])))
            while count > 1 and count * int(widths[order[min(start + count, len(rows)) - 1]]) > (
                self.config.microbatch_tokens
            ):
                count = max(1, count * 9 // 10)
            yield rows[order[start : start + count]]
            start += count

    def _update(self, batch: RolloutBatch, rows: Tensor, fixed: dict[str, Tensor]) -> dict[str, float]:
        """One optimizer step on some rows; the loss is the same however they are cut into microbatches."""
        mask = batch.tokens["response_mask"][rows]
        useful = mask.any(dim=1) & ((batch.advantages[rows] != 0) | ("reference" in fixed))
        report, total = TokenReport(), 0.0
        for part in self._microbatches(batch, rows[useful]) if useful.any() else ():
            loss = self._loss(batch, part, fixed, report, rows=len(rows), tokens=int(mask.sum()))
            loss.backward()
            total += loss.item()
        record = {"loss": total, **report.means()}
        rate = self.config.optimizer.learning_rate(
            self.updates_done, self.config.num_steps * self.config.updates_per_step
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if useful.any():
            record["grad_norm"] = update(self.model, self.optimizer, self.config.optimizer.max_grad_norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.updates_done += 1
        return record | {"learning_rate": rate}

    def _loss(
        self,
        batch: RolloutBatch,
        part: Tensor,
        fixed: dict[str, Tensor],
        report: TokenReport,
        *,
        rows: int,
        tokens: int,
    ) -> Tensor:
        """Share of a microbatch in the loss of an update with so many rows and response tokens."""
        config, taken = self.config, take_rows(batch.tokens, part)
        width, mask = taken["input_ids"].shape[1], taken["response_mask"]
        scores = score_responses(self.model, taken, temperature=config.temperature, with_entropy=True)
        log_probs = scores["log_probs"]
        old = fixed["old"][part, :width] if "old" in fixed else log_probs.detach()
        losses, details = compute_policy_gradient_loss(
            batch.advantages[part], log_probs, config.importance, old, config.cliprange, mask,
            cliprange_high=config.cliprange_high, ratio_cap=config.ratio_cap,
        )  # fmt: skip
        if config.sampler_ratio_cap is not None:
            sampled = batch.sampler_log_probs[part, :width]
            losses = losses * truncated_importance_weights(old, sampled, cap=config.sampler_ratio_cap)
        if "reference" in fixed:
            kl = kl_divergence(log_probs, fixed["reference"][part, :width], config.kl_estimator)
            losses, details = losses + config.kl_coefficient * kl, details | {"kl": kl}
        report.add(mask, {"entropy": scores["token_entropy"], **details})
        if config.loss_normalization == "sequence":
            return aggregate_loss_across_microbatch(losses, mask) * len(part) / rows
        constant = tokens if config.loss_normalization == "token" else rows * self._tokens_per_response()
        return aggregate_loss_across_microbatch(losses, mask, "constant", constant)

    def _tokens_per_response(self) -> float:
        longest = self.task.max_tokens if self.config.max_tokens is None else self.config.max_tokens
        return float(longest) if self.config.normalization_constant is None else self.config.normalization_constant

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the model's and the optimizer's weights."""
        return {"steps": self.steps_done, "updates": self.updates_done, "position": self.prompts.position}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.steps_done, self.updates_done = int(state["steps"]), int(state["updates"])
        self.prompts.position = int(state["position"])


def make_sampler(model: Any, tokenizer: Any) -> Sampler:
    """Lockstep decoding for our models, `generate` of transformers for others."""
    if hasattr(model, "new_cache"):
        from cs336_alignment.lockstep import LockstepSampler

        return LockstepSampler(model, tokenizer)
    from cs336_alignment.huggingface_sampler import HuggingFaceSampler

    return HuggingFaceSampler(model, tokenizer)
